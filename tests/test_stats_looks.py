"""Looking again and again: what it does to a t test, and that the adjustment makes good for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan import PRESETS
from harness.stats import compare
from harness.stats.distributions import t_quantile
from harness.stats.looks import Looks, adjusted, looks_of, nominal_level

LEVELS = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
DESIGNS = [(3, 6), (6, 7), (6, 8), (6, 12), (6, 24), (6, 48), (6, 96), (12, 16), (12, 24), (12, 96), (24, 48), (48, 96)]


@given(st.floats(1e-12, 1.0), st.floats(1e-12, 1.0), st.integers(1, 60), st.integers(0, 200))
def test_an_adjusted_p_is_never_smaller_and_keeps_the_order(p: float, q: float, first: int, more: int) -> None:
    looks = Looks(first, first + more)
    low, high = sorted((p, q))
    assert low <= adjusted(low, looks) <= adjusted(high, looks) <= 1.0
    assert adjusted(p, looks) <= p * looks.count * (1 + 1e-12)


def test_one_look_costs_nothing_and_none_is_refused() -> None:
    assert adjusted(0.03, Looks(6, 6)) == 0.03
    assert nominal_level(0.05, Looks(6, 6)) == pytest.approx(0.05)
    with pytest.raises(ValueError):
        Looks(7, 6)


@given(st.integers(2, 20), st.integers(0, 60), st.sampled_from([0.05, 0.01, 0.05 / 20]))
def test_the_nominal_level_is_the_p_that_is_just_enough(first: int, more: int, alpha: float) -> None:
    looks = Looks(first, first + more)
    level = nominal_level(alpha, looks)
    assert adjusted(level, looks) == pytest.approx(alpha, rel=1e-6)


def test_interval_and_verdict_of_a_comparison_agree_about_looks() -> None:
    looks = Looks(6, 24)
    values = [0.030, 0.034, 0.041, 0.019, 0.036, 0.028]
    plain, again = compare.paired(values), compare.paired(values, looks)
    assert (plain.looks, again.looks) == (1, 19)
    assert plain.ratio == again.ratio
    half = math.log(again.high / again.low) / math.log(plain.high / plain.low)  # type: ignore[operator]
    assert half == pytest.approx(t_quantile(1 - nominal_level(0.05, looks) / 2, 5) / t_quantile(0.975, 5))
    for candidate in (values, [v / 2 for v in values], [v - 0.03 for v in values], [v * 3 for v in values]):
        found = compare.paired(candidate, looks)
        assert (found.verdict == "slower") == (found.low > 1.01)  # type: ignore[operator]
        inside = found.low > math.exp(-compare.EQUIVALENCE) and found.high < 1.02  # type: ignore[operator]
        assert (found.verdict == "equivalent") == inside


def test_a_protocol_says_how_often_it_looks() -> None:
    assert looks_of({"runs": 6, "max_runs": 12, "stop_on": "verdict"}) == Looks(6, 12)
    assert looks_of({"runs": 6, "max_runs": 12, "stop_on": "both"}) == Looks(6, 12)
    assert looks_of({"runs": 6, "max_runs": 12, "stop_on": "estimate"}) is None
    assert looks_of({"runs": 6, "max_runs": 6, "stop_on": "verdict"}) is None
    assert looks_of({"runs": 6, "max_runs": 12}) is None, "sessions from before there was a choice"
    assert all(protocol.runs >= 6 for protocol in PRESETS.values())


@pytest.mark.stats
@pytest.mark.slow
def test_the_bound_holds_for_every_design_of_interest() -> None:
    """P(the smallest p of all looks ≤ p), simulated with 400,000 rows of normal values, against the bound."""
    rng = np.random.default_rng(20261122)
    rows, batch, longest = 400_000, 20_000, 96
    n = np.arange(2, longest + 1)
    critical = {p: np.array([t_quantile(1 - p / 2, float(k - 1)) for k in n]) for p in LEVELS}
    hits = {(design, p): 0 for design in DESIGNS for p in LEVELS}
    for _ in range(rows // batch):
        z = rng.standard_normal((batch, longest))
        mean = (z.cumsum(1) / np.arange(1, longest + 1))[:, 1:]
        square = ((z * z).cumsum(1))[:, 1:]
        t = np.abs(mean) * np.sqrt(n) / np.sqrt((square - n * mean * mean) / (n - 1))
        for p, limits in critical.items():
            beyond = t > limits
            for first, last in DESIGNS:
                hits[(first, last), p] += int(beyond[:, first - 2 : last - 1].any(1).sum())
    for ((first, last), p), count in hits.items():
        bound = adjusted(p, Looks(first, last))
        assert count / rows <= bound + 3 * math.sqrt(bound / rows), (first, last, p, count / rows / p, bound / p)
        assert bound <= 1.6 * count / rows, "and it is no wild guess"
