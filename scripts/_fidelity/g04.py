"""G4: a real model that is really 3 % slower is found to be slower, and one that is 5 % slower nearly always.

The slowdown is a spin of the CPU after each inference inside the engine's session; 100 trials each, in random order.
"""

from __future__ import annotations

from typing import Any

import live
from result import Goal, Result, rate
from trials import count

# Slowdown → share that must be found; within so many runs, and so many seconds of wall time a pair.
WANTED = {0.03: 0.90, 0.05: 0.99}
RUNS, SECONDS = 10, 60.0


def found_in(trials: list[dict[str, Any]]) -> int:
    """How many were found within the limits."""
    return sum(t["verdict"] == "slower" and t["runs"] <= RUNS and t["seconds"] <= SECONDS for t in trials)


def measure(seed: int) -> Result:
    """Count what was found at each size."""
    trials = live.trials_of(seed, {size: count(100) for size in WANTED})
    rates = {size: rate(found_in(trials[size]), len(trials[size])) for size in WANTED}
    every = [item for items in trials.values() for item in items]
    return Result(
        passed=all(rates[size]["rate"] >= share for size, share in WANTED.items()),
        figure={f"{size:.0%}": {"found": r["rate"], "interval": [r["low"], r["high"]]} for size, r in rates.items()},
        bound=f"3 % found ≥ 90 %, 5 % found ≥ 99 %, each within {RUNS} runs and {SECONDS:.0f} s a pair",
        n=len(every),
        note=live.note(every),
        details={f"{size:.0%}": live.details(items) for size, items in trials.items()},
    )


GOAL = Goal("a slowdown of known size is found", measure, seconds=1400)
