"""The memory of one row, from its probes."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.table.cells import Cell


def memory_figures(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """The peak is the largest over probes, as each is a high-water mark; the growth by loading is the median."""

    def values(key: str, *, less_baseline: bool) -> list[int]:
        found = []
        for load in cell.probes:
            value, baseline = load.memory.get(key), load.memory.get("baseline")
            if value is not None and (baseline is not None or not less_baseline):
                found.append(value - baseline if less_baseline else value)
        return found

    for name, key, less_baseline in (
        ("memory_peak_bytes", "peak", False),
        ("memory_peak_delta_bytes", "peak", True),
        ("memory_loaded_delta_bytes", "after_load", True),
        ("memory_arena_bytes", "arena", False),
    ):
        found = values(key, less_baseline=less_baseline)
        if found:
            figures[name] = round(float(np.median(found))) if key == "after_load" else max(found)
        else:
            said = [str(load.memory[f"{key}_reason"]) for load in cell.probes if load.memory.get(f"{key}_reason")]
            reasons[name] = said[0] if said else "no probe run measured it"
