"""Looking several times at a growing row of runs without being fooled more often: how much a p-value and an interval must give way.

Pure functions of numbers, used by `harness.stats.compare` for sessions that stopped by their verdicts. Whoever looks after each run and
stops when a t interval pleases is wrong more often than the interval says (Armitage, McPherson and Rowe 1969, J. R. Stat. Soc. A 132,
235–244). Repeated confidence intervals (Jennison and Turnbull 1989, J. R. Stat. Soc. B 51, 305–361) hold at all planned looks
together: each is a t interval at a smaller nominal level. The smallest p of looks at `first`, `first` + 1, …, `last` runs falls
below a p ≤ 0.05 with a chance of at most p times the smaller of

- the number of looks (Bonferroni), and
- 1 + L · φ(z) (z − 1/z) / p + 0.2 · log2(first) · √L, with L = ln(last / first), φ the normal density, z its 1 − p/2 quantile.

A mean of growing n crosses a level like an Ornstein-Uhlenbeck process over ln n; the term in L is its rate of crossing (Miller
and Siegmund 1982, Biometrics 38, 1011–1016). The last term, for looks one by one and few of them, bounds from above a simulation
of a million rows of t statistics of 3 to 96 runs; tests/test_stats_looks.py makes it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

# Beyond this p-values are all alike; the normal quantile has no more digits there.
_SMALLEST = 1e-15
# And p-values above this are of no consequence: they are all adjusted by one factor, which keeps their order.
_LARGEST = 0.1
_FEW_LOOKS = 0.2
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Looks:
    """A look after each run from the `first` number of runs to the `last` at most. Raises ValueError unless 1 ≤ first ≤ last."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"looks from {self.first} to {self.last} runs")

    @property
    def count(self) -> int:
        """How many looks there may be."""
        return self.last - self.first + 1


def adjusted(p: float, looks: Looks) -> float:
    """A p-value that holds although it may have been looked at after each run: never smaller than `p`, at most 1."""
    small = max(min(p, _LARGEST), _SMALLEST)
    z = _NORMAL.inv_cdf(1.0 - small / 2.0)
    span = math.log(looks.last / looks.first)
    rate = _NORMAL.pdf(z) * (z - 1.0 / z) / small
    crossing = 1.0 + span * rate + _FEW_LOOKS * math.log2(looks.first) * math.sqrt(span)
    return min(1.0, p * min(float(looks.count), crossing))


@lru_cache(maxsize=1024)
def nominal_level(alpha: float, looks: Looks) -> float:
    """The p-value that becomes `alpha` when it is adjusted: an interval at 1 − this level is a repeated confidence interval."""
    low, high = 0.0, alpha
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if adjusted(middle, looks) <= alpha else (low, middle)
    return low if low > 0.0 else alpha / looks.count


def looks_of(protocol: Mapping[str, Any]) -> Looks | None:
    """The looks that a session's protocol plans at the ratios of its variants; None where stopping never looked at a ratio."""
    first, last = int(protocol.get("runs", 1)), int(protocol.get("max_runs", 1))
    if protocol.get("stop_on", "estimate") == "estimate" or last <= first:
        return None
    return Looks(first, last)
