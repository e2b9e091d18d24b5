"""Stopping, contention, grades: the rules of the measurement as code."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness.stats import compare, contention, drift, grade, stopping
from harness.stats.looks import Looks

RULE = stopping.StoppingRule(min_runs=6, max_runs=12, target=0.03)
TIGHT = [100.0, 101.0, 100.5, 99.5, 100.2, 99.8]
WIDE = [100.0, 120.0, 90.0, 110.0, 95.0, 105.0]


def test_half_width_is_half_the_order_statistic_interval() -> None:
    assert stopping.relative_half_width([]) is None
    assert stopping.relative_half_width(TIGHT[:5]) is None
    assert stopping.relative_half_width([90.0, 100.0, 100.0, 100.0, 100.0, 110.0]) == pytest.approx(0.1)


def stand(rule: stopping.StoppingRule, runs: list[float], ratios: list[float] | None = None) -> stopping.Standing:
    found = None if ratios is None else compare.paired(ratios, rule.looks)
    return stopping.stand(rule, runs, found)


def test_an_estimate_is_settled_when_its_interval_is_narrow() -> None:
    found = stand(RULE, TIGHT)
    assert (found.settled, found.done, found.further) == (True, True, 0.0)
    assert found.reason == "half-width 0.7% ≤ 3.0%"
    wide = stand(RULE, WIDE)
    assert (wide.settled, wide.done) == (False, False)
    assert wide.reason.startswith("half-width")
    # ±15 % is to become ±3 %: about twenty-five times as many runs.
    assert wide.further == pytest.approx(6 * ((wide.half_width / 0.03) ** 2 - 1), abs=1)  # type: ignore[operator]


def test_never_before_the_minimum_of_runs() -> None:
    rule = dataclasses.replace(RULE, min_runs=7)
    assert not stand(rule, TIGHT).settled
    assert not stand(RULE, TIGHT[:5]).settled
    assert stand(RULE, TIGHT[:5]).further == 1
    verdict = dataclasses.replace(RULE, stop_on="verdict", min_runs=7)
    far = [1.0 + 0.001 * i for i in range(6)]
    assert not stand(verdict, WIDE, far).settled
    assert "6 of at least 7 runs" in stand(verdict, WIDE, far).reason


def test_the_maximum_of_runs_ends_it_unsettled() -> None:
    found = stand(RULE, WIDE * 2)
    assert (found.settled, found.done) == (False, True)
    assert found.reason.startswith("half-width")


def test_what_is_far_off_needs_no_narrow_interval_for_its_verdict() -> None:
    verdict = dataclasses.replace(RULE, stop_on="verdict")
    noise = np.array([0.05, -0.05, 0.04, -0.04, 0.03, -0.03])
    far = stand(verdict, WIDE, list(math.log(3) + noise))
    assert far.settled
    assert far.reason.startswith("slower, 3.000 [")
    near = stand(verdict, WIDE, list(0.002 + noise))
    assert (near.settled, near.done) == (False, False)
    assert near.further > 6
    # Near a bound much is needed, in the middle of what can be said little.
    assert stand(verdict, WIDE, list(0.0149 + noise)).further > near.further
    both = dataclasses.replace(RULE, stop_on="both")
    assert not stand(both, WIDE, list(math.log(3) + noise)).settled, "its own interval is wide"
    assert stand(both, TIGHT, list(math.log(3) + noise)).settled
    # Without anything to be held against, the estimate decides.
    assert stand(verdict, TIGHT).settled
    assert not stand(verdict, WIDE).settled


def test_looks_are_paid_for_only_where_ratios_are_looked_at() -> None:
    assert RULE.looks is None
    assert dataclasses.replace(RULE, stop_on="verdict").looks == Looks(6, 12)
    assert dataclasses.replace(RULE, stop_on="both", max_runs=6).looks is None


def test_contention_allows_for_the_clock_but_not_for_more() -> None:
    wall = np.full(50, 100_000, dtype=np.int64)
    assert not contention.is_contended(wall, wall)
    assert not contention.is_contended(wall, (wall * 0.96).astype(np.int64))
    assert contention.is_contended(wall, (wall * 0.90).astype(np.int64))
    tiny = np.full(50, 3_000, dtype=np.int64)
    assert not contention.is_contended(tiny, tiny - 900)
    assert contention.is_contended(tiny, tiny - 1_500)
    assert not contention.can_judge(4, "thread")
    assert not contention.can_judge(None, "thread")
    assert contention.can_judge(1, "process")


def test_contention_shows_both_figures() -> None:
    found = contention.judge([100.0, 100.0, 150.0, 100.0], [False, False, True, False])
    assert (found.blocks, found.contended, found.quiet_ratio) == (4, 1, 1.0)
    assert contention.judge([1.0], [True]).quiet_ratio is None
    assert contention.judge([], []).share == 0.0


GOOD = grade.Evidence(
    preset="standard",
    runs=6,
    run_s=1.1,
    run_samples=50,
    warmup_s=0.5,
    warmup_samples=5,
    half_width=0.02,
    drift=None,
    contention=contention.Contention(60, 0, 1.0),
)


def test_all_rules_met_is_an_a_without_reasons() -> None:
    assert grade.grade(GOOD) == ("A", ())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"runs": 5, "half_width": None}, "few runs: 5, fewer than 6"),
        ({"run_s": 0.05}, "0.05 s"),
        ({"run_samples": 49}, "few samples: 49 in a run"),
        ({"warmup_s": 0.4}, "short warm-up: 0.4 s"),
        ({"warmup_samples": 4}, "few warm-ups: 4"),
        ({"half_width": 0.031}, "not converged"),
        ({"contention": contention.Contention(60, 6, 0.97)}, "-3.0%"),
        ({"drift": drift.Drift(drift.Trend(0.06, 0.001, True), None, 100.0, 106.0)}, "+6.0%"),
        ({"drift": drift.Drift(None, drift.Step(7, -0.1, 0.001, True), None, None)}, "-10.0% at block 7"),
        ({"remarks": ("ran in bf16, not f32",)}, "bf16"),
        ({"contention": None, "unjudged": 60}, "contention unknown: nothing tells of 60 blocks"),
        ({"preset": "headline"}, "few runs: 6, fewer than 12"),
        ({"preset": "certified", "runs": 12, "half_width": 0.005, "run_s": 61.0}, "fewer than 1024"),
        ({"preset": "headline", "runs": 12, "half_width": 0.02}, "±1%"),
    ],
)
def test_each_rule_unmet_is_a_b_and_is_named(change: dict[str, object], word: str) -> None:
    letter, reasons = grade.grade(dataclasses.replace(GOOD, **change))  # type: ignore[arg-type]
    assert letter == "B"
    assert any(word in reason for reason in reasons), reasons


def test_emulated_or_contended_is_never_better_than_c() -> None:
    assert grade.grade(dataclasses.replace(GOOD, emulated=True))[0] == "C"
    crowded = dataclasses.replace(GOOD, contention=contention.Contention(60, 20, 0.8))
    assert grade.grade(crowded)[0] == "C"
    assert "20 of 60 blocks" in grade.grade(crowded)[1][0]
    both = grade.grade(dataclasses.replace(GOOD, emulated=True, runs=2))
    assert both[0] == "C"
    assert any("few runs: 2" in reason for reason in both[1])


def test_nothing_measured_is_invalid() -> None:
    assert grade.grade(dataclasses.replace(GOOD, failure="the engine crashed")) == ("invalid", ("the engine crashed",))
    assert grade.grade(dataclasses.replace(GOOD, runs=0))[0] == "invalid"
