"""Did the device change while it was measured? Trend and change point in time order.

Read by `harness.table`, which flags a row and never trims it. The values are medians of consecutive blocks. Blocks of one
run share that run's own offset (measurement.md: runs differ by more than blocks do), so a plain test over all blocks
would call every such offset a drift. Therefore:

- trend: Mann-Kendall's S (1945; Kendall 1975 for ties) over blocks **across** runs, its p from putting whole runs in any other
  order; and **within** runs, summed over runs as strata (Hirsch, Slack and Smith 1982), where it comes back from run to run. The
  size is a Theil-Sen slope (1950, 1968) times the span;
- change point: Pettitt's test (1979) over all blocks, and the step must also exceed what runs differ by anyway.

Where other variants were measured in the same blocks, the series is also looked at relative to them: what hits all alike
(the machine, a neighbour, heat) cancels out, and with it most of what runs differ by. So a change of this variant alone is found
that the machine's noise would hide, and a change that all share is told as such: the device changed, ratios did not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.distributions import binomial_cdf, t_quantile

P_VALUE = 0.01
TREND_THRESHOLD = 0.02
WARMING_THRESHOLD = 0.005
STEP_THRESHOLD = 0.03
# What comes back in every run must do so beyond a chance of this, or as far beyond as so few runs can tell.
CONSISTENCY = 0.01
# Up to so many runs all orders (all signs) are tried; so many are needed for signs to say anything.
_ALL_ORDERS, _ALL_SIGNS, _SIGNS = 7, 12, 6
BURST_S = 30.0
# Fewer values than this show no trend at any p worth having.
MINIMUM_VALUES = 4
_NORMAL = NormalDist()

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trend:
    """`change`: Theil-Sen slope times the span, relative to the median; positive means slower at the end.

    `within_runs`: whether the span is that of a run (the same change comes back in each) or of the whole series.
    """

    change: float
    p_value: float
    flagged: bool
    within_runs: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """`index`: first value after the step. `change`: relative to the median before it."""

    index: int
    change: float
    p_value: float
    flagged: bool


@dataclass(frozen=True, slots=True)
class Drift:
    """What was found in one series. `burst`/`sustained`: medians of the first 30 s and of the last third of the time;
    None where the series is too short to tell them apart. `shared`: whether the others measured in the same blocks changed
    with it (True: the device changed; False: this variant alone did, and trend or step are relative to the others); None
    where nothing was found or nobody was there to compare with."""

    trend: Trend | None
    step: Step | None
    burst: float | None
    sustained: float | None
    shared: bool | None = None

    @property
    def flagged(self) -> bool:
        """Whether a trend or a step was found."""
        return bool((self.trend and self.trend.flagged) or (self.step and self.step.flagged))


def _median(values: FloatArray) -> float:
    """The median of one or more finite values: to the last bit what numpy's is, in a fifth of the time for the few of a run."""
    half = values.size // 2
    found = np.partition(values, half)
    return float(found[half]) if values.size % 2 else (float(found[:half].max()) + float(found[half])) / 2.0


def _kendall_s(values: FloatArray) -> tuple[float, float]:
    """Mann-Kendall's S and its variance under no trend, corrected for ties."""
    n = values.size
    signs = np.sign(values[None, :] - values[:, None])
    s = float(np.triu(signs, 1).sum())
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    ties = float((counts * (counts - 1) * (2 * counts + 5)).sum())
    return s, (n * (n - 1) * (2 * n + 5) - ties) / 18.0


def _normal_p(s: float, variance: float) -> float:
    """Two-sided p of S, with the continuity correction."""
    if variance <= 0.0 or s == 0.0:
        return 1.0
    return 2.0 * (1.0 - _NORMAL.cdf((abs(s) - 1.0) / math.sqrt(variance)))


def mann_kendall(values: ArrayLike) -> float:
    """Two-sided p-value of a monotone trend (normal approximation with ties and continuity); 1.0 below four values."""
    array = np.asarray(values, dtype=np.float64)
    return 1.0 if array.size < MINIMUM_VALUES else _normal_p(*_kendall_s(array))


