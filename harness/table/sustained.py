"""Burst, sustained and time to throttle of one row, from its sustained run. Part of `harness.table`.

The last run counts that has any seconds: one that was cut off shows what it had until then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.agent.scenarios import SUSTAINED
from harness.collectors.sustained import Second, seconds_of
from harness.records import Run, SessionData
from harness.stats import contention, grade
from harness.stats.throttle import Throttle, throttle
from harness.table.cells import Cell, cells
from harness.table.nulls import latency_fields

FIELDS = (
    "latency_burst_ns",
    "latency_sustained_ns",
    "sustained_ratio",
    "time_to_throttle_s",
    "temperature_start_c",
    "temperature_peak_c",
)


@dataclass(frozen=True, slots=True)
class Strip:
    """A variant's sustained run on a device: its seconds in time order, and what was found in them."""

    run: Run
    seconds: tuple[Second, ...]
    found: Throttle


def strip_of(cell: Cell) -> Strip | None:
    """The variant's last sustained run with something in it; None where there is none."""
    for run in reversed(cell.sustained):
        seconds = seconds_of(run.sensors, cell.variant.name)
        if seconds:
            # CPU time says whose fault a slowdown is only where it covers the inference: one thread, or the whole process.
            cpu = [item.mean_cpu_ns for item in seconds]
            told = min(cpu) > 0
            found = throttle([s.at_s for s in seconds], [s.median_ns for s in seconds], cpu if told else None)
            return Strip(run, seconds, found)
    return None


def all_strips(data: SessionData) -> dict[str, dict[str, Strip]]:
    """Device → variant → its sustained run, for the plots."""
    found: dict[str, dict[str, Strip]] = {}
    for cell in cells(data):
        strip = None if cell.counted else strip_of(cell)
        if strip is not None:
            found.setdefault(cell.device.name, {})[cell.variant.name] = strip
    return found


def sustained_figures(cell: Cell, data: SessionData, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Fill in the row's fields, or why they are missing."""
    if data.session.protocol.get("scenario") != SUSTAINED:
        # A device that counts instructions has given its own, stronger reason.
        reasons.update(dict.fromkeys(FIELDS, "the scenario is not sustained (--scenario sustained)") | reasons)
        return
    if not cell.counted:
        reasons |= dict.fromkeys(
            latency_fields(FIELDS), "the scenario is sustained: burst and sustained were measured instead"
        )
    strip = None if cell.counted else strip_of(cell)
    if strip is None:
        counted = "a device that counts instructions has no heat"
        reasons |= dict.fromkeys(FIELDS, counted if cell.counted else "no sustained run of it has a second")
        return
    found = strip.found
    figures |= {"latency_burst_ns": found.burst, "latency_sustained_ns": found.sustained}
    figures |= {"sustained_ratio": found.ratio, "time_to_throttle_s": found.time_s}
    figures |= {"runs": 1, "samples": sum(item.count for item in strip.seconds)}
    reasons |= dict.fromkeys(FIELDS[:3], found.short_reason or "")
    reasons["time_to_throttle_s"] = found.reason or ""
    hottest = [item.heat.hottest_c for item in strip.seconds]
    known = [value for value in hottest if value is not None]
    if known:
        figures |= {"temperature_start_c": known[0], "temperature_peak_c": max(known)}
    reasons |= dict.fromkeys(FIELDS[4:], "the device shows no thermal zone")


def sustained_evidence(cell: Cell, evidence: grade.Evidence) -> grade.Evidence:
    """What the rules are held against in the sustained scenario. Drift is what was looked for there, not a fault; the first
    seconds are meant to be those of a device that was not warm."""
    strip = strip_of(cell)
    if strip is None:
        return evidence
    seconds = strip.seconds
    total_s = sum(item.mean_ns * item.count for item in seconds) / 1e9
    judged = None
    if evidence.contention is None and all(load.facts.get("threads") == 1 for load in cell.loads):
        judged = _contention(seconds)
    return dataclasses.replace(
        evidence,
        runs=1,
        run_s=total_s,
        run_samples=sum(item.count for item in seconds),
        warmup_s=grade.MINIMUM_WARMUP_S,
        warmup_samples=grade.MINIMUM_WARMUP_SAMPLES,
        half_width=None,
        drift=None,
        contention=judged,
        remarks=(*evidence.remarks, *_remarks(strip)),
    )


def _contention(seconds: Sequence[Second]) -> contention.Contention:
    """Seconds in which a single thread had less CPU time than wall time."""
    few = contention.CLOCK_COST_NS
    flags = [item.mean_ns - item.mean_cpu_ns > contention.DEFICIT * item.mean_ns + few for item in seconds]
    return contention.judge([item.median_ns for item in seconds], flags, [("preempted",)] * sum(flags))


def _remarks(strip: Strip) -> Iterator[str]:
    found = strip.found
    if strip.run.status != "ok":
        yield f"the sustained run ended early, after {strip.seconds[-1].at_s:.0f} s"
    if found.time_s is not None and not _told(strip, found.time_s):
        yield (
            f"slower by {found.slowdown:.0%} from {found.time_s:.0f} s on, though the device showed neither heat nor a lower "
            "frequency: neighbours on its memory or caches would look the same"
        )


def _told(strip: Strip, time_s: float) -> bool:
    """Whether anything the device says goes with the slowdown: words, a frequency 3 % lower, or 5 °C more."""
    before = [item for item in strip.seconds if item.at_s < time_s]
    after = [item for item in strip.seconds if item.at_s >= time_s]
    if any(item.heat.now for item in after):
        return True
    counts = [c for c in (item.heat.throttle_count for item in strip.seconds) if c is not None]
    if counts and counts[-1] > counts[0]:
        return True
    slower = [[f for f in (item.frequency_khz for item in part) if f] for part in (before, after)]
    if all(slower) and min(slower[1]) < 0.97 * max(slower[0]):
        return True
    hot = [[c for c in (item.heat.hottest_c for item in part) if c is not None] for part in (before, after)]
    return bool(all(hot) and max(hot[1]) > hot[0][0] + 5.0)
