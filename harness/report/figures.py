"""The plots of the HTML report, as plain dictionaries in plotly.js's figure format.

Place in the flow: one device's rows and samples → here → JSON in the page, drawn by the page's own script. The Python
package plotly is not imported: only its JavaScript is used. No statistics are made: samples are only thinned.

Colour is never the only sign: formats differ in marker, too. The colours (after Okabe and Ito, told apart by colour-blind
eyes) have a contrast ≥ 3 : 1 to the light and to the dark page. The page's style sheet recolours text and grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.choose import time_field, time_of
from harness.report import units
from harness.report.arrange import DeviceGroup
from harness.report.cells import COLUMNS, clean, plain_header, variant_label
from harness.row import Row

Figure = dict[str, Any]

STYLES = {
    "tflite": ("TFLite", "#d9730d", "circle"),
    "onnx": ("ONNX", "#2f7fc4", "square"),
    "openvino": ("OpenVINO", "#0f9d76", "diamond"),
}
_OTHER = ("other", "#8a7fb8", "cross")
_NEUTRAL = "#7f8c99"
# From this ratio of the largest to the smallest value on, a linear axis would crush the small ones.
_WIDE = 8.0
# Points of the front closer than this share of the axis have their labels at different heights.
_NEAR = 0.12
_MOST_SAMPLES = 200
# What stands on the axis of time, by the field that orders the rows.
_CLOCKS = {
    "latency_median_ns": "median latency",
    "virtual_time_ns": "virtual time",
    "throughput_per_s": "time per inference at full throughput",
    "latency_sustained_ns": "sustained latency",
}
_LINE_PX, _FRAME_PX = 26, 110


def escape(text: str | None) -> str:
    """A text that plotly.js shows as it is: the library reads tags such as <a href> and <br> in every label."""
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def style_of(form: str) -> tuple[str, str, str]:
    """Name, colour and marker of a format."""
    return STYLES.get(form, _OTHER)


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 10}, "automargin": True, "zeroline": False, **more}


def number_axis(title: str) -> dict[str, Any]:
    """A plain axis of numbers."""
    return _axis(title, tickformat="~g")


def base_layout(height: int, **more: Any) -> dict[str, Any]:
    """What all plots have in common."""
    return {
        "height": height,
        "margin": {"l": 10, "r": 14, "t": 10, "b": 10},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "hoverlabel": {"bgcolor": "#1d2733", "bordercolor": "#1d2733", "font": {"color": "#ffffff"}, "align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": _NEUTRAL, "activecolor": "#1d2733"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        **more,
    }


def _time_axis(values_ns: Sequence[float], what: str) -> tuple[dict[str, Any], float]:
    """An axis for these times, logarithmic when they spread widely, and the ns of its unit."""
    middle = sorted(values_ns)[len(values_ns) // 2]
    unit, factor = next(
        ((name, size) for name, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)) if middle >= 0.1 * size), ("ns", 1.0)
    )
    return _number_axis(f"{what} ({unit}", values_ns), factor


def _number_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    if low > 0 and high / low > _WIDE:
        return _axis(f"{title}, log scale)", type="log", dtick="D2", tickformat="~g")
    return _axis(f"{title})", tickformat="~g")


def _with_room(axis: dict[str, Any], low: float, high: float, *, before: float, after: float = 0.06) -> dict[str, Any]:
    """The axis with a range around these values and this share of their span free before and after them."""
    if axis.get("type") == "log":
        low, high = math.log10(low), math.log10(high)
    span = high - low or abs(high) * 0.1 or 1.0
    return {**axis, "range": [low - before * span, high + after * span]}


def hover(row: Row) -> str:
    """What a pointer at a variant shows: the same words as the table."""
    lines = [f"<b>{escape(variant_label(row))}</b>"]
    for key in (
        "latency",
        "virtual",
        "throughput",
        "sustained",
        "p90",
        "accuracy",
        "drop",
        "mae",
        "rmse",
        "size",
        "memory",
        "grade",
    ):
        column = COLUMNS[key]
        text = column.text(row)
        if text != units.NOT_AVAILABLE:
            lines.append(f"{plain_header(column)}: {escape(text)}")
    return "<br>".join(lines)


def _quality(rows: Sequence[Row]) -> tuple[str, str, float] | None:
    """What stands against latency, as in `harness.choose.pareto_front`: row field, axis title, factor; or None."""
    for name, title, factor in (
        ("accuracy", "accuracy (%)", 100.0),
        ("rmse", "RMSE (in the output's unit)", 1.0),
        ("agreement", "agreement with the base model (%)", 100.0),
        ("size_bytes", "size (kB)", 1e-3),
    ):
        if any(getattr(row, name) is not None for row in rows):
            return name, title, factor
    return None


def _interval(row: Row, quality: str) -> tuple[float, float]:
    """How far the bar reaches up and down from the accuracy: the interval of the difference to the base, in points."""
    drop, low, high = row.accuracy_drop_pp, row.accuracy_drop_low_pp, row.accuracy_drop_high_pp
    if quality != "accuracy" or drop is None or low is None or high is None:
        return 0.0, 0.0
    return max(drop - low, 0.0), max(high - drop, 0.0)


def trade_off(group: DeviceGroup, start: str) -> Figure | None:
    """Accuracy (or error) against median latency, one point a variant, with interval bars, front and winner marked.

    Against what stands in for latency where there is none: virtual time, the inverse of the throughput, sustained latency.
    """
    clock = time_field(group.ok)
    timed = [row for row in group.ok if getattr(row, clock) is not None]
    quality = _quality(timed)
    if quality is None:
        return None
    name, title, scale = quality
    rows = [row for row in timed if getattr(row, name) is not None]
    times = [float(time_of(row) or 0.0) for row in rows]
    axis, factor = _time_axis(times, _CLOCKS[clock])
    axis = _with_room(axis, min(times) / factor, max(times) / factor, before=0.3)
    points = [(row, time / factor, getattr(row, name) * scale) for row, time in zip(rows, times, strict=True)]
    front = [point for point in points if group.on_front(point[0])]
    traces = [*_front_line(front), *_winner(group, points)]
    order = {row.variant: number for number, row in enumerate(group.ok)}
    traces += [
        _markers([point for point in points if point[0].format == form], form, factor, name, order)
        for form in dict.fromkeys(row.format for row in rows)
    ]
    if name in ("rmse", "size_bytes"):
        axis_y = _axis(title, tickformat="~g", autorange="reversed")
    else:
        axis_y = _axis(title, tickformat="~g")
    annotations = _labels(front, start, axis)
    layout = base_layout(
        500,
        xaxis=axis,
        yaxis=axis_y,
        annotations=annotations,
        # Labels of points near the upper edge reach into the margin: the legend goes below.
        margin={"l": 10, "r": 14, "t": 70, "b": 10},
        legend={"orientation": "h", "x": 0, "y": -0.17, "yanchor": "top"},
    )
    return {"data": traces, "layout": layout}


def _markers(
    points: Sequence[tuple[Row, float, float]], form: str, factor: float, quality: str, order: Mapping[str, int]
) -> dict[str, Any]:
    label, color, symbol = style_of(form)
    right, left = [], []
    for row, x, _ in points:
        high, low = row.latency_median_high_ns, row.latency_median_low_ns
        right.append(0.0 if high is None else max(high / factor - x, 0.0))
        left.append(0.0 if low is None else max(x - low / factor, 0.0))
    vertical = [_interval(row, quality) for row, _, _ in points]
    bars = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, "color": color}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [x for _, x, _ in points],
        "y": [y for _, _, y in points],
        "error_x": {**bars, "array": right, "arrayminus": left},
        "error_y": {**bars, "array": [up for up, _ in vertical], "arrayminus": [down for _, down in vertical]},
        "marker": {"color": color, "symbol": symbol, "size": 12},
        "text": [hover(row) for row, _, _ in points],
        "customdata": [order[row.variant] for row, _, _ in points],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _front_line(front: Sequence[tuple[Row, float, float]]) -> list[dict[str, Any]]:
    if not front:
        return []
    ordered = sorted(front, key=lambda point: point[1])
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [x for _, x, _ in ordered],
            "y": [y for _, _, y in ordered],
            "line": {"color": _NEUTRAL, "width": 1.5, "dash": "dot", "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]


def _winner(group: DeviceGroup, points: Sequence[tuple[Row, float, float]]) -> list[dict[str, Any]]:
    found = [(x, y) for row, x, y in points if group.is_winner(row)]
    if not found:
        return []
    ring = {"symbol": "circle-open", "size": 24, "color": "#d43a6a", "line": {"width": 3}}
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "recommended",
            "x": [found[0][0]],
            "y": [found[0][1]],
            "marker": ring,
            "hoverinfo": "skip",
        }
    ]


def _labels(front: Sequence[tuple[Row, float, float]], start: str, axis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Names of the front's variants, above to the left of their points: there, by definition, nothing else lies.

    Neighbours close in time are fanned out upwards.
    """
    labels: list[dict[str, Any]] = []
    left, right = axis["range"]
    before, level = -math.inf, 0
    for row, x, y in sorted(front, key=lambda point: point[1]):
        at = math.log10(x) if axis.get("type") == "log" else x
        level = level + 1 if at - before < _NEAR * (right - left) else 0
        before = at
        labels.append(
            {
                "x": at,
                "y": y,
                "text": escape(variant_label(row).removeprefix(start)),
                "showarrow": True,
                "arrowhead": 0,
                "arrowwidth": 1,
                "arrowcolor": _NEUTRAL,
                "xanchor": "right",
                "ax": -22,
                "ay": -20 - 20 * (level % 4),
                "font": {"size": 11},
            }
        )
    return labels


