"""A variant's energy runs on a device → its energy figures, or the reason why there are none. Part of `harness.table`.

Aggregates nothing itself: `harness.collectors.energy` integrates the stored readings, and the last run that can be
integrated counts. What is missing has its reason, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.collectors.energy import Energy, energy_of_run
from harness.collectors.unavailable import Unavailable
from harness.records import SessionData
from harness.table.cells import Cell

FIELDS = ("energy_total_uj", "energy_dynamic_uj", "energy_resolution_uj", "idle_power_uw", "power_source")
# Five windows between idle phases of half a minute: what the rules want of an energy figure.
RULE_WINDOWS, RULE_IDLE_S = 5, 30.0
_ALLOWANCE = 0.98


def energy_of_cell(cell: Cell) -> Energy | Unavailable:
    """From the last energy run that can be integrated; else why the last one cannot."""
    why: Unavailable | None = None
    for run in reversed(cell.energy):
        failure = run.failed_variants.get(cell.variant.name) or run.failure
        found = Unavailable(failure.message, failure.remedy) if failure is not None else energy_of_run(run.sensors)
        if isinstance(found, Energy):
            return found
        why = why or found
    return why or Unavailable(_no_run(cell))


def _no_run(cell: Cell) -> str:
    power = cell.device.facts.get("power") or {}
    if cell.counted:
        return "a device that counts instructions has no power to meter"
    return str(power.get("reason") or "no energy run of it ended")


def energy_figures(cell: Cell, data: SessionData, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Fill in the row's energy fields, or their reasons."""
    if not data.session.protocol.get("energy"):
        reasons |= dict.fromkeys(FIELDS, "energy was not asked for (--energy)")
        return
    found = energy_of_cell(cell)
    if isinstance(found, Unavailable):
        reasons |= dict.fromkeys(FIELDS, str(found))
        return
    figures |= {
        "energy_total_uj": found.total_uj,
        "energy_dynamic_uj": found.dynamic_uj,
        "energy_resolution_uj": found.resolution_uj,
        "idle_power_uw": found.idle_power_uw,
        "power_source": found.source,
    }
    reasons["energy_dynamic_uj"] = found.dynamic_reason or ""


def energy_remarks(cell: Cell) -> Iterator[str]:
    """Rules unmet by an energy figure that was nevertheless had."""
    found = energy_of_cell(cell) if cell.energy else None
    if not isinstance(found, Energy):
        return
    windows = len(found.totals_uj)
    if windows < RULE_WINDOWS:
        yield f"energy of {windows} windows, fewer than {RULE_WINDOWS}"
    if found.idle_s < RULE_IDLE_S * _ALLOWANCE:
        yield f"energy with {found.idle_s:.0f} s of idling before and after, less than {RULE_IDLE_S:g} s"
    yield from (f"energy: {note}" for note in found.notes)
