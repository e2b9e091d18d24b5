"""How long does it last? Burst and sustained speed of a long run, and when it began to throttle. Pure functions of numbers.

Read by `harness.table` for sustained runs. The values are one median per second, in time order. Three definitions:

- **burst**: median over the seconds of the first 30 s; **sustained**: over those of the last third of the run;
- **a change point**: the series of logarithms is cut into segments of constant level so that the sum of squares within them
  plus a penalty per cut is least, found exactly by dynamic programming (optimal partitioning: Jackson et al., "An algorithm
  for optimal partitioning of data on an interval", IEEE Signal Processing Letters 12, 2005). The penalty is 3 · ln n noise
  variances (the Schwarz criterion, with 3 for the cut's place and the two levels), the noise taken robustly from the
  differences of neighbours; no segment is shorter than 5 s. Single slow seconds are first smoothed away by a running
  median of five;
- **time to throttle**: the first change point after which, for 30 s or more without interruption (or to the end of the run, for at least
  10 s), every segment is ≥ 5 % slower than the fastest segment before it. What slows down for a moment and recovers is no
  throttling by that rule.

Slower although an inference took no more CPU time is no throttling either: then others took the CPU. CPUs that are held back take
more CPU time for the same work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.drift import BURST_S, burst_and_sustained

SLOWDOWN = 0.05
LASTING_S, LASTING_AT_END_S = 30.0, 10.0
SHORTEST_S = 5.0
# A run in which burst (30 s) and sustained (the last third) do not overlap is longer than this.
SHORTEST_RUN_S = BURST_S * 1.5
_PENALTY = 3.0
_WINDOW = 5
# Share of the slowdown that must show in CPU time for the device itself to be called slower.
_OWN_SHARE = 0.5
# More values than this are pooled before cutting, as the work grows with their square.
_MOST = 2000

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Throttle:
    """`burst`, `sustained`: medians, None with `short_reason` for a run that is too short to tell them apart. `time_s`: seconds
    from the start until throttling began, None with `reason` when it did not. `slowdown`: of the segment that began then
    against the fastest before it. `cuts_s`: all change points."""

    burst: float | None
    sustained: float | None
    short_reason: str | None
    time_s: float | None
    slowdown: float | None
    reason: str | None
    cuts_s: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Sustained over burst: above 1 the device is slower in the long run."""
        return self.sustained / self.burst if self.sustained is not None and self.burst else None


def running_median(values: FloatArray, width: int = _WINDOW) -> FloatArray:
    """Median of `width` neighbours, fewer at the ends. float64 [n] → float64 [n]."""
    half = width // 2
    padded = np.pad(values, half, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)


def cut(values: ArrayLike, shortest: int) -> list[int]:
    """First indices of all segments but the first. `values`: float64 [n], all > 0; `shortest`: least values in a segment."""
    logs = running_median(np.log(np.asarray(values, dtype=np.float64)))
    n = logs.size
    if n < 2 * shortest:
        return []
    differences = np.diff(np.log(np.asarray(values, dtype=np.float64)))
    spread = float(np.median(np.abs(differences - np.median(differences))))
    # MAD to standard deviation, and a difference has twice the variance of a value; never zero, or noise-free series have no end.
    variance = max((1.4826 * spread) ** 2 / 2.0, 1e-8)
    penalty = _PENALTY * math.log(n) * variance
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    squares = np.concatenate([[0.0], np.cumsum(logs * logs)])
    best = np.full(n + 1, math.inf)
    best[0] = -penalty
    previous = np.zeros(n + 1, dtype=np.int64)
    for end in range(shortest, n + 1):
        starts = np.arange(end - shortest + 1)
        lengths = end - starts
        total = sums[end] - sums[starts]
        cost = best[starts] + (squares[end] - squares[starts] - total * total / lengths) + penalty
        choice = int(np.argmin(cost))
        best[end], previous[end] = float(cost[choice]), choice
    found: list[int] = []
    place = int(previous[n])
    while place > 0:
        found.append(place)
        place = int(previous[place])
    return found[::-1]


