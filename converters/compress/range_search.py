"""Chooses the range that 256 levels span of a tensor's values: extremes, percentile, least squared error or least divergence.

Used by `converters.compress.calibrate`, which gathers the values of calibration rows in histograms. An outlier widens the range, and
with it the step between levels, for all other values; the criteria below weigh what is cut off against that. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from converters.compress.context import Array

LEVELS = 255
BINS = 8192
MSE, PERCENTILE, ENTROPY, MINMAX = "mse", "percentile", "entropy", "minmax"
METHODS = (MSE, PERCENTILE, ENTROPY, MINMAX)
DEFAULT_PERCENTILE = 99.99
_NARROWEST = 1e-6
_CANDIDATES = 100  # per end of the range and round
_ROUNDS = 3
# Of entropy: as in Migacz, GTC 2017 (8-bit inference with TensorRT): bins of magnitudes, and the steps between thresholds tried.
_ENTROPY_BINS, _ENTROPY_STRIDE = 2048, 16


class Histogram:
    """The values of a tensor between its extremes, in equal bins: how many lie in each (float64 [BINS]) and what they add up to.

    `low`, `high`: the extremes; both are known before values are counted.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = float(low), float(high)
        self.counts = np.zeros(BINS)
        self._sums = np.zeros(BINS)

    def add(self, values: Array) -> None:
        """Count values of any shape that lie within the extremes."""
        flat = np.asarray(values, np.float32).reshape(-1)
        width = max(self.high - self.low, _NARROWEST)
        which = ((flat - np.float32(self.low)) * np.float32(BINS / width)).astype(np.int64).clip(0, BINS - 1)
        self.counts += np.bincount(which, minlength=BINS)
        self._sums += np.bincount(which, weights=flat, minlength=BINS)

    @property
    def centres(self) -> Array:
        """The mean of each bin's values, float64 [BINS]; the bin's middle where it has none."""
        width = (self.high - self.low) / BINS
        middles = self.low + width * (np.arange(BINS) + 0.5)
        return np.where(self.counts > 0, self._sums / np.maximum(self.counts, 1), middles)


def nudged(low: float, high: float) -> tuple[float, int]:
    """The step and the number of the level that is zero, of the 256 levels of a range widened to hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high - low, _NARROWEST) / LEVELS
    return step, int(np.clip(np.round(-low / step), 0, LEVELS))


def squared_error(histogram: Histogram, low: float, high: float) -> float:
    """The mean squared error of rounding the values to the range's levels."""
    step, zero = nudged(low, high)
    x, counts = histogram.centres, histogram.counts
    rounded = (np.clip(np.round(x / step) + zero, 0, LEVELS) - zero) * step
    return float((counts * (rounded - x) ** 2).sum() / max(counts.sum(), 1))


def relative_error(histogram: Histogram, low: float, high: float) -> float:
    """`squared_error` as a share of the values' mean square; 0 when they are all 0."""
    x, counts = histogram.centres, histogram.counts
    power = float((counts * x**2).sum() / max(counts.sum(), 1))
    return squared_error(histogram, low, high) / power if power > 0 else 0.0


def chosen_range(histogram: Histogram, method: str, percentile: float = DEFAULT_PERCENTILE) -> tuple[float, float]:
    """The range by one of METHODS, within the extremes and with zero in it. `percentile`: of all values, half of what is beyond it
    on either side (all on one side where the other end is zero)."""
    if histogram.counts.sum() == 0 or histogram.high - histogram.low < _NARROWEST:
        return min(histogram.low, 0.0), max(histogram.high, 0.0)
    rules: dict[str, Callable[[], tuple[float, float]]] = {
        MINMAX: lambda: (histogram.low, histogram.high),
        MSE: lambda: _least_error(histogram),
        ENTROPY: lambda: _least_divergence(histogram),
        PERCENTILE: lambda: _percentile(histogram, percentile),
    }
    low, high = rules[method]()
    return min(low, 0.0), max(high, 0.0)


def _least_error(histogram: Histogram) -> tuple[float, float]:
    """Each end in turn is moved to where the error is least, the other held; finer around the best in each round."""
    ends = {"low": min(histogram.low, 0.0), "high": max(histogram.high, 0.0)}
    best, error = dict(ends), squared_error(histogram, **ends)
    spread = 1.0
    for _ in range(_ROUNDS):
        for end in ("high", "low"):
            if ends[end] == 0.0:
                continue
            around = best[end] / ends[end]
            shares = np.linspace(max(around - spread, 1 / _CANDIDATES), min(around + spread, 1.0), _CANDIDATES)
            for share in shares.tolist():
                tried = {**best, end: ends[end] * share}
                found = squared_error(histogram, **tried)
                if found < error:
                    best, error = tried, found
        spread /= 8
    return best["low"], best["high"]


def _percentile(histogram: Histogram, percentile: float) -> tuple[float, float]:
    beyond = (100.0 - percentile) / 100.0
    sides = [histogram.low < 0, histogram.high > 0]
    each = beyond / max(sum(sides), 1)
    total = np.cumsum(histogram.counts)
    total /= total[-1]
    width = (histogram.high - histogram.low) / BINS
    low = histogram.low + width * int(np.searchsorted(total, each, side="right")) if sides[0] else 0.0
    high = histogram.low + width * (int(np.searchsorted(total, 1.0 - each)) + 1) if sides[1] else 0.0
    return low, min(high, max(histogram.high, 0.0))


def _least_divergence(histogram: Histogram) -> tuple[float, float]:
    """The threshold for magnitudes whose levels' distribution diverges least (Kullback and Leibler) from the values' own."""
    largest = max(-histogram.low, histogram.high)
    signed = histogram.low < 0 < histogram.high
    levels = (LEVELS + 1) // 2 if signed else LEVELS + 1
    which = (np.abs(histogram.centres) * (_ENTROPY_BINS / largest)).astype(np.int64).clip(0, _ENTROPY_BINS - 1)
    # Zeros are exact whatever the range.
    counts = np.where(histogram.centres == 0, 0, histogram.counts)
    magnitudes = np.bincount(which, weights=counts, minlength=_ENTROPY_BINS)
    best, threshold = np.inf, largest
    for kept in range(levels, _ENTROPY_BINS + 1, _ENTROPY_STRIDE):
        found = _divergence(magnitudes, kept, levels)
        if found < best:
            best, threshold = found, largest * kept / _ENTROPY_BINS
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def _divergence(counts: Array, kept: int, levels: int) -> float:
    """Of the first `kept` bins, the rest counted in the last, against what is left of them in so many levels."""
    own = counts[:kept].copy()
    own[-1] += counts[kept:].sum()
    level = np.arange(kept) * levels // kept
    filled = counts[:kept] > 0
    sums = np.bincount(level, weights=counts[:kept], minlength=levels)
    occupied = np.bincount(level, weights=filled, minlength=levels)
    expanded = np.where(filled, (sums / np.maximum(occupied, 1))[level], 0.0)
    p, q = own / max(own.sum(), 1), expanded / max(expanded.sum(), 1)
    # A bin that only the cut-off values fill has no level of its own.
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / np.maximum(q[inside], 1e-12))).sum())
