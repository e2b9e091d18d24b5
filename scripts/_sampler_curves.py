"""What many searches over one table come to: mean, interval and worst by trial, and the plot of them. Used by search_samplers.py."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _curves import Curve, picture

from converters.search.trial import Constraint

SIZE_QUANTILE = 0.25
# A search is called as good as done when it is within so many points of the best there is.
NEAR_PP = 0.5
Row = Mapping[str, Any]


def size_limit(table: Sequence[Row]) -> Constraint:
    """At most that quantile of the sizes there are, in bytes."""
    sizes = [row["size_bytes"] for row in table if row["size_bytes"] is not None]
    return Constraint("size_bytes", "<=", float(np.quantile(sizes, SIZE_QUANTILE, method="lower")))


def best_of(table: Sequence[Row], limit: Constraint) -> float:
    """The most accuracy that any recipe of the table has within the limit."""
    return float(
        max(row["accuracy"] for row in table if row["state"] == "complete" and row["size_bytes"] <= limit.bound)
    )


def summary(
    name: str, curves: Sequence[Sequence[float | None]], trials: int, best: float, limit: Constraint
) -> list[dict[str, Any]]:
    """One row per number of trials: over the seeds that have found something feasible by then. A curve that ended early (a grid without
    more points) stays where it was."""
    from scipy.stats import t

    found = []
    for number in range(trials):
        values = [curve[min(number, len(curve) - 1)] for curve in curves]
        known = [value for value in values if value is not None]
        full = len(known) == len(values)
        mean = statistics.fmean(known) if full else None
        half = None
        if full and len(known) > 1:
            half = float(t.ppf(0.975, len(known) - 1)) * statistics.stdev(known) / len(known) ** 0.5
        found.append(
            {
                "source": "table",
                "sampler": name,
                "trial": number + 1,
                "seeds": len(values),
                "seeds_with_a_feasible_one": len(known),
                "mean": mean,
                "low_95": None if mean is None or half is None else mean - half,
                "high_95": None if mean is None or half is None else mean + half,
                "worst_seed": min(known) if full else None,
                "best_seed": max(known, default=None),
                "near_the_best": sum(value >= best - NEAR_PP / 100 for value in known),
                "best_there_is": best,
                "size_limit_bytes": limit.bound,
            }
        )
    return found


def _band(row: Row) -> tuple[float, float, float]:
    """In percent; no share is below none or above all."""
    return row["trial"], 100 * max(0.0, row["low_95"]), 100 * min(1.0, row["high_95"])


def drawn(rows: Sequence[Row], samplers: Sequence[str]) -> str:
    """All curves as one SVG; empty where nothing was found."""
    curves = {}
    for name in samplers:
        own = [row for row in rows if row["sampler"] == name]
        table = [row for row in own if row["source"] == "table" and row["mean"] is not None]
        curves[name] = Curve(
            [(row["trial"], 100 * row["mean"]) for row in table],
            [_band(row) for row in table if row["low_95"] is not None],
            [(row["trial"], 100 * row["value"]) for row in own if row["source"] == "live" and row["value"] is not None],
        )
    if not any(curve.points or curve.marks for curve in curves.values()):
        return ""
    tops = [row["best_there_is"] for row in rows if row["source"] == "table"]
    seeds = max((row["seeds"] for row in rows if row["source"] == "table"), default=0)
    # A title holds about eighty letters.
    below = f"validation accuracy (%): mean of {seeds} seeds and its 95 % interval; dashed: one live search"
    top = 100 * tops[0] if tops else None
    return picture(curves, "Best accuracy within the size limit", "trials", below, top)
