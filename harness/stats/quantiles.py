"""Medians and percentiles with distribution-free intervals, and the sample sizes below which they are not given.

Pure functions of numbers, read by `harness.table` and `harness.choose`. Definitions:

- median: the middle value, or the mean of the two middle values;
- any other percentile: the nearest rank, that is the smallest sample with at least a share `q` of all samples at or below
  it (never interpolated, so a p99 is a latency that really occurred);
- interval: the two order statistics between which the true quantile lies with at least 95 %, at most 2.5 % beyond either
  end, from the binomial distribution. It assumes independent values, so over latency it is taken over **runs**, not over
  the samples of one run; p90 and p99 of pooled samples get theirs from a bootstrap of whole runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.distributions import binomial_cdf, t_quantile

CONFIDENCE = 0.95
RESAMPLES = 1000
# Samples among which the bootstrap looks first.
_GRID = 2048
# MLPerf Inference rules, early stopping: one-sided confidence of the percentile estimate.
EARLY_STOPPING_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Quantile:
    """An estimate from `n` values. `value` or the interval is None below the minimum n; then `reason` says so."""

    q: float
    n: int
    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None


def minimum_n(q: float, confidence: float = CONFIDENCE) -> int:
    """The fewest values from which a quantile has a two-sided interval: 6 for the median, 36, 72, 368 for p90, p95, p99."""
    return math.ceil(math.log((1.0 - confidence) / 2.0) / math.log(max(q, 1.0 - q)))


def nearest_rank(n: int, q: float) -> int:
    """1-based rank of the `q` quantile of `n` sorted values."""
    # 0.9 * 10 must be rank 9, whatever binary rounding makes of the product.
    return min(max(math.ceil(n * q - 1e-9), 1), n)


@lru_cache(maxsize=1024)
def interval_ranks(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """1-based ranks (low, high) of the order statistics that bound the `q` quantile; None when n is too small."""
    alpha = (1.0 - confidence) / 2.0
    if binomial_cdf(0, n, q) > alpha or 1.0 - binomial_cdf(n - 1, n, q) > alpha:
        return None
    # Largest low with P(B < low) ≤ alpha, smallest high with P(B ≥ high) ≤ alpha; both tails are monotone in the rank.
    left, right = 1, n
    while left < right:
        middle = (left + right + 1) // 2
        left, right = (middle, right) if binomial_cdf(middle - 1, n, q) <= alpha else (left, middle - 1)
    low = left
    left, right = low, n
    while left < right:
        middle = (left + right) // 2
        left, right = (left, middle) if 1.0 - binomial_cdf(middle - 1, n, q) <= alpha else (middle + 1, right)
    return low, left


def _not_enough(n: int, needed: int, what: str) -> str:
    return f"n/a (n={n}): {what} needs at least {needed}"


def median(values: ArrayLike, confidence: float = CONFIDENCE) -> Quantile:
    """Median of independent values (run medians) with its interval; the interval alone is None below n = 6.

    Raises ValueError for an empty sequence.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    n = int(ordered.size)
    if n == 0:
        raise ValueError("the median of no values")
    ranks = interval_ranks(n, 0.5, confidence)
    value = float(np.median(ordered))
    if ranks is None:
        reason = _not_enough(n, minimum_n(0.5, confidence), f"a {confidence:.0%} interval of the median")
        return Quantile(0.5, n, value, None, None, reason)
    return Quantile(0.5, n, value, float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1]))


def percentile(values: ArrayLike, q: float, confidence: float = CONFIDENCE) -> Quantile:
    """Nearest-rank percentile of independent values with its interval; everything is None below the minimum n."""
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    n = int(ordered.size)
    ranks = interval_ranks(n, q, confidence) if n else None
    if ranks is None:
        return Quantile(q, n, None, None, None, _not_enough(n, minimum_n(q, confidence), f"p{q * 100:g}"))
    low, high = (float(ordered[rank - 1]) for rank in ranks)
    return Quantile(q, n, float(ordered[nearest_rank(n, q) - 1]), low, high)


