"""G5: the size of an effect comes out as it was put in: 3, 5, 10 and 20 % within one point.

The trials of G4 (made now if they are not there), and 20 more at 10 and 20 %. Asked of the mean of each size and of single trials.
"""

from __future__ import annotations

import statistics
from typing import Any

import live
from result import Goal, Result, rate
from trials import count

COUNTS = {0.03: 100, 0.05: 100, 0.10: 20, 0.20: 20}
POINT, SINGLE = 0.01, 0.95


def level(size: float, items: list[dict[str, Any]]) -> dict[str, Any]:
    """How far off at one size: the mean error and its standard error, and the share of single trials within one point."""
    known = [item for item in items if item["ratio"] is not None]
    errors = [item["ratio"] - 1.0 - size for item in known]
    within = rate(sum(abs(error) <= POINT for error in errors), len(items))
    return {
        "mean_error": statistics.fmean(errors),
        "standard_error": statistics.stdev(errors) / len(errors) ** 0.5 if len(errors) > 1 else None,
        "largest": max(errors, key=abs),
        "within_one_point": within,
        # An honest interval holds what was put in 95 times of 100.
        "held_by_interval": rate(sum(i["low"] <= 1.0 + size <= i["high"] for i in known), len(items)),
        "n": len(items),
    }


def measure(seed: int) -> Result:
    """Errors of the estimated effect at each size."""
    trials = live.trials_of(seed, {size: count(number) for size, number in COUNTS.items()})
    levels = {f"{size:.0%}": level(size, items) for size, items in trials.items()}
    return Result(
        passed=all(
            abs(found["mean_error"]) <= POINT and found["within_one_point"]["rate"] >= SINGLE
            for found in levels.values()
        ),
        figure={
            name: {"mean error": found["mean_error"], "within": found["within_one_point"]["rate"]}
            for name, found in levels.items()
        },
        bound="mean error ≤ 1 point at every size, and ≥ 95 % of single trials within 1 point",
        n=sum(found["n"] for found in levels.values()),
        note=live.note([item for items in trials.values() for item in items]),
        details=levels,
    )


GOAL = Goal("the effect recovered at 3, 5, 10, 20 %", measure, seconds=300)
