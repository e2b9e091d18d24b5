"""Medians of runs and of blocks, for comparisons and for choosing."""

from __future__ import annotations

from harness.records import SessionData
from harness.table.cells import cells
from harness.table.throughput import offline_runs

Key = tuple[str, str]  # variant, device


def run_medians(data: SessionData, *, counted: bool = False) -> dict[Key, dict[int, float]]:
    """(variant, device) → round → median of that run's samples, ns. `counted`: of devices that count instructions, instead.

    Of an offline run, the time that an inference took of the whole: the inverse of its throughput.
    """
    found = {}
    for cell in cells(data):
        times = {s.run.round: s.median_ns for s in cell.latency} | {r.run.round: r.time_ns for r in offline_runs(cell)}
        if times and cell.counted == counted:
            found[cell.variant.name, cell.device.name] = times
    return found


def block_medians(data: SessionData, *, counted: bool = False) -> dict[Key, dict[tuple[int, str], dict[int, float]]]:
    """(variant, device) → (round, run) → interleaved round → median of that block's samples, ns; `counted` as above.

    A run is named by its id, or by what runs of several devices have in common whose rounds were measured in turns.
    Of an offline run, as in `run_medians`.
    """
    found = {}
    for cell in cells(data):
        blocks = {
            (s.run.round, str(s.run.environment.get("turns", s.run.id))): {
                block.index: middle for block, middle in zip(s.blocks, s.block_medians_ns, strict=True)
            }
            for s in cell.latency
        }
        blocks |= {(r.run.round, r.run.id): r.times_ns for r in offline_runs(cell)}
        if blocks and cell.counted == counted:
            found[cell.variant.name, cell.device.name] = blocks
    return found