def sizes(rows: Sequence[Row], start: str) -> Figure | None:
    """File and gzip size of every variant, smallest file on top."""
    unique = {row.variant: row for row in rows if row.size_bytes is not None}
    ordered = sorted(unique.values(), key=lambda row: (-(row.size_bytes or 0), row.variant))
    if not ordered:
        return None
    largest = max(row.size_bytes or 0 for row in ordered)
    unit, factor = next(((name, size) for name, size in (("GB", 1e9), ("MB", 1e6)) if largest >= size), ("kB", 1e3))
    labels = [escape(variant_label(row).removeprefix(start)) for row in ordered]
    traces = []
    for field, name, color, pattern in (
        ("size_gzip_bytes", "gzip", "#a58ad6", "/"),
        ("size_bytes", "file", "#7a5bbd", ""),
    ):
        values = [getattr(row, field) for row in ordered]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": labels,
                "x": [None if value is None else value / factor for value in values],
                "marker": {"color": color, "pattern": {"shape": pattern, "size": 5}},
                "text": [
                    f"{label}<br>{name}: {units.format_bytes(v)}" for label, v in zip(labels, values, strict=True)
                ],
                "textposition": "none",
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    layout = base_layout(
        _FRAME_PX + _LINE_PX * len(ordered),
        barmode="group",
        bargap=0.25,
        xaxis=_axis(f"size ({unit})", tickformat="~g"),
        yaxis=_axis("", type="category", ticksuffix="  "),
    )
    layout["legend"]["traceorder"] = "reversed"
    return {"data": traces, "layout": layout}


