"""Medians of runs and of blocks, for comparisons and for choosing."""

from __future__ import annotations

from harness.records import SessionData
from harness.table.cells import cells

Key = tuple[str, str]  # variant, device


def run_medians(data: SessionData, *, counted: bool = False) -> dict[Key, dict[int, float]]:
    """(variant, device) → round → median of that run's samples, ns. `counted`: of devices that count instructions, instead."""
    return {
        (cell.variant.name, cell.device.name): {s.run.round: s.median_ns for s in cell.latency}
        for cell in cells(data)
        if cell.latency and cell.counted == counted
    }


def block_medians(data: SessionData, *, counted: bool = False) -> dict[Key, dict[tuple[int, str], dict[int, float]]]:
    """(variant, device) → (round, run) → interleaved round → median of that block's samples, ns; `counted` as above.

    A run is named by its id, or by what runs of several devices have in common whose rounds were measured in turns.
    """
    return {
        (cell.variant.name, cell.device.name): {
            (s.run.round, str(s.run.environment.get("turns", s.run.id))): {
                block.index: middle for block, middle in zip(s.blocks, s.block_medians_ns, strict=True)
            }
            for s in cell.latency
        }
        for cell in cells(data)
        if cell.latency and cell.counted == counted
    }
