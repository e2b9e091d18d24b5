"""What the sections of an experiment have in common: quantities with units, strictness, and how much is measured.

Under `harness.experiment` and `harness.search_section`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.plan import BUDGET_RUNS, PRESETS, MeasurementProtocol
from harness.scenario import problem
from harness.units import parse_duration_ns, parse_points, parse_share, parse_size_bytes


def _quantity(parse: Callable[[str], float]) -> BeforeValidator:
    """Text with a unit is parsed; a plain number is taken as the base unit only where the parser allows it."""

    def convert(value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return value
        return parse(str(value))

    return BeforeValidator(convert)


DurationNs = Annotated[float, _quantity(parse_duration_ns)]
SizeBytes = Annotated[int, _quantity(parse_size_bytes)]
# A plain number is seconds, as in the other keys that end in _s.
Seconds = Annotated[
    float, BeforeValidator(lambda value: parse_duration_ns(value) / 1e9 if isinstance(value, str) else value)
]
Points = Annotated[float, _quantity(parse_points)]
Share = Annotated[float, _quantity(parse_share)]


class Strict(BaseModel):
    """A section that knows its keys: any other is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProtocolSpec(Strict):
    """How much is measured: a preset, and what to change in it."""

    preset: Literal["quick", "standard", "headline", "certified"] = "standard"
    runs: int | None = Field(default=None, ge=1, description="Latency runs (fresh processes) per variant, at least.")
    max_runs: int | None = Field(default=None, ge=1, description="Latency runs at most, when intervals stay wide.")
    target: float | None = Field(
        default=None, gt=0, lt=1, description="Relative half-width of the interval to stop at."
    )
    budget_s: float | None = Field(default=None, gt=0, description="The same as `budget`, in seconds.")
    budget: Seconds | None = Field(
        default=None,
        gt=0,
        description="Device time for the whole session, e.g. 10m: runs are added where the uncertainty is until it is spent.",
    )
    stop_on: Literal["estimate", "verdict", "both"] | None = Field(
        default=None,
        description="What settles a variant: a narrow interval of its own (estimate), being faster, slower or equivalent "
        "compared with the fp32 variant of its format (verdict), or both.",
    )
    probes: int | None = Field(default=None, ge=1, description="Fresh processes per variant for cold start and memory.")
    warmup_s: float | None = Field(default=None, ge=0)
    warmup_samples: int | None = Field(default=None, ge=1)
    run_s: float | None = Field(default=None, gt=0, description="Measured seconds per variant and run.")
    run_samples: int | None = Field(default=None, ge=1, description="Samples per variant and run, at least.")
    rounds: int | None = Field(default=None, ge=1, description="Interleaved rounds per run.")
    settle: int | None = Field(
        default=None, ge=0, description="Unrecorded-in-results inferences after switching variants."
    )

    energy: bool | None = Field(default=None, description="Measure energy too, on devices with a power meter.")
    energy_idle_s: float | None = Field(
        default=None, ge=10, description="Seconds of idling before and after the work (30 by the rules)."
    )
    energy_window_s: float | None = Field(default=None, ge=10, description="Seconds of a window of work.")
    energy_windows: int | None = Field(default=None, ge=1, description="Windows of work per variant (5 by the rules).")
    energy_rate_hz: float | None = Field(default=None, gt=0, le=100, description="Readings of the meter per second.")

    scenario: Literal["single-stream", "offline", "sustained"] | None = Field(
        default=None,
        description="single-stream: latency, one inference after the other; offline: throughput, in batches and streams; "
        "sustained: minutes without a pause.",
    )
    batch: int | None = Field(default=None, ge=1, le=65536, description="Offline: rows of an inference.")
    streams: int | None = Field(
        default=None, ge=1, le=256, description="Offline: inferences at once, each with the experiment's threads."
    )
    duration_s: Seconds | None = Field(
        default=None, gt=0, description="Sustained: how long per variant, in seconds or with a unit: 600, 10m."
    )
    driver: Literal["harness", "loadgen"] | None = Field(
        default=None,
        description="loadgen: also official runs of MLPerf's load generator, where mlcommons-loadgen is installed.",
    )
    loadgen_s: float | None = Field(
        default=None, gt=0, description="Official runs: seconds at least (60 by MLPerf Mobile's rules)."
    )
    loadgen_queries: int | None = Field(
        default=None, ge=1, description="Official runs: queries at least (1,024; offline: 24,576 samples)."
    )

    def build(self) -> MeasurementProtocol:
        """The preset with the changes applied."""
        changes = {k: v for k, v in self.model_dump(exclude={"preset", "budget"}).items() if v is not None}
        if self.budget is not None:
            changes["budget_s"] = self.budget
        protocol = dataclasses.replace(PRESETS[self.preset], **changes)
        if "max_runs" not in changes:
            # Who gives a budget wants it to be the end, not the preset's number of runs.
            most = BUDGET_RUNS * protocol.runs if protocol.budget_s is not None else protocol.max_runs
            protocol = dataclasses.replace(protocol, max_runs=max(most, protocol.runs))
        return protocol

    @model_validator(mode="after")
    def _ordered(self) -> ProtocolSpec:
        if self.max_runs is not None and self.max_runs < (self.runs or PRESETS[self.preset].runs):
            raise ValueError("max_runs is smaller than runs")
        if self.budget is not None and self.budget_s is not None:
            raise ValueError("budget and budget_s are the same: give one of them")
        wrong = problem(self.build())
        if wrong is not None:
            raise ValueError(wrong)
        return self
