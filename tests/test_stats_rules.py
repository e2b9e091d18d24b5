"""Stopping, contention, grades: the rules of the measurement as code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.stats import contention, drift, grade, stopping

RULE = stopping.StoppingRule(min_runs=6, max_runs=12, target=0.03, budget_s=100.0)
TIGHT = [100.0, 101.0, 100.5, 99.5, 100.2, 99.8]
WIDE = [100.0, 120.0, 90.0, 110.0, 95.0, 105.0]


def test_half_width_is_half_the_order_statistic_interval() -> None:
    assert stopping.relative_half_width([]) is None
    assert stopping.relative_half_width(TIGHT[:5]) is None
    assert stopping.relative_half_width([90.0, 100.0, 100.0, 100.0, 100.0, 110.0]) == pytest.approx(0.1)


def test_stops_when_every_variant_has_converged() -> None:
    decision = stopping.decide(RULE, {"a": TIGHT, "b": TIGHT}, 10.0)
    assert (decision.stop, decision.converged) == (True, True)
    decision = stopping.decide(RULE, {"a": TIGHT, "b": WIDE}, 10.0)
    assert (decision.stop, decision.converged) == (False, False)
    assert decision.reason.startswith("b: half-width")


def test_never_before_the_minimum_of_runs() -> None:
    rule = dataclasses.replace(RULE, min_runs=7)
    assert not stopping.decide(rule, {"a": TIGHT}, 10.0).stop
    assert not stopping.decide(RULE, {"a": TIGHT[:5]}, 10.0).stop


def test_budget_and_maximum_end_it_and_say_not_converged() -> None:
    spent = stopping.decide(RULE, {"a": WIDE}, 100.0)
    assert (spent.stop, spent.converged) == (True, False)
    assert "budget of 100 s" in spent.reason
    assert "not converged" in spent.reason
    out = stopping.decide(RULE, {"a": WIDE * 2}, 1.0)
    assert (out.stop, out.converged) == (True, False)
    assert "all 12 runs" in out.reason
    assert stopping.decide(RULE, {}, 0.0).stop


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
