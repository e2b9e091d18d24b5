"""A comparison's verdict in a sentence: why it is what it is, and what it would take to settle an open one. Pure.

Place in the flow: beside `harness.compare`, whose pairs carry the sentence into every report and the JSON.
"""

from __future__ import annotations

import math

from harness.stats.compare import DIFFERENCE, EQUIVALENCE, MINIMUM_RUNS, Comparison
from harness.stats.stopping import StoppingRule, stand

# More runs than this nobody makes: the ratio lies too near a bound to be told from it.
MOST_RUNS = 500
_FASTER, _SLOWER = math.exp(-DIFFERENCE), math.exp(DIFFERENCE)
_LOW, _HIGH = math.exp(-EQUIVALENCE), math.exp(EQUIVALENCE)


def further_runs(comparison: Comparison, family: int = 1) -> int | None:
    """About how many more runs should settle an inconclusive comparison, one of `family` in its table.

    By the rule that an interval narrows with the square root of the runs, at the level that Holm's correction may ask for. 0 when
    it is settled; None when no number of runs that anybody makes would do it, or there is nothing to reckon from.
    """
    if comparison.verdict != "inconclusive":
        return 0
    if comparison.ratio is None and comparison.n < MINIMUM_RUNS and comparison.n > 0:
        return MINIMUM_RUNS - comparison.n
    if comparison.ratio is None:
        return None
    rule = StoppingRule(min_runs=0, max_runs=0, target=0.0, stop_on="verdict")
    count = stand(rule, [], comparison, family).further
    return math.ceil(count) if count <= MOST_RUNS else None


def explain(comparison: Comparison, family: int = 1) -> str:
    """One sentence: the interval, the bound that decides, and for an open verdict what would settle it."""
    if comparison.ratio is None or comparison.low is None or comparison.high is None:
        why = comparison.reason or "there is no interval"
        more = further_runs(comparison, family)
        return f"{why}; {_runs(more)} would give one" if more else why
    interval = f"[{comparison.low:.3f}–{comparison.high:.3f}]"
    if comparison.verdict == "faster":
        return f"the interval {interval} lies wholly below {_FASTER:.2f}"
    if comparison.verdict == "slower":
        return f"the interval {interval} lies wholly above {_SLOWER:.2f}"
    if comparison.verdict == "equivalent":
        return f"the interval {interval} lies wholly between {_LOW:.2f} and {_HIGH:.2f}"
    why = comparison.reason or f"the interval {interval} is too wide{_between(comparison)}"
    more = further_runs(comparison, family)
    if more is None:
        return f"{why}; a ratio so near the bound of a claim will hardly be settled by more runs"
    return f"{why}; about {_runs(more)} would settle it"


def _between(comparison: Comparison) -> str:
    """What the interval leaves open."""
    low, high = comparison.low or 0.0, comparison.high or 0.0
    if low < _FASTER and high > _SLOWER:
        return ": it may be faster, the same or slower"
    if low < _FASTER:
        return ": it may be faster or the same"
    return ": it may be slower or the same" if high > _SLOWER else ""


def _runs(count: int) -> str:
    return f"{count} more run{'' if count == 1 else 's'}"
