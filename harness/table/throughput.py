"""The throughput of one row, from its offline runs. Part of `harness.table`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.agent.scenarios import OFFLINE
from harness.collectors.throughput import Lap, laps_of
from harness.records import MEASURE, WARMUP, Run, SessionData
from harness.stats import drift, grade, quantiles, stopping
from harness.table.cells import Cell
from harness.table.nulls import latency_fields

FIELDS = ("throughput_per_s", "throughput_low_per_s", "throughput_high_per_s", "batch", "streams")
# What the sustained scenario gives, which is called a latency too.
SUSTAINED_FIELDS = ("latency_burst_ns", "latency_sustained_ns")
# Outputs of a batch that lie further than this from those of its rows one by one are worth a remark.
REMARKED_DEVIATION = 1e-3


@dataclass(frozen=True)
class RunLaps:
    """A variant's visits in one offline run."""

    run: Run
    variant: str

    @cached_property
    def laps(self) -> tuple[Lap, ...]:
        """All of them, the warm-up too."""
        return tuple(lap for lap in laps_of(self.run.sensors) if lap.variant == self.variant)

    @property
    def measured(self) -> tuple[Lap, ...]:
        """Those that count."""
        return tuple(lap for lap in self.laps if lap.phase == MEASURE)

    @cached_property
    def times_ns(self) -> dict[int, float]:
        """Interleaved round → ns that an inference took of the whole."""
        return {lap.index: 1e9 / lap.per_s for lap in self.measured}

    @property
    def time_ns(self) -> float:
        """Median over the visits, ns."""
        return float(np.median(list(self.times_ns.values())))


def offline_runs(cell: Cell) -> list[RunLaps]:
    """The runs in which the variant was visited at least once."""
    found = [RunLaps(run, cell.variant.name) for run in cell.offline]
    return [item for item in found if item.measured]


def throughput_figures(cell: Cell, data: SessionData, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Median over runs of each run's median over visits, with its interval over runs; or why there is none."""
    if data.session.protocol.get("scenario") != OFFLINE:
        reasons |= dict.fromkeys(FIELDS, "the scenario is not offline (--scenario offline)")
        return
    if cell.counted:
        reasons |= dict.fromkeys(FIELDS, "instructions were counted, time was not measured")
        return
    reasons |= dict.fromkeys(
        latency_fields(SUSTAINED_FIELDS), "the scenario is offline: throughput was measured instead"
    )
    runs = offline_runs(cell)
    if not runs:
        reasons |= dict.fromkeys(FIELDS, "no offline run of it ended")
        return
    middle = quantiles.median([1e9 / item.time_ns for item in runs])
    laps = [lap for item in runs for lap in item.measured]
    figures |= {
        "throughput_per_s": middle.value,
        "throughput_low_per_s": middle.low,
        "throughput_high_per_s": middle.high,
    }
    figures |= {"batch": laps[0].batch, "streams": laps[0].streams, "runs": len(runs)}
    figures["samples"] = sum(lap.inferences for lap in laps)
    if middle.reason is not None:
        reasons |= dict.fromkeys(("throughput_low_per_s", "throughput_high_per_s"), middle.reason)


def throughput_evidence(cell: Cell, evidence: grade.Evidence) -> grade.Evidence:
    """What the rules are held against in the offline scenario: the same rules, of visits in place of blocks of samples.

    Contention is not judged: CPU time tells of it only for one thread, and streams wait for each other by design.
    """
    runs = offline_runs(cell)
    if not runs:
        return evidence
    warm = [[lap for lap in item.laps if lap.phase == WARMUP] for item in runs]
    return dataclasses.replace(
        evidence,
        runs=len(runs),
        run_s=min(sum(lap.seconds for lap in item.measured) for item in runs),
        run_samples=min(sum(lap.inferences for lap in item.measured) for item in runs),
        warmup_s=min(sum(lap.seconds for lap in laps) for laps in warm),
        warmup_samples=min(sum(lap.inferences for lap in laps) for laps in warm),
        half_width=stopping.relative_half_width([item.time_ns for item in runs]),
        drift=_drift(runs),
        contention=None,
        remarks=(*evidence.remarks, *_remarks(cell)),
    )


def _drift(runs: list[RunLaps]) -> drift.Drift:
    laps = [(lap, number) for number, item in enumerate(runs) for lap in item.measured]
    laps.sort(key=lambda pair: pair[0].started_ns)
    times = [lap.started_ns / 1e9 for lap, _ in laps]
    return drift.analyse(times, [1e9 / lap.per_s for lap, _ in laps], [number for _, number in laps])


def _remarks(cell: Cell) -> Iterator[str]:
    facts = [load.facts for load in cell.loads if "batch_asked" in load.facts]
    fixed = next((f for f in facts if f["batch"] != f["batch_asked"]), None)
    if fixed is not None:
        yield (
            f"fixed batch: the artifact takes {fixed['batch']} at a time, so it was measured that way and not with "
            f"{fixed['batch_asked']}; convert it with a free batch dimension to change that"
        )
    far = max((f["batch_deviation"] for f in facts if f.get("batch_deviation") is not None), default=0.0)
    if far > REMARKED_DEVIATION:
        yield (
            f"in a batch its outputs differ by up to {far:.1%} of their range from those one by one: "
            "ranges found while running span the whole batch"
        )
