"""How many runs a fixed plan needs, and how much device time an adaptive one: by drawing sessions from the runs of a long real one.

Used by decision_time.py. A fixed plan has to be made beforehand: its length is the smallest at which nine sessions in ten settle all of
their verdicts (one look at the end, plain 95 % intervals, Holm). The adaptive plan looks after each run, with intervals that are widened
for that; it may go on until as many of its sessions are settled too. Both keep false claims in the whole table at 5 %.

Sessions are drawn from the runs of a real one, with replacement (Efron 1979, Annals of Statistics 7, 1–26), all variants of
an engine together, because one process measured them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.stats import compare
from harness.stats.compare import MINIMUM_RUNS, Comparison
from harness.stats.looks import Looks

# Nine sessions in ten are to be settled.
SETTLED = 0.9
MOST_RUNS = 1000
Ratios = dict[str, dict[str, list[float]]]  # engine → variant → log ratio to its base, one per run


@dataclass(frozen=True)
class Seconds:
    """What a run of an engine takes: `start`, and `each` for every variant in it, the base among them."""

    start: float
    each: float

    def run(self, variants: int) -> float:
        return self.start + self.each * variants


def fitted(runs: Sequence[tuple[int, float]]) -> Seconds:
    """By least squares, of (variants, seconds) of runs."""
    counts, seconds = (np.array(column, dtype=np.float64) for column in zip(*runs, strict=True))
    if np.ptp(counts) == 0.0:
        return Seconds(0.0, float(seconds.mean() / counts.mean()))
    each, start = np.polyfit(counts, seconds, 1)
    return Seconds(max(0.0, float(start)), float(each))


def drawn(pool: Ratios, runs: int, rng: np.random.Generator) -> Ratios:
    """A session of that many runs."""
    found: Ratios = {}
    for engine, variants in pool.items():
        size = min(len(values) for values in variants.values())
        which = rng.integers(0, size, runs)
        found[engine] = {name: [values[index] for index in which] for name, values in variants.items()}
    return found


def _judged(
    ratios: Mapping[tuple[str, str], Sequence[float]], looks: Looks | None
) -> dict[tuple[str, str], Comparison]:
    return dict(zip(ratios, compare.holm([compare.paired(values, looks) for values in ratios.values()]), strict=True))


def settled_after(session: Ratios, runs: int) -> bool:
    """Whether one look after that many runs settles everything."""
    first = {(engine, name): values[:runs] for engine, own in session.items() for name, values in own.items()}
    return all(item.verdict != "inconclusive" for item in _judged(first, None).values())


def fixed_length(pool: Ratios, sessions: int, seed: int) -> tuple[int | None, dict[int, float]]:
    """The smallest number of runs at which SETTLED of the sessions are; None when MOST_RUNS do not suffice. And the shares seen."""
    shares: dict[int, float] = {}

    def share(runs: int) -> float:
        if runs not in shares:
            rng = np.random.default_rng([seed, 1])
            shares[runs] = sum(settled_after(drawn(pool, runs, rng), runs) for _ in range(sessions)) / sessions
        return shares[runs]

    low, high = MINIMUM_RUNS - 1, MINIMUM_RUNS
    while share(high) < SETTLED:
        if high >= MOST_RUNS:
            return None, shares
        low, high = high, min(MOST_RUNS, high * 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) >= SETTLED else (middle, high)
    return high, dict(sorted(shares.items()))


def adaptive(session: Ratios, most: int, seconds: Mapping[str, Seconds]) -> tuple[bool, float]:
    """Whether one adaptive session settles everything within `most` runs, and the device time it takes."""
    looks = Looks(MINIMUM_RUNS, most)
    names = [(engine, name) for engine, own in session.items() for name in own]
    mine: dict[tuple[str, str], list[float]] = {key: [] for key in names}
    known: dict[tuple[str, str], Comparison] = {}
    spent = 0.0
    for number in range(most):
        verdicts = dict(zip(known, compare.holm(list(known.values())), strict=True))
        wanted = [key for key in names if key not in verdicts or verdicts[key].verdict == "inconclusive"]
        if not wanted:
            return True, spent
        for engine in session:
            asked = [key for key in wanted if key[0] == engine]
            spent += seconds[engine].run(len(asked) + 1) if asked else 0.0
        for key in wanted:
            mine[key].append(session[key[0]][key[1]][number])
            if len(mine[key]) >= MINIMUM_RUNS:
                known[key] = compare.paired(mine[key], looks)
    return all(item.verdict != "inconclusive" for item in compare.holm(list(known.values()))), spent


def planned(pool: Ratios, seconds: Mapping[str, Seconds], *, sessions: int, seed: int) -> dict[str, Any]:
    """Both plans: how many runs, how often settled, how much device time; and the ratio fixed / adaptive."""
    length, shares = fixed_length(pool, sessions, seed)
    if length is None:
        return {
            "ratio": None,
            "why": f"not even {MOST_RUNS} runs settle {SETTLED:.0%} of the sessions",
            "shares": shares,
        }
    fixed_s = length * sum(seconds[engine].run(len(own) + 1) for engine, own in pool.items())
    most = length
    while True:
        rng = np.random.default_rng([seed, 2])
        found = [adaptive(drawn(pool, most, rng), most, seconds) for _ in range(sessions)]
        share = sum(done for done, _ in found) / sessions
        if share >= SETTLED or most >= MOST_RUNS:
            break
        most = min(MOST_RUNS, max(most + 1, round(most * 1.25)))
    adaptive_s = float(np.mean([spent for _, spent in found]))
    return {
        "ratio": fixed_s / adaptive_s,
        "sessions": sessions,
        "fixed": {"runs": length, "seconds": fixed_s, "settled": shares[length], "shares": shares},
        "adaptive": {"most_runs": most, "seconds": adaptive_s, "settled": share},
        "seconds": {engine: {"start": own.start, "each": own.each} for engine, own in seconds.items()},
    }