@dataclass(frozen=True, slots=True)
class Tails:
    """The slow ends of several runs, sorted, and what is needed to know of the rest.

    Enough for every percentile from the one they were made for upwards, of all runs together and of any resample of whole runs: none of
    those lies below the smallest of the runs' own. `sizes`: samples of each run; `below`: how many of these are not in its end;
    `runs`: the ends; `ordered`: all ends as one; `least`: the smallest sample of all runs (nan when there is none).
    """

    sizes: tuple[int, ...]
    below: tuple[int, ...]
    runs: tuple[NDArray[Any], ...]
    ordered: NDArray[Any]
    least: float

    @property
    def n(self) -> int:
        """Samples of all runs."""
        return sum(self.sizes)

    def at(self, rank: int) -> float:
        """The sample of that 1-based rank among all. Raises ValueError when it is not one of those kept."""
        place = rank - 1 - sum(self.below)
        if place < 0:
            raise ValueError(f"rank {rank} of {self.n} is not in the ends that were kept")
        return float(self.ordered[place])

    def own(self, q: float) -> list[Any]:
        """The `q` quantile of each run by itself."""
        each = zip(self.runs, self.sizes, self.below, strict=True)
        return [run[nearest_rank(size, q) - 1 - below] for run, size, below in each]


def tails(runs: Sequence[ArrayLike], q: float) -> Tails:
    """The slow ends of runs (float or int64 [samples] each, in any order) as far as quantiles from `q` on need them.

    Sorting everything would take five times as long, and no percentile asks for the order of the fast samples.
    """
    arrays = [array for array in map(_numbers, runs) if array.size]
    if not arrays:
        return Tails((), (), (), np.zeros(0), math.nan)
    lowest = min(_nth(array, nearest_rank(array.size, q) - 1) for array in arrays)
    below = [int(np.count_nonzero(array < lowest)) for array in arrays]
    kept = [np.sort(np.partition(array, less)[less:]) for array, less in zip(arrays, below, strict=True)]
    least = float(min(array.min() for array in arrays))
    sizes = tuple(array.size for array in arrays)
    return Tails(sizes, tuple(below), tuple(kept), np.sort(np.concatenate(kept)), least)


def pooled_percentile(
    runs: Sequence[ArrayLike] | Tails,
    q: float,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Quantile:
    """Nearest-rank percentile of the samples of all runs, its interval from a seeded bootstrap of whole runs.

    Samples of one run resemble each other, so runs are drawn with replacement, each with all its samples. The value is
    None below the minimum n of samples; the interval is None below six runs, from which a bootstrap comes out too narrow.
    `runs`: their samples, or their `tails` for this `q` or a lower one.
    """
    ends = runs if isinstance(runs, Tails) else tails(runs, q)
    n = ends.n
    needed = minimum_n(q, confidence)
    if n < needed:
        return Quantile(q, n, None, None, None, _not_enough(n, needed, f"p{q * 100:g}"))
    value = ends.at(nearest_rank(n, q))
    if len(ends.runs) < minimum_n(0.5, confidence):
        reason = _not_enough(
            len(ends.runs), minimum_n(0.5, confidence), f"a bootstrap interval of p{q * 100:g} over runs"
        )
        return Quantile(q, n, value, None, None, reason)
    estimates = _bootstrap(ends, q, seed=seed, resamples=resamples)
    alpha = _expanded(len(ends.runs), confidence)
    low, high = np.quantile(estimates, [alpha, 1.0 - alpha], method="nearest")
    half = _student(estimates, len(ends.runs), confidence)
    # No quantile lies below the least sample, but it may well lie beyond the largest seen so far.
    return Quantile(q, n, value, max(ends.least, min(float(low), value - half)), max(float(high), value + half))


def _expanded(n: int, confidence: float) -> float:
    """The tail to cut from a bootstrap of `n` things: a plain percentile interval is too narrow for few.

    Expanded percentile interval (Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician
    69, 2015): the tail that a normal distribution has beyond Student's t, widened by sqrt(n / (n - 1)).
    """
    t = t_quantile((1.0 + confidence) / 2.0, n - 1.0)
    return NormalDist().cdf(-math.sqrt(n / (n - 1.0)) * t)


def _numbers(values: ArrayLike) -> NDArray[Any]:
    """The values in one dimension. Integers stay integers."""
    array = np.asarray(values).ravel()
    return array if array.dtype == np.int64 else array.astype(np.float64)


def _nth(array: NDArray[Any], place: int) -> Any:
    """The value that would stand there if the array were sorted."""
    return np.partition(array, place)[place]


def _student(estimates: NDArray[np.float64], n: int, confidence: float) -> float:
    """Half of Student's interval with the bootstrap's standard error, of `n` runs (Efron and Tibshirani 1993, chapter 12.5).

    Resamples of few runs cannot reach beyond the slowest of them, the truth can: with six runs the percentile interval alone held a p90 in
    77-93 % of made-up sessions, together with this in 87-96 % (docs/methodology).
    """
    error = float(np.std(estimates, ddof=1)) * math.sqrt(n / (n - 1.0))
    return t_quantile((1.0 + confidence) / 2.0, n - 1.0) * error


@lru_cache(maxsize=8)
def _draws(seed: int, runs: int, resamples: int) -> NDArray[np.int64]:
    """How often each run is in each resample: int64 [resamples, runs]. All variants of a session are resampled alike."""
    found = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1.0 / runs), size=resamples)
    found.flags.writeable = False
    return found


