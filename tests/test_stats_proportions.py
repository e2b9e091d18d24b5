"""Accuracy figures against hand counts, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats import proportions

ROWS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300)


def test_newcombe_method_10_published_case() -> None:
    # Newcombe (1998), table of worked examples: 36 both, 12 only the first, 2 only the second, 0 neither.
    first = np.array([True] * 48 + [False] * 2)
    second = np.array([True] * 36 + [False] * 12 + [True] * 2)
    got = proportions.paired_difference(first, second)
    assert got.value == pytest.approx(0.20)
    assert got.low == pytest.approx(0.0569, abs=2e-4)
    assert got.high == pytest.approx(0.3404, abs=2e-4)


@pytest.mark.stats
def test_wilson_agrees_with_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for k, n in [(0, 10), (3, 10), (880, 1000), (5000, 5000)]:
        expected = scipy.binomtest(k, n).proportion_ci(method="wilson")
        assert proportions.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="nothing"):
        proportions.wilson(0, 0)


@given(ROWS)
@settings(max_examples=80, deadline=None)
def test_difference_is_inside_its_interval_and_mirrors(rows: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column, dtype=np.bool_) for column in zip(*rows, strict=True))
    forth, back = proportions.paired_difference(first, second), proportions.paired_difference(second, first)
    assert -1.0 - 1e-12 <= forth.low <= forth.value <= forth.high <= 1.0 + 1e-12
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-12)
    assert forth.value == pytest.approx(first.mean() - second.mean(), abs=1e-12)


def test_equal_answers_leave_a_small_but_real_uncertainty() -> None:
    right = np.arange(1000) % 8 != 0
    got = proportions.paired_difference(right, right)
    assert got.value == 0.0
    assert -0.01 < got.low < 0 < got.high < 0.01
    with pytest.raises(ValueError, match="do not pair"):
        proportions.paired_difference(right, right[:5])


def test_top_k_macro_f1_and_agreement_by_hand() -> None:
    top = np.array([[0, 1], [1, 0], [2, 1], [0, 2]], dtype=np.int32)
    labels = np.array([0, 0, 1, 1])
    assert proportions.top_k_right(top, labels, 1).tolist() == [True, False, False, False]
    assert proportions.top_k_right(top, labels, 2).tolist() == [True, True, True, False]
    # F1: class 0 = 2·1/(2+2), class 1 = 0/(1+2), class 2 = 0/(1+0)
    assert proportions.macro_f1(top[:, 0], labels) == pytest.approx((0.5 + 0.0 + 0.0) / 3)
    assert proportions.macro_f1(labels, labels) == 1.0
    assert proportions.agreement(top[:, 0], np.array([0, 1, 2, 2])) == 0.75


def test_errors_by_hand() -> None:
    mae, rmse = proportions.errors(np.array([[1.0], [2.0], [5.0]], dtype=np.float32), np.array([1.0, 4.0, 1.0]))
    assert mae == pytest.approx(2.0)
    assert rmse == pytest.approx((20 / 3) ** 0.5)
    with pytest.raises(ValueError, match="do not match"):
        proportions.errors(np.zeros((3, 2)), np.zeros(3))


@pytest.mark.stats
@pytest.mark.parametrize(("accuracy", "flipped"), [(0.88, 0.02), (0.88, 0.10), (0.97, 0.01), (0.60, 0.2)])
def test_paired_interval_covers(accuracy: float, flipped: float) -> None:
    rng = np.random.default_rng(41)
    held, trials = 0, 2000
    for _ in range(trials):
        base = rng.random(1000) < accuracy
        other = np.where(rng.random(1000) < flipped, rng.random(1000) < accuracy * 0.9, base)
        truth = flipped * (accuracy - accuracy * 0.9)
        got = proportions.paired_difference(base, other)
        held += got.low <= truth <= got.high
    assert held / trials >= 0.93
