"""The plans of the scenarios beside single-stream: offline, sustained, and official runs driven by MLPerf's loadgen.

Part of the agent's protocol (protocol.py, which holds the job they stand in). Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SINGLE_STREAM, OFFLINE, SUSTAINED = "single-stream", "offline", "sustained"
SCENARIOS = (SINGLE_STREAM, OFFLINE, SUSTAINED)
# Who decides when an inference is asked for: the agent's own loop, or MLPerf's load generator.
HARNESS, LOADGEN = "harness", "loadgen"
DRIVERS = (HARNESS, LOADGEN)


@dataclass(frozen=True, slots=True)
class OfflinePlan:
    """How an offline run works. `order`: per interleaved round, the ids of all models in measured order.

    `batch` rows an inference (an artifact's own where its batch is fixed), `streams` inferences at once, each with `threads`
    of the job. Each visit re-warms every stream with `settle` batches, then keeps all busy until each has done
    `block_batches` and `block_s` have passed, no longer than `block_max_s`. Warm-up likewise. `tolerance`: how far outputs in
    a batch may lie from those of its rows one by one, relative to the largest output.
    """

    order: tuple[tuple[str, ...], ...]
    batch: int = 1
    streams: int = 1
    warmup_batches: int = 3
    warmup_s: float = 0.5
    warmup_max_s: float = 30.0
    settle: int = 1
    block_batches: int = 5
    block_s: float = 0.2
    block_max_s: float = 10.0
    tolerance: float = 0.05


@dataclass(frozen=True, slots=True)
class SustainedPlan:
    """How a sustained run works: `duration_s` of inferences without a pause, told in blocks of `interval_s`, of each at
    most `keep` samples sent home."""

    duration_s: float = 600.0
    interval_s: float = 1.0
    keep: int = 1000


@dataclass(frozen=True, slots=True)
class LoadgenPlan:
    """How MLPerf's loadgen drives a model. `scenario`: "single-stream" or "offline". `folder`: where on the device its logs go.

    `min_duration_s`, `min_queries` as in the rules of MLPerf Inference; `samples`: how many distinct inputs it asks for (the
    rows of the data where there are fewer). `batch`, `streams`: how the one query of the offline scenario is worked off.
    `accuracy`: also run accuracy mode.
    """

    folder: str
    scenario: str = SINGLE_STREAM
    min_duration_s: float = 60.0
    min_queries: int = 1024
    samples: int = 1024
    batch: int = 1
    streams: int = 1
    accuracy: bool = True


def offline_plan(data: dict[str, Any] | None) -> OfflinePlan | None:
    """An OfflinePlan from a job's JSON. Raises KeyError or TypeError."""
    return None if data is None else OfflinePlan(**{**data, "order": tuple(tuple(r) for r in data["order"])})


def sustained_plan(data: dict[str, Any] | None) -> SustainedPlan | None:
    """A SustainedPlan from a job's JSON. Raises TypeError."""
    return None if data is None else SustainedPlan(**data)


def loadgen_plan(data: dict[str, Any] | None) -> LoadgenPlan | None:
    """A LoadgenPlan from a job's JSON. Raises TypeError."""
    return None if data is None else LoadgenPlan(**data)
