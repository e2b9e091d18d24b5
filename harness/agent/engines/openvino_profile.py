"""OpenVINO's performance counters: `get_profiling_info` after each inference → operators with their times.

Counters are switched on when a model is compiled (`PERF_COUNT`), so a profiled model is one of its own. A node says its time (of
the host's clock, whole µs), its kernel, and whether it ran at all: what was fused into another did not. Precision and the names of
the layers that a node stands for come from the compiled graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import Operator

METHOD = "OpenVINO's performance counters: time of each node that was executed"
_PRECISIONS = {"i8": "int8", "u8": "int8"}


@dataclass(frozen=True, slots=True)
class Counter:
    """One line of the counters: node, its type, kernel ("jit_avx2_f32"), time, and whether it was executed."""

    name: str
    type: str
    kernel: str
    real_ns: int
    executed: bool


def operators_of(runs: Sequence[Sequence[Counter]], nodes: Mapping[str, Mapping[str, str]]) -> list[Operator]:
    """Operators from the counters of each inference. `nodes`: runtime info of the compiled graph's nodes by name."""
    times: dict[str, list[int]] = {}
    first: dict[str, Counter] = {}
    for place, run in enumerate(runs):
        for counter in run:
            if counter.executed:
                first.setdefault(counter.name, counter)
                times.setdefault(counter.name, [0] * len(runs))[place] += counter.real_ns
    found = []
    for name, counter in first.items():
        info = nodes.get(name, {})
        precision = info.get("runtimePrecision")
        found.append(
            Operator(
                name=name,
                type=counter.type,
                times_ns=times[name],
                runner=counter.kernel,
                precision=None if precision is None else _PRECISIONS.get(precision, precision),
                outputs=tuple(part for part in info.get("originalLayersNames", "").split(",") if part),
            )
        )
    return found