def theil_sen(times: ArrayLike, values: ArrayLike) -> float:
    """Median of the slopes of all pairs; 0.0 when there is no pair at different times."""
    t, v = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    rows, columns = np.triu_indices(v.size, 1)
    apart = t[columns] - t[rows]
    usable = apart != 0
    if not usable.any():
        return 0.0
    return _median((v[columns] - v[rows])[usable] / apart[usable])


def pettitt(values: ArrayLike) -> tuple[int, float]:
    """The likeliest change point (index of the first value after it) and Pettitt's approximate two-sided p-value."""
    array = np.asarray(values, dtype=np.float64)
    n = array.size
    if n < MINIMUM_VALUES:
        return 0, 1.0
    ranks = np.sign(array[:, None] - array[None, :]).sum(axis=1)
    u = np.cumsum(ranks)[:-1]
    index = int(np.argmax(np.abs(u)))
    k = abs(float(u[index]))
    return index + 1, min(1.0, 2.0 * math.exp(-6.0 * k * k / (n**3 + n**2)))


def _by_run(values: FloatArray, runs: NDArray[np.int64]) -> list[FloatArray]:
    return [values[runs == run] for run in np.unique(runs)]


@lru_cache(maxsize=8)
def _all_orders(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every order of n things, the first and the second of each of its pairs: int64 [n!, n(n-1)/2] twice."""
    orders = np.array(list(itertools.permutations(range(n))), dtype=np.int64)
    first, second = np.triu_indices(n, 1)
    return orders[:, first], orders[:, second]


def run_order_test(values: ArrayLike, runs: ArrayLike) -> float:
    """Two-sided p of Mann-Kendall's S over blocks of different runs when whole runs may stand in any order.

    `values`: float [blocks] in time order; `runs`: int [blocks], the run of each. Blocks of one run share that run's own offset,
    so runs are what is exchangeable under no trend, not blocks. All orders are tried for up to seven runs; from eight on S is held against
    the normal distribution with its exact variance over all orders, sum(D²) + (sum(rowsum²) - 2 sum(D²)) / 3 over the pairs' own D
    (which is Kendall's n(n-1)(2n+5)/18 for one untied block a run), with continuity correction. 1.0 below four runs.
    """
    array, names = np.asarray(values, dtype=np.float64), np.asarray(runs)
    _, first = np.unique(names, return_index=True)
    parts = [array[names == names[place]] for place in np.sort(first)]
    n = len(parts)
    if n < MINIMUM_VALUES:
        return 1.0
    d = np.zeros((n, n))
    for i, j in itertools.combinations(range(n), 2):
        d[i, j] = float(np.sign(parts[j][None, :] - parts[i][:, None]).sum())
        d[j, i] = -d[i, j]
    upper = np.triu_indices(n, 1)
    s = float(d[upper].sum())
    if n <= _ALL_ORDERS:
        one, two = _all_orders(n)
        sums = d[one, two].sum(axis=1)
        return float((np.abs(sums) >= abs(s)).mean())
    squares = float((d[upper] ** 2).sum())
    return _normal_p(s, squares + (float((d.sum(axis=1) ** 2).sum()) - 2.0 * squares) / 3.0)


@lru_cache(maxsize=8)
def _all_signs(n: int) -> FloatArray:
    """Every way to give n things a sign: float64 [2^n, n]."""
    return np.where(np.arange(2**n)[:, None] >> np.arange(n) & 1, 1.0, -1.0)


def _comes_back(sums: Sequence[float]) -> bool:
    """Whether S of single runs is too one-sided for chance: all signs flipped at random reach it in at most 1 % (of six or
    seven runs: all point the same way).

    Successive blocks of a run resemble each other, which the test over strata takes no account of. Below six runs no one can say.
    """
    limit = max(CONSISTENCY, 2.0 ** (1 - len(sums)))
    if len(sums) < _SIGNS:
        return True
    if len(sums) > _ALL_SIGNS:
        up = sum(value > 0 for value in sums)
        return 2.0 * binomial_cdf(min(up, len(sums) - up), len(sums), 0.5) <= limit
    return float((np.abs(_all_signs(len(sums)) @ np.array(sums)) >= abs(sum(sums))).mean()) <= limit


def _trends(times: FloatArray, values: FloatArray, runs: NDArray[np.int64]) -> list[Trend]:
    """What each test that is valid for this series finds; not yet flagged."""
    names = np.unique(runs)
    centre = _median(values)
    span = float(times[-1] - times[0])
    if names.size == 1:
        return [Trend(theil_sen(times, values) * span / centre, mann_kendall(values), False)]
    sums: list[float] = []
    variance_total = 0.0
    changes = []
    for run in names:
        inside = runs == run
        if inside.sum() >= MINIMUM_VALUES:
            s, variance = _kendall_s(values[inside])
            sums.append(s)
            variance_total += variance
            own = times[inside]
            changes.append(theil_sen(own, values[inside]) * float(own[-1] - own[0]) / _median(values[inside]))
    medians = np.array([_median(part) for part in _by_run(values, runs)])
    middles = np.array([_median(part) for part in _by_run(times, runs)])
    found = [Trend(theil_sen(middles, medians) * span / centre, run_order_test(values, runs), False)]
    if changes and _comes_back(sums):
        p_value = _normal_p(sum(sums), variance_total)
        found.append(Trend(float(np.median(changes)), p_value, flagged=False, within_runs=True))
    return found


def _matters(trend: Trend) -> bool:
    """Whether it is large enough: what falls in every run anew is a warm-up not ended, and what is seen of it only its end."""
    return abs(trend.change) > (WARMING_THRESHOLD if trend.within_runs and trend.change < 0.0 else TREND_THRESHOLD)


def _trend(times: FloatArray, values: FloatArray, runs: NDArray[np.int64]) -> Trend:
    found = _trends(times, values, runs)
    best = min(found, key=lambda trend: (not _matters(trend), trend.p_value))
    return replace(best, flagged=best.p_value < P_VALUE and _matters(best))


def _step(values: FloatArray, runs: NDArray[np.int64]) -> Step:
    index, p = pettitt(values)
    before, after = values[:index], values[index:]
    change = float(np.median(after) / np.median(before)) - 1.0
    flagged = p < P_VALUE and abs(change) > STEP_THRESHOLD and abs(change) > _scatter(before, after, runs)
    return Step(index, change, p, flagged)


def _scatter(before: FloatArray, after: FloatArray, runs: NDArray[np.int64]) -> float:
    """The largest step that the scatter of the runs explains by itself, at the likeliest of all places (Bonferroni)."""
    # Each run is held against its own side, so that the step itself does not count as scatter.
    residual = np.concatenate([before / np.median(before), after / np.median(after)])
    medians = np.array([_median(part) for part in _by_run(residual, runs)])
    if medians.size <= 2:  # noqa: PLR2004 - one run on each side shows no scatter
        return 0.0
    sides = np.unique(runs[: before.size]).size, np.unique(runs[before.size :]).size
    error = float(medians.std(ddof=2)) * math.sqrt(1.0 / sides[0] + 1.0 / sides[1])
    return error * t_quantile(1.0 - P_VALUE / 2.0 / (medians.size - 1), medians.size - 2.0)


def burst_and_sustained(times_s: ArrayLike, values: ArrayLike) -> tuple[float | None, float | None]:
    """Medians of the first 30 s and of the last third of the time; (None, None) when the two would overlap."""
    times, array = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if times.size == 0:
        return None, None
    start, end = float(times[0]), float(times[-1])
    late = start + (end - start) * 2.0 / 3.0
    if late <= start + BURST_S:
        return None, None
    return float(np.median(array[times <= start + BURST_S])), float(np.median(array[times >= late]))


def common_change(others: Sequence[ArrayLike]) -> FloatArray:
    """What several variants measured in the same blocks have in common: float64 [blocks], around 1; NaN where nobody was.

    `others`: for each variant its block medians (> 0), NaN for a block that it does not have. Each is taken relative to its own
    median, and the middle of those is the common change.
    """
    rows = np.array([np.asarray(row, dtype=np.float64) / np.nanmedian(np.asarray(row)) for row in others])
    known = ~np.isnan(rows).all(axis=0)
    found = np.full(rows.shape[1], math.nan)
    found[known] = np.exp(np.nanmedian(np.log(rows[:, known]), axis=0))
    return found


def _moved(times: FloatArray, values: FloatArray, runs: NDArray[np.int64], found: Trend | Step) -> bool:
    """Whether this series, too, moved at least half as far as `found` says, the same way."""
    if isinstance(found, Step):
        change = float(np.median(values[found.index :]) / np.median(values[: found.index])) - 1.0
    elif found.within_runs:
        pairs = [(times[runs == run], values[runs == run]) for run in np.unique(runs)]
        change = float(np.median([theil_sen(t, v) * (t[-1] - t[0]) / _median(v) for t, v in pairs]))
    else:
        change = theil_sen(times, values) * float(times[-1] - times[0]) / _median(values)
    return change * found.change > 0.0 and abs(change) >= abs(found.change) / 2.0


def analyse(
    times_s: Sequence[float],
    values: Sequence[float],
    runs: Sequence[int],
    others: Sequence[Sequence[float]] = (),
) -> Drift:
    """Trend, change point, burst and sustained of one series in time order.

    `times_s`: when each block began, in seconds; `values`: its median (ns, > 0); `runs`: the run it belongs to (any
    integers); `others`: the same blocks of each other variant of these runs, NaN where it has none. Raises ValueError when
    they differ in length.
    """
    lengths = {len(times_s), len(values), len(runs), *(len(other) for other in others)}
    if len(lengths) > 1:
        raise ValueError(f"lengths differ: {len(times_s)} times, {len(values)} values, {len(runs)} runs")
    if len(values) < MINIMUM_VALUES:
        return Drift(None, None, None, None)
    t, v = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    r = np.asarray(runs, dtype=np.int64)
    burst, sustained = burst_and_sustained(t, v)
    alone = Drift(_trend(t, v, r), _step(v, r), burst, sustained)
    beside = [row for row in (np.asarray(other, dtype=np.float64) for other in others) if not np.isnan(row).all()]
    common = common_change(beside) if beside else np.full(v.size, math.nan)
    at = np.isfinite(common)
    if at.sum() < MINIMUM_VALUES:
        return alone
    own = _against(t[at], v[at], r[at], common[at], [row[at] for row in beside])
    if own != (None, None):
        return Drift(*own, burst, sustained, shared=False)
    seen = [item for item in (alone.trend, alone.step) if item is not None and item.flagged]
    together = at.all() and any(_moved(t, common, r, item) for item in seen)
    return replace(alone, shared=True if together else None)


def _against(
    times: FloatArray, values: FloatArray, runs: NDArray[np.int64], common: FloatArray, beside: Sequence[FloatArray]
) -> tuple[Trend | None, Step | None]:
    """What is found relative to the others, as far as it is this variant's doing and not one of theirs."""

    def mine(found: Trend | Step) -> bool:
        if len(beside) == 1:
            # Two that part: the one that moved itself is the one that drifted.
            return _moved(times, values, runs, found)
        return all(
            _moved(times[known], (values / row)[known], runs[known], found)
            for row in beside
            for known in [np.isfinite(row)]
            if known.all() or isinstance(found, Trend)
        )

    trend, step = _trend(times, values / common, runs), _step(values / common, runs)
    return (trend if trend.flagged and mine(trend) else None), (step if step.flagged and mine(step) else None)
