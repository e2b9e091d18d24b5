"""A session made again finds its median where the first one said, whatever the runs are distributed like."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.prediction import predicted_median
from harness.stats.quantiles import median

Draw = Callable[[np.random.Generator, int], np.ndarray]

KINDS: dict[str, Draw] = {
    "normal": lambda rng, n: 100 * (1 + rng.normal(0, 0.01, n)),
    "lognormal": lambda rng, n: 100 * np.exp(rng.normal(0, 0.3, n)),
    "two states": lambda rng, n: 100 * (1 + rng.normal(0, 0.005, n)) * np.where(rng.random(n) < 0.3, 1.05, 1.0),
    "tail": lambda rng, n: 100 * (1 + 0.01 * rng.exponential(1.0, n)),
    "Student's t, 3": lambda rng, n: 100 * np.exp(0.01 * rng.standard_t(3, n)),
}


def share(draw: Draw, n: int, m: int, sessions: int = 2000) -> float:
    rng = np.random.default_rng(n * 100 + m)
    hits = 0
    for _ in range(sessions):
        found = predicted_median(list(draw(rng, n)), m)
        assert found is not None
        hits += found.holds(float(np.median(draw(rng, m))))
    return hits / sessions


@pytest.mark.stats
@pytest.mark.parametrize(("n", "m"), [(6, 6), (12, 12), (6, 24), (24, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_ninety_five_in_a_hundred_re_runs_fall_inside(kind: str, n: int, m: int) -> None:
    # The median of two states jumps between them; how often is hardly seen in so few runs.
    assert share(KINDS[kind], n, m) >= (0.89 if kind == "two states" else 0.94)


@pytest.mark.stats
def test_the_confidence_interval_of_the_median_is_no_such_interval() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        old = median(KINDS["normal"](rng, 12))
        assert old.low is not None
        assert old.high is not None
        hits += old.low <= float(np.median(KINDS["normal"](rng, 12))) <= old.high
    assert hits / 1000 < 0.9


@given(st.lists(st.floats(0.01, 1e9), min_size=6, max_size=40), st.integers(6, 60), st.floats(0.001, 1000.0))
@settings(max_examples=100, deadline=None)
def test_unit_order_and_number_of_runs(values: list[float], runs: int, factor: float) -> None:
    found = predicted_median(values, runs)
    assert found is not None
    # The middle value, and of an even number the geometric mean of the two, lies inside.
    assert found.low <= math.exp(float(np.median(np.log(values)))) * (1 + 1e-9)
    assert found.high >= math.exp(float(np.median(np.log(values)))) * (1 - 1e-9)
    scaled = predicted_median([value * factor for value in reversed(values)], runs)
    assert scaled is not None
    assert (scaled.low, scaled.high) == pytest.approx((found.low * factor, found.high * factor))
    more = predicted_median(values, runs + 1)
    assert more is not None
    assert more.low >= found.low * (1 - 1e-12)
    assert more.high <= found.high * (1 + 1e-12)


def test_too_few_runs_and_nothing_measured() -> None:
    assert predicted_median([1.0] * 5, 6) is None
    assert predicted_median([1.0] * 6, 5) is None
    exact = predicted_median([2.0] * 6, 6)
    assert exact is not None
    assert (exact.low, exact.high) == pytest.approx((2.0, 2.0))
    with pytest.raises(ValueError, match="no logarithm"):
        predicted_median([1.0] * 6 + [0.0], 6)
