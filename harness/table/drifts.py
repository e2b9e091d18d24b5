"""Did a row's latency change while it was measured? Its blocks, put in time order, beside those of the variants of the same runs.

Between `harness.table.cells` and the row's evidence; `harness.stats.drift` has the tests.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from harness.agent.protocol import ENGINE_OF_FORMAT
from harness.stats import drift
from harness.table.cells import Cell, RunSamples
from harness.table.contention import Judged

Key = tuple[str, str]  # variant, device
Place = tuple[str, int]  # run, interleaved round
# Contention is told apart from drift by leaving contended blocks out of this question (not out of the figures), while
# at least this share of the blocks is quiet.
QUIET_ENOUGH = 0.5
# What marks a block as disturbed although it is just what this question asks for.
_DRIFT_ITSELF = {"heat"}


def _medians(cell: Cell, judged: Sequence[Sequence[Judged]]) -> dict[Place, float]:
    return {
        (samples.run.id, item.block.index): item.median_ns
        for samples, run in zip(cell.latency, judged, strict=True)
        for item in run
    }


def companions(rows: Sequence[tuple[Cell, Sequence[Sequence[Judged]]]]) -> dict[Key, list[dict[Place, float]]]:
    """(variant, device) → the block medians of every other variant of the same engine and device."""
    groups: dict[tuple[str, str], dict[Key, dict[Place, float]]] = defaultdict(dict)
    for cell, judged in rows:
        engine, medians = ENGINE_OF_FORMAT.get(cell.variant.format), _medians(cell, judged)
        if engine is not None and medians and min(medians.values()) > 0:
            groups[engine, cell.device.name][cell.variant.name, cell.device.name] = medians
    return {
        key: [other for name, other in members.items() if name != key] for members in groups.values() for key in members
    }


def drift_of(
    cell: Cell, judged: Sequence[Sequence[Judged]], beside: Sequence[Mapping[Place, float]] = ()
) -> drift.Drift | None:
    """What was found in the cell's blocks, alone and against the `companions`; None where it has none."""
    blocks = [
        (samples.run.id, number, item) for number, (samples, run) in enumerate(_runs(cell, judged)) for item in run
    ]
    if not blocks or min(item.median_ns for _, _, item in blocks) <= 0:
        return None
    times = [item.block.started_ns / 1e9 for _, _, item in blocks]
    if any(later <= earlier for earlier, later in itertools.pairwise(times)):
        # A reboot sets the device's clock back; then only the order is known.
        times = [float(position) for position in range(len(blocks))]
    quiet = [place for place, (_, _, item) in enumerate(blocks) if not set(item.causes or ()) - _DRIFT_ITSELF]
    kept = quiet if len(quiet) >= QUIET_ENOUGH * len(blocks) else list(range(len(blocks)))
    chosen = [(times[place], *blocks[place]) for place in kept]
    places = [(run, item.block.index) for _, run, _, item in chosen]
    return drift.analyse(
        [time for time, _, _, _ in chosen],
        [item.median_ns for _, _, _, item in chosen],
        [number for _, _, number, _ in chosen],
        [[other.get(place, math.nan) for place in places] for other in beside],
    )


def _runs(cell: Cell, judged: Sequence[Sequence[Judged]]) -> list[tuple[RunSamples, Sequence[Judged]]]:
    return list(zip(cell.latency, judged, strict=True))
