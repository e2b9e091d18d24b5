"""Is one variant faster than another? Ratios with intervals over runs, verdicts, and Holm's correction.

Pure functions of numbers, read by `harness.compare` and `harness.gate`. The unit of replication is the run: each pair of
runs gives one log ratio; Student's t interval is taken over those, never over samples. A ratio is always
candidate / reference, so below 1 the candidate is faster.

Two claims can be made of a pair. "faster"/"slower": the 95 % interval lies wholly beyond ±1 %. "equivalent": it lies
wholly inside ±2 %. Each is a t test (p below), and at most one of the two can be false of the same pair (a ratio is not
both within 1 % and beyond 2 %), so Holm's step-down over the pairs of a table, with the smaller p of each, keeps the chance
of any false claim in the whole table at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.distributions import t_cdf, t_quantile
from harness.stats.looks import Looks, adjusted, nominal_level

ALPHA = 0.05
DIFFERENCE = math.log(1.01)
EQUIVALENCE = math.log(1.02)
# Below this a t interval is so wide that nothing could follow from it.
MINIMUM_RUNS = 3
MINIMUM_DEVICES = 5

Verdict = Literal["faster", "slower", "equivalent", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ratio` = candidate / reference with its 95 % interval, from `n` runs (the smaller number where unpaired).

    `p_value`: of the stronger of the two claims; `p_adjusted` the same after Holm, equal to it for a single comparison.
    `looks`: how often the runs may have been looked at before there were enough; interval and p-values are widened for that.
    `reason` is given where no interval exists or where Holm alone took the claim back.
    """

    ratio: float | None
    low: float | None
    high: float | None
    n: int
    p_value: float | None
    p_adjusted: float | None
    verdict: Verdict
    reason: str | None = None
    looks: int = 1


def run_log_ratio(candidate: ArrayLike, reference: ArrayLike) -> float:
    """One run's log ratio: the median over its blocks of log(candidate block median / reference block median).

    Both are float [blocks], the same blocks in the same order, > 0. Raises ValueError when lengths differ or are 0.
    """
    a, b = np.asarray(candidate, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"blocks do not pair: {a.shape} and {b.shape}")
    return float(np.median(np.log(a / b)))


def _too_few(n: int) -> Comparison:
    reason = f"n/a (n={n}): a comparison needs at least {MINIMUM_RUNS} runs"
    return Comparison(None, None, None, n, None, None, "inconclusive", reason)


def paired(log_ratios: Sequence[float], looks: Looks | None = None) -> Comparison:
    """Compare by one log ratio per pair of runs made together (same process, or same round).

    `looks`: given where the number of runs was decided by looking at these ratios; then the interval is a repeated confidence
    interval and p-values are adjusted, so that the verdict holds however often it was looked at (`harness.stats.looks`).
    """
    n = len(log_ratios)
    if n < MINIMUM_RUNS:
        return _too_few(n)
    array = np.asarray(log_ratios, dtype=np.float64)
    return _judge(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(n), n - 1.0, n, looks)


def unpaired(candidate: Sequence[float], reference: Sequence[float]) -> Comparison:
    """Compare run medians (> 0) of runs that were not made together (Welch's t on their logarithms)."""
    n = min(len(candidate), len(reference))
    if n < MINIMUM_RUNS:
        return _too_few(n)
    a, b = np.log(np.asarray(candidate, dtype=np.float64)), np.log(np.asarray(reference, dtype=np.float64))
    va, vb = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    spread = va * va / (a.size - 1) + vb * vb / (b.size - 1)
    df = (va + vb) ** 2 / spread if spread > 0.0 else float(a.size + b.size - 2)
    return _judge(float(a.mean() - b.mean()), math.sqrt(va + vb), df, n)


def _judge(mean: float, error: float, df: float, n: int, looks: Looks | None = None) -> Comparison:
    level = ALPHA if looks is None else nominal_level(ALPHA, looks)
    half = t_quantile(1.0 - level / 2.0, df) * error
    p_difference = _p_beyond(abs(mean) - DIFFERENCE, error, df)
    p_equivalence = _p_beyond(EQUIVALENCE - abs(mean), error, df)
    if looks is not None:
        p_difference, p_equivalence = adjusted(p_difference, looks), adjusted(p_equivalence, looks)
    p = min(p_difference, p_equivalence)
    verdict = _claim(mean, p_difference, p_equivalence) if p < ALPHA else "inconclusive"
    low, high, count = math.exp(mean - half), math.exp(mean + half), 1 if looks is None else looks.count
    return Comparison(math.exp(mean), low, high, n, p, p, verdict, looks=count)


def _claim(mean: float, p_difference: float, p_equivalence: float) -> Verdict:
    """The claim with the smaller p; a difference beats an equivalence that is just as sure."""
    if p_difference <= p_equivalence:
        return "faster" if mean < 0 else "slower"
    return "equivalent"


def _p_beyond(distance: float, error: float, df: float) -> float:
    """Twice the tail probability, so that p < 0.05 says exactly that the two-sided 95 % interval lies beyond the bound."""
    if distance <= 0.0:
        return 1.0
    if error == 0.0:
        return 0.0
    return min(1.0, 2.0 * (1.0 - t_cdf(distance / error, df)))


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with adjusted p-values, and with claims taken back that do not survive the adjustment."""
    known = [(c.p_value, i) for i, c in enumerate(comparisons) if c.p_value is not None]
    adjusted = list(comparisons)
    worst = 0.0
    for position, (p, index) in enumerate(sorted(known)):
        worst = max(worst, min(1.0, p * (len(known) - position)))
        before = comparisons[index]
        if before.verdict != "inconclusive" and worst >= ALPHA:
            reason = f"{before.verdict} on its own, but not after Holm's correction over {len(known)} comparisons"
            adjusted[index] = replace(before, p_adjusted=worst, verdict="inconclusive", reason=reason)
        else:
            adjusted[index] = replace(before, p_adjusted=worst)
    return adjusted


def geometric_mean(ratios: Sequence[float]) -> Comparison:
    """The overall ratio of one per device (or per variant), each from its own comparison; needs five of them.

    Only ratios are pooled this way, never milliseconds of different devices.
    """
    if len(ratios) < MINIMUM_DEVICES:
        reason = f"n/a (n={len(ratios)}): an overall ratio needs at least {MINIMUM_DEVICES} devices"
        return Comparison(None, None, None, len(ratios), None, None, "inconclusive", reason)
    return paired([math.log(ratio) for ratio in ratios])
