"""The plots of a search, in plotly.js's figure format: the front, the best so far, and parallel coordinates.

Place in the flow: a view of a study → here → JSON in the page. The parallel coordinates are drawn as plain lines: plotly.js's own kind
compiles code as it runs, which the page's policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from converters.search.trial import Objective, Trial, Value
from harness.report.figures import Figure, base_layout, escape
from harness.report.search import StudyView, figure, figure_with_interval

FRONT, OTHER, OUTSIDE = "#2f7fc4", "#7f8c99", "#d9730d"
# Two ends that a colour-blind eye tells apart, and a middle that is neither: the first objective from bad to good.
_SCALE = ("#d9730d", "#b8b2a7", "#2f7fc4")
# On which share of an axis its values lie; below it, what is not at work in a trial.
_ASLEEP, _LOW, _HIGH = 0.0, 0.1, 1.0
_TICKS = 5
_MOST_LINES = 400
_WIDE = 8.0


def scale_of(metric: str) -> tuple[str, float]:
    """What a metric's axis says, and the number to divide by."""
    if metric.endswith("_ns"):
        return f"{metric.removesuffix('_ns').replace('_', ' ')} (ms)", 1e6
    if metric.endswith("_bytes"):
        return f"{metric.removesuffix('_bytes').replace('_', ' ')} (kB)", 1e3
    if metric == "accuracy":
        return "accuracy (%)", 0.01
    return metric.replace("_", " "), 1.0


def hover(view: StudyView, trial: Trial) -> str:
    """What a pointer at a trial shows."""
    lines = [f"<b>trial {trial.number}</b>", escape(trial.candidate.recipe)]
    return "<br>".join(lines + [f"{name}: {escape(figure_with_interval(trial, name))}" for name in view.metrics])


def front_figure(view: StudyView, one: Objective, other: Objective) -> Figure | None:
    """Every complete trial by two objectives; the front joined, what misses a constraint hollow. None where nothing has both."""
    known = [t for t in view.complete if _value(t, one) is not None and _value(t, other) is not None]
    if not known:
        return None
    (title_x, unit_x), (title_y, unit_y) = scale_of(one.metric), scale_of(other.metric)
    groups = (
        ("misses a constraint", OUTSIDE, "x-thin-open", [t for t in known if not t.feasible(view.constraints)]),
        (
            "other trials",
            OTHER,
            "circle-open",
            [t for t in known if t.feasible(view.constraints) and t.number not in view.front],
        ),
        (
            "Pareto front",
            FRONT,
            "circle",
            sorted((t for t in known if t.number in view.front), key=lambda t: _value(t, one) or 0.0),
        ),
    )
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if color == FRONT and len(view.objectives) == 2 else "markers",  # noqa: PLR2004
            "name": label,
            "x": [(_value(t, one) or 0.0) / unit_x for t in trials],
            "y": [(_value(t, other) or 0.0) / unit_y for t in trials],
            "error_x": _bars(trials, one, unit_x, color),
            "error_y": _bars(trials, other, unit_y, color),
            # Between two points of the front nothing better is known than the worse of both.
            "line": {"color": FRONT, "width": 1.5, "shape": "hv" if one.sign > 0 else "vh"},
            "marker": {"color": color, "symbol": symbol, "size": 9, "line": {"width": 2, "color": color}},
            "text": [hover(view, t) for t in trials],
            "hovertemplate": "%{text}<extra></extra>",
        }
        for label, color, symbol, trials in groups
        if trials
    ]
    layout = base_layout(440, xaxis=_axis(title_x, known, one), yaxis=_axis(title_y, known, other))
    return {"data": traces, "layout": layout}


def progress_figure(view: StudyView, best: Sequence[float | None]) -> Figure | None:
    """The first objective of every trial, and the best of those that keep the constraints. `best`: after each trial, by number."""
    objective = view.objectives[0]
    title, unit = scale_of(objective.metric)
    known = [t for t in view.complete if _value(t, objective) is not None]
    if not known:
        return None
    steps = [(n, value / unit) for n, value in enumerate(best) if value is not None]
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "trials",
        "x": [t.number for t in known],
        "y": [(_value(t, objective) or 0.0) / unit for t in known],
        "marker": {"color": OTHER, "symbol": "circle-open", "size": 8, "line": {"width": 2, "color": OTHER}},
        "text": [hover(view, t) for t in known],
        "hovertemplate": "%{text}<extra></extra>",
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "best that keeps all constraints",
        "x": [x for x, _ in steps],
        "y": [y for _, y in steps],
        "line": {"color": FRONT, "width": 2, "shape": "hv"},
        "hoverinfo": "skip",
    }
    layout = base_layout(
        320, xaxis={"title": {"text": "trial"}, "automargin": True}, yaxis=_axis(title, known, objective)
    )
    return {"data": [points, line], "layout": layout}


@dataclass(frozen=True, slots=True)
class _Scale:
    """One axis of the parallel coordinates: where each trial crosses it, and its ticks."""

    name: str
    places: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]


