"""The strip of a sustained run in the HTML report: latency above, temperature and frequency below, over the same seconds.

Place in the flow: `harness.table.sustained` → here → a figure as in `harness.report.figures`. Nothing is computed, only drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.report import units
from harness.report.arrange import DeviceGroup
from harness.report.cells import variant_label
from harness.report.figures import Figure, base_layout, escape, number_axis, style_of
from harness.row import Row
from harness.stats.drift import BURST_S
from harness.table.sustained import Strip

Strips = Mapping[str, Mapping[str, Strip]]
_HEAT, _CLOCK, _MARK = "#d43a6a", "#7f8c99", "#d43a6a"
_HEIGHT = 430
# An axis from zero ends so far beyond the largest value.
_ROOM = 1.1
_UPPER, _LOWER = [0.44, 1.0], [0.0, 0.32]


def strips_of(group: DeviceGroup, strips: Mapping[str, Strip], start: str) -> list[tuple[str, str, Figure]]:
    """Title, caption and figure for each variant of a device that has a sustained run, failed ones too."""
    found = []
    for row in (*group.ok, *group.failed):
        strip = strips.get(row.variant)
        if strip is not None:
            found.append((variant_label(row).removeprefix(start), caption(strip), strip_figure(row, strip)))
    return found


def caption(strip: Strip) -> str:
    """What was found, in a sentence or two."""
    found = strip.found
    words = [f"{strip.seconds[-1].at_s:.0f} s without a pause."]
    if found.burst is not None and found.sustained is not None:
        words.append(
            f"First {BURST_S:g} s: {units.format_ns(found.burst)}; last third: {units.format_ns(found.sustained)} "
            f"({(found.ratio or 1.0) - 1.0:+.1%}).".replace("-", units.MINUS)
        )
    elif found.short_reason:
        words.append(f"{found.short_reason[0].upper()}{found.short_reason[1:]}.")
    if found.time_s is not None:
        words.append(f"Slower by {found.slowdown:.0%} for good from {found.time_s:.0f} s on (the red line).")
    elif found.reason:
        words.append(f"Time to throttle: none, {found.reason}.")
    held = dict.fromkeys(word for item in strip.seconds for word in item.heat.now)
    if held:
        words.append(f"The device says: {', '.join(held)}.")
    every = max(item.kept_every for item in strip.seconds)
    kept = "all samples are" if every == 1 else f"of the fastest seconds every {every}th sample is"
    words.append(f"The points are exact medians of a second; {kept} in the store.")
    return " ".join(words)


def strip_figure(row: Row, strip: Strip) -> Figure:
    """Two panels over the seconds since the start: median and p90 of each second; temperature and frequency."""
    _, color, _ = style_of(row.format)
    times = [round(item.at_s, 3) for item in strip.seconds]
    medians, tails = ([getattr(item, name) for item in strip.seconds] for name in ("median_ns", "p90_ns"))
    unit, factor = _unit(sorted(medians)[len(medians) // 2])
    line = {"type": "scatter", "mode": "lines", "x": times}
    traces: list[dict[str, Any]] = [
        line
        | {"name": "p90 of a second", "y": _scaled(tails, factor), "line": {"color": color, "width": 1, "dash": "dot"}},
        line | {"name": "median of a second", "y": _scaled(medians, factor), "line": {"color": color, "width": 2}},
    ]
    hottest = [item.heat.hottest_c for item in strip.seconds]
    clocks = [item.frequency_khz for item in strip.seconds]
    lower: list[dict[str, Any]] = []
    if any(value is not None for value in hottest):
        lower.append(line | {"name": "hottest zone", "y": hottest, "yaxis": "y2", "line": {"color": _HEAT, "width": 2}})
    if any(value is not None for value in clocks):
        megahertz = [None if value is None else round(value / 1000, 1) for value in clocks]
        lower.append(
            line | {"name": "frequency", "y": megahertz, "yaxis": "y3", "line": {"color": _CLOCK, "width": 1.5}}
        )
    return {"data": traces + lower, "layout": _layout(strip, unit, factor)}


def _unit(value_ns: float) -> tuple[str, float]:
    return next(
        ((name, size) for name, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)) if value_ns >= 0.1 * size), ("ns", 1.0)
    )


def _scaled(values: list[float], factor: float) -> list[float]:
    return [float(f"{value / factor:.5g}") for value in values]


def _layout(strip: Strip, unit: str, factor: float) -> dict[str, Any]:
    clocks = [item.frequency_khz for item in strip.seconds]
    heat, clock = any(item.heat.hottest_c is not None for item in strip.seconds), any(clocks)
    highest = _ROOM * max(item.p90_ns for item in strip.seconds) / factor
    end = strip.seconds[-1].at_s
    x = number_axis("seconds since the start") | {"anchor": "y2", "range": [0, max(end, 1.0)]}
    upper = number_axis(f"time of one inference ({unit})") | {"domain": _UPPER, "range": [0, highest]}
    layout = base_layout(_HEIGHT, xaxis=x, yaxis=upper, shapes=_marks(strip, factor))
    layout["yaxis2"] = number_axis("°C" if heat else "") | {"domain": _LOWER, "showticklabels": heat}
    if clock:
        # Its own round numbers, not those that fall on the grid of the temperatures.
        right = {"overlaying": "y2", "side": "right", "showgrid": False, "tickmode": "auto", "nticks": 4}
        layout["yaxis3"] = number_axis("MHz") | right | {"range": [0, _ROOM * max(f for f in clocks if f) / 1000]}
    if not heat and not clock:
        words = {"text": escape("the device tells neither temperature nor frequency"), "showarrow": False}
        layout["annotations"] = [words | {"xref": "paper", "yref": "paper", "x": 0.5, "y": sum(_LOWER) / 2}]
    return layout


def _marks(strip: Strip, factor: float) -> list[dict[str, Any]]:
    """Levels of burst and sustained over their seconds, and where throttling began."""
    found, end = strip.found, strip.seconds[-1].at_s
    marks: list[dict[str, Any]] = []
    for level, span in ((found.burst, (0.0, BURST_S)), (found.sustained, (end * 2 / 3, end))):
        if level is not None:
            line = {"type": "line", "x0": span[0], "x1": span[1], "y0": level / factor, "y1": level / factor}
            marks.append(line | {"line": {"color": _CLOCK, "width": 4}, "opacity": 0.6})
    if found.time_s is not None:
        where = {"type": "line", "x0": found.time_s, "x1": found.time_s, "yref": "paper", "y0": 0, "y1": 1}
        marks.append(where | {"line": {"color": _MARK, "width": 2, "dash": "dash"}})
    return marks