def thin(samples: NDArray[Any], most: int = _MOST_SAMPLES) -> list[int]:
    """At most `most` of the samples, evenly spaced in sorted order, smallest and largest among them."""
    ordered = np.sort(np.asarray(samples).ravel())
    if len(ordered) > most:
        ordered = ordered[np.linspace(0, len(ordered) - 1, most).round().astype(int)]
    return [int(value) for value in ordered]


def distributions(
    group: DeviceGroup,
    samples: Mapping[str, Sequence[NDArray[Any]]],
    medians: Mapping[tuple[str, str], Mapping[int, float]],
    start: str,
) -> Figure | None:
    """A box of all samples per variant, fastest on top, and a point for the median of each run.

    `samples`: variant → one int64 array of ns per run. `medians`: (variant, device) → round → ns.
    """
    rows = [row for row in reversed(group.ok) if any(len(run) for run in samples.get(row.variant, ()))]
    if not rows:
        return None
    pooled = {row.variant: thin(np.concatenate([np.asarray(run) for run in samples[row.variant]])) for row in rows}
    axis, factor = _time_axis([value for values in pooled.values() for value in values], "time of one inference")
    traces = []
    for row in rows:
        _, color, _ = style_of(row.format)
        traces.append(
            {
                "type": "box",
                "orientation": "h",
                "name": escape(variant_label(row).removeprefix(start)),
                "x": [float(f"{value / factor:.5g}") for value in pooled[row.variant]],
                "y0": escape(variant_label(row).removeprefix(start)),
                "boxpoints": "outliers",
                "marker": {"color": color, "size": 3, "opacity": 0.6},
                "line": {"width": 1.5},
                "hoverinfo": "x",
                "showlegend": False,
            }
        )
    traces.append(_run_medians(rows, medians, factor, start))
    layout = base_layout(
        _FRAME_PX + _LINE_PX * len(rows), xaxis=axis, yaxis=_axis("", type="category", ticksuffix="  ")
    )
    return {"data": traces, "layout": layout}


def _run_medians(
    rows: Sequence[Row], medians: Mapping[tuple[str, str], Mapping[int, float]], factor: float, start: str
) -> dict[str, Any]:
    points = [
        (value / factor, escape(variant_label(row).removeprefix(start)))
        for row in rows
        for value in medians.get((row.variant, row.device), {}).values()
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "median of one run",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "marker": {"symbol": "circle", "size": 5, "color": "#ffffff", "line": {"color": "#1d2733", "width": 1}},
        "hovertemplate": "median of one run: %{x:.4g}<extra></extra>",
        "showlegend": bool(points),
    }
