"""How good the answers are: accuracy, agreement, macro F1, errors, and the accuracy lost with its interval.

Pure functions of arrays, read by `harness.table`. Base and variant answer the same rows, so their difference is paired:
rows on which both are right (or both wrong) say nothing about it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two shares (0..1) with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (1927). Raises ValueError for n = 0."""
    if n <= 0:
        raise ValueError("a share of nothing")
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_], z: float = Z95) -> Difference:
    """Share right in `first` minus share right in `second`, both bool [rows] on the same rows.

    The interval is method 10 of Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data" (Statistics in Medicine 17, 1998): Wilson intervals of both shares, combined with
    their correlation. It stays inside -1..1 and does not collapse when the two never differ. Raises ValueError when the
    shapes differ or there are no rows.
    """
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"rows do not pair: {first.shape} and {second.shape}")
    n = int(first.size)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    p1, p2 = (both + only_first) / n, (both + only_second) / n
    l1, u1 = wilson(both + only_first, n, z)
    l2, u2 = wilson(both + only_second, n, z)
    phi = _correlation(both, only_first, only_second, neither)
    down = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    up = (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2
    value = (only_first - only_second) / n
    return Difference(value, value - math.sqrt(max(0.0, down)), value + math.sqrt(max(0.0, up)))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the 2×2 table with Newcombe's continuity correction; 0 where a margin is empty."""
    product = float(both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if product == 0.0:
        return 0.0
    n = both + only_first + only_second + neither
    excess = float(both) * neither - float(only_first) * only_second
    if excess > 0:
        excess = max(excess - n / 2.0, 0.0)
    return excess / math.sqrt(product)


def top_k_right(top: NDArray[np.int32], labels: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Whether the label is among the first `k` classes of `top` [rows, ≥ k]: bool [rows]."""
    return np.asarray((top[:, :k] == labels.reshape(-1, 1)).any(axis=1), dtype=np.bool_)


def macro_f1(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Unweighted mean of the F1 scores of all classes that occur in `predicted` or `labels` (both int [rows])."""
    classes = np.union1d(predicted, labels)
    scores = []
    for value in classes:
        hit = int(((predicted == value) & (labels == value)).sum())
        seen = int((predicted == value).sum()) + int((labels == value).sum())
        scores.append(2.0 * hit / seen)
    return float(np.mean(scores))


def agreement(predicted: NDArray[Any], base: NDArray[Any]) -> float:
    """Share of rows with the base's class (both int [rows])."""
    return float((predicted == base).mean())


def errors(outputs: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """(MAE, RMSE) over all elements, in the labels' unit, computed in float64.

    `labels` may lack a trailing dimension of 1. Raises ValueError when the sizes differ.
    """
    if outputs.size != labels.size:
        raise ValueError(f"outputs {outputs.shape} do not match labels {labels.shape}")
    difference = outputs.reshape(-1).astype(np.float64) - labels.reshape(-1).astype(np.float64)
    return float(np.abs(difference).mean()), float(np.sqrt((difference * difference).mean()))
