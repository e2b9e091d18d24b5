"""Did the device change while it was measured? Trend and change point in time order.

Read by `harness.table`, which flags a row and never trims it. The values are medians of consecutive blocks. Blocks of one
run share that run's own offset (measurement.md: runs differ by more than blocks do), so a plain test over all blocks
would call every such offset a drift. Therefore:

- trend: Mann-Kendall (1945; Kendall 1975 for ties) over all blocks where runs do not differ beyond the noise of their
  blocks; else **within** runs, summed over runs as strata (Hirsch, Slack and Smith 1982), and **across** runs on their
  medians. The size is a Theil-Sen slope (1950, 1968) times the span;
- change point: Pettitt's test (1979) over all blocks, and the step must also exceed what runs differ by anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.distributions import t_quantile

P_VALUE = 0.01
TREND_THRESHOLD = 0.02
STEP_THRESHOLD = 0.03
# Standard error of a median, in units of that of a mean (normal values); and the scatter between runs, in units of what
# their blocks' noise explains, from which on blocks of different runs are not taken as exchangeable.
MEDIAN_ERROR = math.sqrt(math.pi / 2.0)
RUN_SCATTER = 1.5
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
    None where the series is too short to tell them apart."""

    trend: Trend | None
    step: Step | None
    burst: float | None
    sustained: float | None

    @property
    def flagged(self) -> bool:
        """Whether a trend or a step was found."""
        return bool((self.trend and self.trend.flagged) or (self.step and self.step.flagged))


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
    return float(np.median((v[columns] - v[rows])[usable] / apart[usable]))


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


def _runs_differ(times: FloatArray, values: FloatArray, runs: NDArray[np.int64]) -> bool:
    """Whether runs scatter more than their blocks explain, once a straight trend is taken out."""
    straight = values - theil_sen(times, values) * times
    parts = _by_run(straight, runs)
    noise = math.sqrt(float(np.mean([part.var(ddof=1) if part.size > 1 else 0.0 for part in parts])))
    expected = MEDIAN_ERROR * noise / math.sqrt(float(np.median([part.size for part in parts])))
    return float(np.std([np.median(part) for part in parts], ddof=1)) > RUN_SCATTER * expected


def _trends(times: FloatArray, values: FloatArray, runs: NDArray[np.int64]) -> list[Trend]:
    """What each test that is valid for this series finds; not yet flagged."""
    names = np.unique(runs)
    centre = float(np.median(values))
    span = float(times[-1] - times[0])
    if names.size == 1 or not _runs_differ(times, values, runs):
        return [Trend(theil_sen(times, values) * span / centre, mann_kendall(values), False)]
    s_total = variance_total = 0.0
    changes = []
    for run in names:
        inside = runs == run
        if inside.sum() >= MINIMUM_VALUES:
            s, variance = _kendall_s(values[inside])
            s_total, variance_total = s_total + s, variance_total + variance
            own = times[inside]
            changes.append(theil_sen(own, values[inside]) * float(own[-1] - own[0]) / float(np.median(values[inside])))
    medians = np.array([np.median(part) for part in _by_run(values, runs)])
    middles = np.array([np.median(part) for part in _by_run(times, runs)])
    found = [Trend(theil_sen(middles, medians) * span / centre, mann_kendall(medians), False)]
    if changes:
        p_value = _normal_p(s_total, variance_total)
        found.append(Trend(float(np.median(changes)), p_value, flagged=False, within_runs=True))
    return found


def _trend(times: FloatArray, values: FloatArray, runs: NDArray[np.int64]) -> Trend:
    found = _trends(times, values, runs)
    best = min(found, key=lambda trend: (abs(trend.change) <= TREND_THRESHOLD, trend.p_value))
    return replace(best, flagged=best.p_value < P_VALUE and abs(best.change) > TREND_THRESHOLD)


def _step(values: FloatArray, runs: NDArray[np.int64]) -> Step | None:
    index, p = pettitt(values)
    before, after = values[:index], values[index:]
    change = float(np.median(after) / np.median(before)) - 1.0
    flagged = p < P_VALUE and abs(change) > STEP_THRESHOLD and abs(change) > _scatter(before, after, runs)
    return Step(index, change, p, flagged)


def _scatter(before: FloatArray, after: FloatArray, runs: NDArray[np.int64]) -> float:
    """The largest step that the scatter of the runs explains by itself, at the likeliest of all places (Bonferroni)."""
    # Each run is held against its own side, so that the step itself does not count as scatter.
    residual = np.concatenate([before / np.median(before), after / np.median(after)])
    medians = np.array([np.median(part) for part in _by_run(residual, runs)])
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


def analyse(times_s: Sequence[float], values: Sequence[float], runs: Sequence[int]) -> Drift:
    """Trend, change point, burst and sustained of one series in time order.

    `times_s`: when each block began, in seconds; `values`: its median (ns, > 0); `runs`: the run it belongs to (any
    integers). Raises ValueError when the three differ in length.
    """
    if not len(times_s) == len(values) == len(runs):
        raise ValueError(f"lengths differ: {len(times_s)} times, {len(values)} values, {len(runs)} runs")
    if len(values) < MINIMUM_VALUES:
        return Drift(None, None, None, None)
    t, v = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    r = np.asarray(runs, dtype=np.int64)
    burst, sustained = burst_and_sustained(t, v)
    return Drift(_trend(t, v, r), _step(v, r), burst, sustained)