def parallel_figure(view: StudyView) -> Figure | None:
    """One line per complete trial, across its parameters and its objectives; blue where the first objective is good."""
    trials = [t for t in view.complete if all(_value(t, o) is not None for o in view.objectives)][-_MOST_LINES:]
    if len(trials) < 2:  # noqa: PLR2004  one line shows nothing
        return None
    names = list(dict.fromkeys(name for t in trials for name in t.candidate.values))
    axes = [_parameter(name, [t.candidate.values.get(name) for t in trials]) for name in names]
    axes += [_objective(o, [_value(t, o) or 0.0 for t in trials]) for o in view.objectives]
    first = axes[len(names)].places
    good = [1.0 - place if view.objectives[0].sign > 0 else place for place in first]
    order = sorted(range(len(trials)), key=lambda n: good[n])
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "showlegend": False,
            "x": list(range(len(axes))),
            "y": [axis.places[n] for axis in axes],
            "line": {
                "color": _colour((good[n] - _LOW) / (_HIGH - _LOW)),
                "width": 3 if trials[n].number in view.front else 1.2,
            },
            "opacity": 1.0 if trials[n].number in view.front else 0.6,
            "text": hover(view, trials[n]),
            "hovertemplate": "%{text}<extra></extra>",
        }
        for n in order
    ]
    layout = base_layout(
        460,
        hovermode="closest",
        xaxis={
            "tickvals": list(range(len(axes))),
            "ticktext": [escape(axis.name) for axis in axes],
            "range": [-0.3, len(axes) - 0.4],
            "zeroline": False,
            "automargin": True,
        },
        yaxis={"visible": False, "range": [-0.08, 1.05]},
        annotations=[
            {
                "x": number,
                "y": at,
                "text": escape(text),
                "showarrow": False,
                "xanchor": "left",
                "xshift": 4,
                "font": {"size": 10},
                "bgcolor": "rgba(127,140,153,0.15)",
            }
            for number, axis in enumerate(axes)
            for at, text in axis.ticks
        ],
    )
    return {"data": traces, "layout": layout}


def _value(trial: Trial, objective: Objective) -> float | None:
    return trial.outcome.metrics.get(objective.metric)


def _bars(trials: Sequence[Trial], objective: Objective, unit: float, color: str) -> dict[str, Any]:
    """How far the 95 % intervals reach."""
    up, down = [], []
    for trial in trials:
        value, ends = _value(trial, objective) or 0.0, trial.outcome.intervals.get(objective.metric)
        low, high = ends or (value, value)
        up.append(max(high - value, 0.0) / unit)
        down.append(max(value - low, 0.0) / unit)
    shown = any(up) or any(down)
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
    return {**bars, "visible": shown, "thickness": 1.2, "width": 3, "color": color}


def _axis(title: str, trials: Sequence[Trial], objective: Objective) -> dict[str, Any]:
    values = [value for t in trials if (value := _value(t, objective)) is not None]
    low, high = min(values), max(values)
    kind = {"type": "log", "dtick": "D2"} if low > 0 and high / low > _WIDE else {}
    words = f"{title}, log scale" if kind else title
    return {"title": {"text": words, "standoff": 10}, "automargin": True, "zeroline": False, "tickformat": "~g", **kind}


def _spread(values: Sequence[float]) -> tuple[tuple[float, ...], float, float, bool]:
    """Places of numbers between _LOW and _HIGH, by ratio where they spread widely; the least, the greatest, and whether by ratio."""
    low, high = min(values), max(values)
    wide = low > 0 and high / low > _WIDE
    scaled = [math.log(value) if wide else value for value in values]
    first, last = min(scaled), max(scaled)
    span = last - first
    places = tuple(_LOW + (_HIGH - _LOW) * ((value - first) / span if span else 0.5) for value in scaled)
    return places, low, high, wide


def _number_ticks(low: float, high: float, *, wide: bool) -> list[tuple[float, float]]:
    """(place, value) of a few ticks from the least to the greatest."""
    if low == high:
        return [(_LOW + 0.5 * (_HIGH - _LOW), low)]
    shares = [n / (_TICKS - 1) for n in range(_TICKS)]
    return [
        (_LOW + (_HIGH - _LOW) * share, low * (high / low) ** share if wide else low + share * (high - low))
        for share in shares
    ]


def _objective(objective: Objective, values: Sequence[float]) -> _Scale:
    places, low, high, wide = _spread(values)
    ticks = tuple((at, figure(objective.metric, value)) for at, value in _number_ticks(low, high, wide=wide))
    return _Scale(objective.metric, places, ticks)


def _parameter(name: str, values: Sequence[Value | None]) -> _Scale:
    """A parameter's axis: numbers along it, words at even distances, and a place below for trials in which it is not at work."""
    known = [value for value in values if value is not None]
    asleep = ((_ASLEEP, "not at work"),) if len(known) < len(values) else ()
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        numbers = [float(value) for value in known]
        places, low, high, wide = _spread(numbers)
        found = dict(zip(map(str, known), places, strict=True))
        ticks = tuple((at, f"{value:.3g}") for at, value in _number_ticks(low, high, wide=wide))
    else:
        words = sorted({str(value) for value in known})
        step = (_HIGH - _LOW) / max(len(words) - 1, 1)
        by_word = {word: _LOW + number * step if len(words) > 1 else 0.5 for number, word in enumerate(words)}
        found = by_word
        ticks = tuple((at, word if len(word) <= 28 else f"{word[:27]}…") for word, at in by_word.items())  # noqa: PLR2004
    return _Scale(name, tuple(_ASLEEP if value is None else found[str(value)] for value in values), asleep + ticks)


def _colour(share: float) -> str:
    """A colour between the three of the scale; `share` in [0, 1]."""
    place = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    left = min(int(place), len(_SCALE) - 2)
    parts = [
        round(int(one[at : at + 2], 16) + (place - left) * (int(two[at : at + 2], 16) - int(one[at : at + 2], 16)))
        for one, two in [(_SCALE[left], _SCALE[left + 1])]
        for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)
