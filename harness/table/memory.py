"""The memory of one row, from its probes."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.table.cells import Cell

# Field of the row, key of the agent's record, and the key of what is taken off it.
_FIELDS = (
    ("memory_peak_bytes", "peak", None),
    ("memory_peak_delta_bytes", "peak", "baseline"),
    ("memory_loaded_delta_bytes", "after_load", "baseline"),
    ("memory_load_peak_delta_bytes", "load_peak", "baseline"),
    ("memory_first_peak_delta_bytes", "first_peak", "baseline"),
    ("memory_steady_peak_delta_bytes", "steady_peak", "baseline"),
    ("memory_steady_delta_bytes", "after_steady", "baseline"),
    ("memory_pss_bytes", "pss", None),
    ("memory_pss_delta_bytes", "pss", "pss_baseline"),
    ("memory_arena_bytes", "arena", None),
    ("memory_accelerator_bytes", "accelerator", None),
)
_HIGHEST = {"peak", "load_peak", "first_peak", "steady_peak", "arena", "accelerator"}


def memory_figures(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """The peak is the largest over probes, as each is a high-water mark; the growth by loading is the median."""

    def values(key: str, base: str | None) -> list[int]:
        found = []
        for load in cell.probes:
            value, baseline = load.memory.get(key), 0 if base is None else load.memory.get(base)
            if value is not None and baseline is not None:
                found.append(value - baseline)
        return found

    for name, key, base in _FIELDS:
        found = values(key, base)
        if found:
            figures[name] = max(found) if key in _HIGHEST else round(float(np.median(found)))
        else:
            said = [str(load.memory[f"{key}_reason"]) for load in cell.probes if load.memory.get(f"{key}_reason")]
            reasons[name] = said[0] if said else "no probe run measured it"
