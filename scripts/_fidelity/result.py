"""What a goal of docs/methodology answers, and how many of a count are right with what interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.stats.distributions import binomial_cdf


@dataclass(frozen=True)
class Result:
    """`figure`: the headline figure(s), as JSON; `bound`: what it must keep, in words; `n`: trials behind it; `note`: what a reader
    must know, above all why it failed; `details`: everything else worth keeping."""

    passed: bool
    figure: Any
    bound: str
    n: int
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """`measure(seed)` does the work; `seconds`: what it takes about, on two cores, for those who choose what to run."""

    title: str
    measure: Callable[[int], Result]
    seconds: float


def rate(hits: int, n: int, confidence: float = 0.95) -> dict[str, float | int]:
    """A share with its exact interval (Clopper and Pearson, Biometrika 26, 1934), for tables and notes."""
    alpha = (1.0 - confidence) / 2.0

    def solve(wanted: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2.0
            low, high = (middle, high) if wanted(middle) else (low, middle)
        return (low + high) / 2.0

    lower = 0.0 if hits == 0 else solve(lambda p: 1.0 - binomial_cdf(hits - 1, n, p) <= alpha)
    upper = 1.0 if hits == n else solve(lambda p: binomial_cdf(hits, n, p) > alpha)
    return {"hits": hits, "n": n, "rate": hits / n, "low": lower, "high": upper}
