"""Why a figure of a row is missing: every None gets its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from harness.row import OK, Row
from harness.table.cells import Cell

_NOT_NULLABLE = {"session", "variant", "base", "format", "recipe", "device", "engine", "status", "error", "remedy"}
_NOT_NULLABLE |= {"runs", "samples", "blocks", "hints", "grade", "grade_reasons", "null_reasons"}
NULLABLE = tuple(item.name for item in fields(Row) if item.name not in _NOT_NULLABLE)


def latency_fields(but: Collection[str]) -> tuple[str, ...]:
    """Fields of the latency of single inferences, less these."""
    return tuple(name for name in NULLABLE if name.startswith("latency") and name not in but)


def null_reasons(cell: Cell, status: str, figures: Mapping[str, Any], reasons: Mapping[str, str]) -> tuple[str, ...]:
    """One "figure: reason" for each figure that the row does not have."""
    general = {
        "latency": "no latency run of it ended",
        "virtual": "no emulator that counts instructions",
        "energy": "no power source was read on this device",
        "power": "no power source was read on this device",
        "idle": "no power source was read on this device",
        "size": "the size is not known",
        "parameters": "the manifest does not say",
    }
    if not cell.measured:
        failed = "the variant does not exist" if cell.variant.status != OK else "the variant was not measured"
        general = dict.fromkeys(general, failed)
    default = "not measured" if status == OK else "the variant failed"
    found = []
    for name in NULLABLE:
        if figures.get(name) is None:
            reason = reasons.get(name) or general.get(name.split("_", 1)[0])
            found.append(f"{name}: {reason or (default if cell.measured else general['latency'])}")
    return tuple(found)
