"""Verdicts: symmetric, monotone, honest about too few runs; false ones stay rare."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats import compare

RATIOS = st.lists(st.floats(-0.5, 0.5, allow_nan=False), min_size=3, max_size=20)


def test_clear_cases() -> None:
    spread = [-0.001, 0.0, 0.001, 0.0005, -0.0005, 0.0002]
    assert compare.paired([math.log(0.9) + s for s in spread]).verdict == "faster"
    assert compare.paired([math.log(1.1) + s for s in spread]).verdict == "slower"
    assert compare.paired(spread).verdict == "equivalent"
    assert compare.paired([-0.1, 0.1, 0.05, -0.07, 0.02, 0.0]).verdict == "inconclusive"


def test_too_few_runs_say_so() -> None:
    result = compare.paired([0.2, 0.2])
    assert result.verdict == "inconclusive"
    assert (result.ratio, result.low, result.p_value) == (None, None, None)
    assert result.reason is not None
    assert result.reason.startswith("n/a (n=2)")
    assert compare.unpaired([1.0, 1.0, 1.0], [1.0, 1.0]).reason is not None


def test_identical_runs_are_equivalent_not_an_error() -> None:
    assert compare.paired([0.0] * 6).verdict == "equivalent"
    assert compare.unpaired([5.0] * 6, [5.0] * 6).verdict == "equivalent"
    assert compare.unpaired([6.0] * 6, [5.0] * 6).verdict == "slower"


@given(RATIOS)
@settings(max_examples=100, deadline=None)
def test_verdict_follows_the_interval(log_ratios: list[float]) -> None:
    result = compare.paired(log_ratios)
    assert result.ratio is not None
    assert result.low is not None
    assert result.high is not None
    assert result.low <= result.ratio <= result.high
    tolerance = 1e-9
    if result.verdict == "slower":
        assert result.low > 1.01 - tolerance
    elif result.verdict == "faster":
        assert result.high < 1 / 1.01 + tolerance
    elif result.verdict == "equivalent":
        assert 1 / 1.02 - tolerance < result.low
        assert result.high < 1.02 + tolerance
    else:
        assert result.low <= 1.01 + tolerance
        assert result.high >= 1 / 1.01 - tolerance


@given(RATIOS)
@settings(max_examples=100, deadline=None)
def test_swapping_sides_mirrors_the_verdict(log_ratios: list[float]) -> None:
    forth, back = compare.paired(log_ratios), compare.paired([-r for r in log_ratios])
    mirror = {"faster": "slower", "slower": "faster"}
    assert back.verdict == mirror.get(forth.verdict, forth.verdict)
    assert forth.ratio is not None
    assert back.ratio == pytest.approx(1 / forth.ratio)


@pytest.mark.stats
def test_intervals_agree_with_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.05, 0.02, 8), rng.normal(0.0, 0.04, 11)
    ours = compare.paired(list(a))
    low, high = scipy.t.interval(0.95, 7, loc=a.mean(), scale=scipy.sem(a))
    assert (ours.low, ours.high) == pytest.approx((math.exp(low), math.exp(high)))
    welch = compare.unpaired(list(np.exp(a)), list(np.exp(b)))
    interval = scipy.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (welch.low, welch.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_run_log_ratio_pairs_blocks() -> None:
    assert compare.run_log_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="do not pair"):
        compare.run_log_ratio([1.0], [1.0, 2.0])


def _with_p(p: float) -> compare.Comparison:
    return compare.Comparison(1.1, 1.05, 1.2, 6, p, p, "slower" if p < 0.05 else "inconclusive")


def test_holm_by_hand() -> None:
    # Holm (1979): 0.01·4, 0.015·3, 0.03·2, 0.04·1 made monotone: 0.04, 0.045, 0.06, 0.06.
    got = compare.holm([_with_p(p) for p in (0.03, 0.01, 0.04, 0.015)])
    assert [round(c.p_adjusted or 0, 6) for c in got] == [0.06, 0.04, 0.06, 0.045]
    assert [c.verdict for c in got] == ["inconclusive", "slower", "inconclusive", "slower"]
    assert got[0].reason is not None
    assert "Holm" in got[0].reason


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_holm_only_ever_takes_back(values: list[float]) -> None:
    before = [_with_p(p) for p in values]
    after = compare.holm(before)
    for old, new in zip(before, after, strict=True):
        assert new.p_adjusted is not None
        assert new.p_adjusted >= (old.p_value or 0.0)
        assert new.verdict in (old.verdict, "inconclusive")
    order = np.argsort(values, kind="stable")
    adjusted = [after[i].p_adjusted for i in order]
    assert adjusted == sorted(adjusted)  # type: ignore[type-var]


def test_holm_leaves_the_unmeasured_alone() -> None:
    lost = compare.paired([0.1])
    assert compare.holm([lost, _with_p(0.04)])[0] == lost
    assert compare.holm([lost, _with_p(0.04)])[1].verdict == "slower"


def test_geometric_mean_needs_five_devices() -> None:
    assert compare.geometric_mean([1.1, 1.1, 1.1, 1.1]).reason is not None
    five = compare.geometric_mean([1.10, 1.11, 1.12, 1.13, 1.14])
    assert five.ratio == pytest.approx(1.12, abs=0.001)
    assert five.verdict == "slower"


@pytest.mark.stats
@pytest.mark.parametrize("run_sd", [0.005, 0.012, 0.03])
def test_false_verdicts_on_identical_variants_stay_rare(run_sd: float) -> None:
    """A/A: what is equal is called faster or slower in at most 5 %, for three levels of noise between runs."""
    rng = np.random.default_rng(23)
    verdicts = [compare.paired(list(rng.normal(0, run_sd, 6))).verdict for _ in range(2000)]
    assert sum(v in ("faster", "slower") for v in verdicts) / 2000 <= 0.05


@pytest.mark.stats
def test_false_equivalence_at_two_percent_stays_rare() -> None:
    rng = np.random.default_rng(24)
    verdicts = [compare.paired(list(rng.normal(math.log(1.02), 0.006, 6))).verdict for _ in range(2000)]
    assert verdicts.count("equivalent") / 2000 <= 0.05


@pytest.mark.stats
def test_a_three_percent_slowdown_is_found() -> None:
    """Between-run scatter of a paired log ratio of 1.2 % (measurement.md), ten runs."""
    rng = np.random.default_rng(25)
    verdicts = [compare.paired(list(rng.normal(math.log(1.03), 0.012, 10))).verdict for _ in range(500)]
    assert verdicts.count("slower") / 500 >= 0.90


@pytest.mark.stats
def test_holm_keeps_false_claims_of_a_whole_table_rare() -> None:
    rng = np.random.default_rng(26)
    wrong = 0
    for _ in range(400):
        table = compare.holm([compare.paired(list(rng.normal(0.01, 0.004, 6))) for _ in range(15)])
        # The truth is +1.005 %: beyond ±1 % by nothing worth claiming; "faster" would be false.
        wrong += any(c.verdict == "faster" for c in table)
        wrong += sum(c.verdict == "slower" for c in table) > 1
    assert wrong / 400 <= 0.05


@pytest.mark.stats
def test_interval_coverage() -> None:
    rng = np.random.default_rng(27)
    for draw in (
        lambda n: rng.normal(0.03, 0.01, n),
        lambda n: 0.03 + 0.01 * (rng.lognormal(0, 0.3, n) - math.exp(0.045)),
        lambda n: 0.03 + rng.choice([-0.01, 0.01], n) + rng.normal(0, 0.003, n),
    ):
        held = 0
        for _ in range(2000):
            result = compare.paired(list(draw(8)))
            assert result.low is not None
            assert result.high is not None
            held += result.low <= math.exp(0.03) <= result.high
        assert held / 2000 >= 0.93
