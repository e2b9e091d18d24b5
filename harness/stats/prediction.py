"""What a session made again should find: the interval that holds the median of its run medians, reckoned from the first session.

Pure functions of numbers, read by `harness.compare`. A confidence interval says where the true median lies; the median of another
session scatters around that too, so it falls outside of the confidence interval far more often than one time in twenty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats.distributions import t_quantile
from harness.stats.quantiles import minimum_n

CONFIDENCE = 0.95
# Variance of the median of many normal values, in units of that of their mean. Of few values it is less (1.29 for six): the
# interval is then a little wider than it had to be.
MEDIAN_VARIANCE = math.pi / 2.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """`low` and `high` of a median yet to be measured, in the unit of the values it was reckoned from."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether it came true."""
        return self.low <= value <= self.high


def predicted_median(
    run_medians: Sequence[float], future_runs: int, confidence: float = CONFIDENCE
) -> Prediction | None:
    """Where the median of `future_runs` run medians of a session made again will lie; None below six runs in either.

    `run_medians`: of the session there is, all > 0 and in one unit. Student's t prediction interval for a summary of future
    observations (Hahn and Meeker, "Statistical Intervals", Wiley 1991, section 4.7, there for the mean) on logarithms, with
    the variance of medians in place of that of means. It knows how runs differ within a session; what changes between two
    sessions beyond that (another temperature, another neighbour) it cannot know. Raises ValueError for values ≤ 0.
    """
    n = len(run_medians)
    if min(n, future_runs) < minimum_n(0.5, CONFIDENCE):
        return None
    values = np.asarray(run_medians, dtype=np.float64)
    if values.min() <= 0.0:
        raise ValueError("a run median of nothing has no logarithm")
    logs = np.log(values)
    error = float(logs.std(ddof=1)) * math.sqrt(MEDIAN_VARIANCE * (1.0 / n + 1.0 / future_runs))
    half = t_quantile((1.0 + confidence) / 2.0, n - 1.0) * error
    middle = float(np.median(logs))
    return Prediction(math.exp(middle - half), math.exp(middle + half))
