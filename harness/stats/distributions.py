"""Binomial and Student t probabilities, exact to rounding, with nothing but `math`.

At the bottom of the statistics. scipy has all of these, but importing it takes longer than printing a table; the tests
hold every function here against scipy.
"""

from __future__ import annotations

import math
from functools import lru_cache

_TINY = 1e-300
_PRECISION = 1e-15
# The t distribution's own rounding lets its inverse come no nearer than this.
_ENOUGH = 1e-13


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (DLMF 8.17.22), by the modified Lentz method."""
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > _TINY else _TINY)
    value = d
    # The number of terms grows with the square root of the larger parameter.
    for m in range(1, 1000 + int(10 * math.sqrt(max(a, b)))):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        delta = 1.0
        for numerator in (even, odd):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > _TINY else _TINY)
            c = 1.0 + numerator / c
            c = c if abs(c) > _TINY else _TINY
            delta = c * d
            value *= delta
        if abs(delta - 1.0) < _PRECISION:
            break
    return value


def regularized_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), for a > 0, b > 0 and x clipped to 0..1."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # The fraction converges fast only on one side of the mean; the symmetry I_x(a,b) = 1 - I_{1-x}(b,a) gives the other.
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, 1.0 - x) / b


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(at most `k` of `n` trials succeed), each with probability `p`."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return regularized_beta(n - k, k + 1, 1.0 - p)


def t_cdf(t: float, df: float) -> float:
    """P(T ≤ t) of Student's t with `df` degrees of freedom (any df > 0)."""
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    if t * t < df:
        # Near the middle the tail's argument is next to 1 and has lost its digits; the symmetric one has them.
        tail = 0.5 * (1.0 - regularized_beta(0.5, df / 2.0, t * t / (df + t * t)))
    else:
        tail = 0.5 * regularized_beta(df / 2.0, 0.5, df / (df + t * t))
    return 1.0 - tail if t > 0 else tail


@lru_cache(maxsize=1024)
def t_quantile(p: float, df: float) -> float:
    """The t with P(T ≤ t) = p, for 0 < p < 1."""
    if not 0.0 < p < 1.0:
        raise ValueError(f"p = {p} is not between 0 and 1")
    if p < 0.5:  # noqa: PLR2004 - the median, by which t is symmetric
        return -t_quantile(1.0 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, high * 2.0
    scale = math.exp(math.lgamma((df + 1.0) / 2.0) - math.lgamma(df / 2.0)) / math.sqrt(df * math.pi)
    value = (low + high) / 2.0
    # Newton's steps, and a bisection wherever one would leave what is known to hold the answer.
    for _ in range(200):
        error = t_cdf(value, df) - p
        low, high = (low, value) if error > 0.0 else (value, high)
        step = value - error / (scale * (1.0 + value * value / df) ** (-(df + 1.0) / 2.0))
        following = step if low < step < high else (low + high) / 2.0
        if abs(following - value) <= _ENOUGH * max(value, _TINY) or following in (low, high):
            return following
        value = following
    return value
