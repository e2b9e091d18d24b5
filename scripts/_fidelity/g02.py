"""G2: two names for one and the same file are hardly ever called different.

200 live comparisons of a real model with itself, each a whole session with its own processes, stopping included.
"""

from __future__ import annotations

from collections import Counter

import live
from result import Goal, Result, rate
from trials import count

BOUND = 0.05


def measure(seed: int) -> Result:
    """Count the verdicts."""
    found = live.trials(seed, 0.0, count(200))
    verdicts = Counter(str(item["verdict"]) for item in found)
    wrong = verdicts["faster"] + verdicts["slower"]
    figure = rate(wrong, len(found))
    return Result(
        passed=figure["rate"] <= BOUND,
        figure={"false": figure["rate"], "interval": [figure["low"], figure["high"]], "verdicts": dict(verdicts)},
        bound="≤ 5 % of A/A comparisons called faster or slower",
        n=len(found),
        note=live.note(found),
        details=live.details(found),
    )


GOAL = Goal("A/A: false verdicts under the whole rule, stopping included", measure, seconds=1400)