def _at_or_below(parts: Sequence[NDArray[Any]], values: NDArray[Any]) -> NDArray[np.int64]:
    """How many samples of each part are no larger than each value: int64 [values, parts]."""
    found = np.empty((values.size, len(parts)), dtype=np.int64)
    for number, part in enumerate(parts):
        found[:, number] = np.searchsorted(part, values, side="right")
    return found


def _bootstrap(ends: Tails, q: float, *, seed: int, resamples: int) -> NDArray[np.float64]:
    """The `q` quantile of each resample of runs.

    All resamples search together for the smallest sample with enough samples at or below it, so that no resample has to
    be sorted, nor even made. It lies between the smallest and the largest of the runs' own quantiles: at the largest, each
    run has its share at or below, and below the smallest none has. It is looked for among a few of the samples first.
    """
    draws = _draws(seed, len(ends.runs), resamples)
    own = ends.own(q)
    first, last = np.searchsorted(ends.ordered, [min(own), max(own)])
    ordered = ends.ordered[first : last + 1]
    starts = [int(np.searchsorted(run, ordered[0])) for run in ends.runs]
    parts = [
        run[start : np.searchsorted(run, ordered[-1], side="right")]
        for run, start in zip(ends.runs, starts, strict=True)
    ]
    target = np.ceil(draws @ np.array(ends.sizes) * q - 1e-9) - draws @ (np.array(starts) + np.array(ends.below))
    grid = np.unique(np.linspace(0, ordered.size - 1, _GRID).astype(np.int64))
    below = _at_or_below(parts, ordered[grid])
    low = np.zeros(resamples, dtype=np.int64)
    high = np.full(resamples, grid.size - 1, dtype=np.int64)
    while np.any(low < high):
        middle = (low + high) // 2
        reached = np.einsum("ij,ij->i", draws, below.take(middle, axis=0)) >= target
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    low, high = np.where(low > 0, grid[low - 1] + 1, 0), grid[low]
    while np.any(low < high):
        middle = (low + high) // 2
        # Many resamples ask for the same sample.
        asked, back = np.unique(middle, return_inverse=True)
        counts = _at_or_below(parts, ordered[asked])
        reached = np.einsum("ij,ij->i", draws, counts.take(back, axis=0)) >= target
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return np.asarray(ordered[low], dtype=np.float64)


@lru_cache(maxsize=1024)
def early_stopping_rank(n: int, q: float, confidence: float = EARLY_STOPPING_CONFIDENCE) -> int | None:
    """How many of `n` latencies from the top the MLPerf early-stopping estimate stands; None when n is too small.

    MLPerf Inference rules, "early stopping": t is the largest number of queries over a latency bound for which the odds
    of seeing at most t such queries among n, were the true share within the bound below `q`, stay under 1 - confidence:
    P(Binomial(n, 1 - q) ≤ t) < 1 - confidence. The estimate is the t-th highest latency; t ≥ 1 is required, which
    takes 64 queries for p90 and 662 for p99.
    """
    if n < 1 or binomial_cdf(1, n, 1.0 - q) >= 1.0 - confidence:
        return None
    left, right = 1, n
    while left < right:
        middle = (left + right + 1) // 2
        left, right = (middle, right) if binomial_cdf(middle, n, 1.0 - q) < 1.0 - confidence else (left, middle - 1)
    return left


def early_stopping_estimate(samples: ArrayLike | Tails, q: float) -> float | None:
    """MLPerf's single-stream percentile estimate (99 % confidence), or None when there are too few samples.

    `samples`: all of them, or the `tails` of the runs for this `q` or a lower one.
    """
    if isinstance(samples, Tails):
        rank = early_stopping_rank(samples.n, q)
        # So far from the top that fewer samples are slower than the quantile itself leaves out: always within the ends.
        return None if rank is None else samples.at(samples.n + 1 - rank)
    array = _numbers(samples)
    rank = early_stopping_rank(int(array.size), q)
    return None if rank is None else float(_nth(array, array.size - rank))