def _pooled(
    times: FloatArray, values: FloatArray, cpu: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray | None]:
    """At most `_MOST` values: medians of neighbours for a run of hours."""
    group = -(-times.size // _MOST)
    if group <= 1:
        return times, values, cpu
    edges = range(0, times.size, group)
    pool = [np.array([np.median(a[i : i + group]) for i in edges]) for a in (values, *(() if cpu is None else (cpu,)))]
    return times[::group], pool[0], pool[1] if cpu is not None else None


def throttle(times_s: Sequence[float], values: Sequence[float], cpu: Sequence[float] | None = None) -> Throttle:
    """Burst, sustained and time to throttle of one run in time order.

    `times_s`: when each block began, in seconds, increasing; `values`: its median time of an inference (> 0, any unit); `cpu`: its
    CPU time of an inference, None where that says nothing. Raises ValueError when lengths differ or a value is not positive.
    """
    if len(times_s) != len(values) or (cpu is not None and len(cpu) != len(values)):
        raise ValueError(f"lengths differ: {len(times_s)} times, {len(values)} values")
    times, series = np.asarray(times_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if series.size and not float(series.min()) > 0.0:
        raise ValueError("a time of an inference that is not positive")
    burst, sustained = burst_and_sustained(times, series)
    length = float(times[-1] - times[0]) if times.size else 0.0
    short = None
    if burst is None:
        short = f"a run of {length:.0f} s is too short: the first {BURST_S:g} s and the last third must not overlap"
    times, series, own = _pooled(times, series, None if cpu is None else np.asarray(cpu, dtype=np.float64))
    step = float(np.median(np.diff(times))) if times.size > 1 else 1.0
    cuts = cut(series, max(2, math.ceil(SHORTEST_S / step))) if times.size > 1 else []
    start = float(times[0]) if times.size else 0.0
    marks = tuple(float(times[index]) - start for index in cuts)
    if length < LASTING_S + SHORTEST_S:
        reason = f"a run of {length:.0f} s is too short to show a slowdown that lasts {LASTING_S:g} s"
        return Throttle(burst, sustained, short, None, None, reason, marks)
    time_s, slowdown, why = _first(times, series, own, cuts, step)
    return Throttle(burst, sustained, short, time_s, slowdown, why, marks)


def _first(
    times: FloatArray, values: FloatArray, cpu: FloatArray | None, cuts: Sequence[int], step: float
) -> tuple[float | None, float | None, str | None]:
    """Time and size of the first lasting slowdown, or why there is none."""
    edges = [0, *cuts, values.size]
    levels = [float(np.median(values[a:b])) for a, b in itertools.pairwise(edges)]
    end = float(times[-1]) + step
    starts = [*(float(times[index]) for index in edges[:-1]), end]
    others = None
    for index in range(1, len(levels)):
        fastest = min(range(index), key=levels.__getitem__)
        limit = (1.0 + SLOWDOWN) * levels[fastest]
        after = next((k for k in range(index, len(levels)) if levels[k] < limit), len(levels))
        lasts = starts[after] - starts[index]
        if after == index or lasts < (LASTING_AT_END_S if after == len(levels) else LASTING_S):
            continue
        slower = levels[index] / levels[fastest] - 1.0
        at = starts[index] - starts[0]
        if cpu is not None:
            own = _grown(cpu, edges, fastest, index, after)
            if own < _OWN_SHARE * (float(np.median(values[edges[index] : edges[after]])) / levels[fastest] - 1.0):
                others = (
                    f"slower by {slower:.0%} from {at:.0f} s on, but an inference took {own:+.0%} CPU time: "
                    "others had the CPU, the device was not held back"
                )
                continue
        return at, slower, None
    return None, None, others or f"no slowdown of {SLOWDOWN:.0%} or more that lasted {LASTING_S:g} s"


def _grown(cpu: FloatArray, edges: Sequence[int], fastest: int, index: int, after: int) -> float:
    """How much more CPU time an inference took in the slow segments than in the fastest before them."""
    before = float(np.median(cpu[edges[fastest] : edges[fastest + 1]]))
    return float(np.median(cpu[edges[index] : edges[after]])) / before - 1.0 if before > 0.0 else math.inf
