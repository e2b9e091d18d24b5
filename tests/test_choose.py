"""The choice: limits hold, what was not measured cannot win, and what cannot be told apart is called a tie."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_session import sample_session

from harness.choose import LIMITS, Constraints, Recommendation, pareto_front, recommend, recommendation_to_dict
from harness.report.advice import advice_to_dict, advise, exclusion_words, limits_words
from harness.row import FAILED, OK, REFUSED, Row
from harness.table import build_rows, run_medians

UNLABELLED: dict[str, Any] = dict.fromkeys(
    ("accuracy", "accuracy_drop_pp", "accuracy_drop_low_pp", "accuracy_drop_high_pp"), None
)


def make(name: str, ms: float, kb: float = 100, accuracy: float = 0.88, **more: Any) -> Row:
    values: dict[str, Any] = {
        "session": "s",
        "variant": name,
        "base": "b",
        "format": "tflite",
        "recipe": name,
        "device": "laptop",
        "engine": "litert",
        "status": OK,
        "latency_median_ns": ms * 1e6,
        "latency_median_low_ns": ms * 0.99e6,
        "latency_median_high_ns": ms * 1.01e6,
        "latency_p90_ns": ms * 1.1e6,
        "load_ns": 5e6,
        "size_bytes": int(kb * 1000),
        "memory_peak_delta_bytes": int(kb * 4000),
        "accuracy": accuracy,
        "accuracy_drop_pp": (0.88 - accuracy) * 100,
        "accuracy_drop_low_pp": (0.88 - accuracy) * 100 - 0.4,
        "accuracy_drop_high_pp": (0.88 - accuracy) * 100 + 0.4,
        "grade": "A",
    }
    return Row(**values | more)


ROWS = [
    make("fp32", 2.0, 170),
    make("fp16", 2.0, 90, 0.8799),
    make("int8", 1.0, 60, 0.876),
    make("int4", 0.5, 45, 0.82),
    make("gone", 0.1, status=FAILED, error="EngineCrashed: boom"),
    make("never", 0.1, status=REFUSED),
]


def one(rows: list[Row] = ROWS, limits: Constraints | None = None, **more: Any) -> Recommendation:
    (found,) = recommend(rows, limits, **more)
    return found


def names(found: Recommendation) -> tuple[str | None, str | None]:
    winner, runner_up = found.winner, found.runner_up
    return (None if winner is None else winner.variant, None if runner_up is None else runner_up.variant)


def test_the_fastest_within_the_default_drop_wins() -> None:
    found = one()
    assert names(found) == ("int8", "fp16")
    assert found.qualifies
    assert (found.defaulted, found.constraints.max_drop_pp) == (("max_drop_pp",), 1.0)
    out = {item.variant: item for item in found.excluded}
    assert set(out) == {"int4", "gone"}
    assert out["int4"].over == pytest.approx(5.0)
    assert out["gone"].limit == "failed"
    assert found.tie == ()
    assert found.reference is not None
    assert found.reference.variant == "fp32"


def test_the_default_drop_gives_way_to_what_the_user_says() -> None:
    assert names(one(limits=Constraints(max_drop_pp=10.0)))[0] == "int4"
    assert names(one(limits=Constraints(min_accuracy=0.8)))[0] == "int4"
    assert names(one(limits=Constraints(max_size_bytes=200_000)))[0] == "int8"
    assert names(one(limits=Constraints(max_drop_pp=0.05)))[0] == "fp16"


@pytest.mark.parametrize(
    ("limits", "winner"),
    [
        (Constraints(objective="size"), "int8"),
        (Constraints(objective="accuracy"), "int8"),  # a tie with fp32 and fp16 within the intervals: the fastest
        (Constraints(objective="accuracy", max_drop_pp=0.001), "fp32"),
        (Constraints(objective="memory"), "int8"),
        (Constraints(max_latency_ns=1.5e6), "int8"),
        (Constraints(max_latency_p90_ns=1.1e6), "int8"),
        (Constraints(max_latency_p90_ns=1.0e6), None),
        (Constraints(max_load_ns=4e6), None),
        (Constraints(max_memory_bytes=1), None),
    ],
)
def test_each_limit_and_objective(limits: Constraints, winner: str | None) -> None:
    found = one(limits=limits)
    assert names(found)[0] == winner
    assert found.qualifies is (winner is not None)


def test_what_was_not_measured_cannot_meet_a_limit_and_says_why() -> None:
    unknown = make("unknown", 0.1, latency_p90_ns=None, null_reasons=("latency_p90_ns: n/a (n=12)",))
    found = one([*ROWS, unknown], Constraints(max_latency_p90_ns=3e6))
    assert names(found)[0] == "int8"
    (item,) = (item for item in found.excluded if item.variant == "unknown")
    assert (item.value, item.over, item.reason) == (None, None, "n/a (n=12)")
    assert exclusion_words(item) == "p90 latency was not measured: n/a (n=12)"
    assert names(one([*ROWS, unknown]))[0] == "unknown"


def test_an_objective_that_was_not_measured_excludes() -> None:
    bare = make("bare", 1.0, latency_median_ns=None, null_reasons=("latency_median_ns: no latency run of it ended",))
    found = one([bare])
    assert found.winner is None
    assert found.excluded[0].limit == "objective"
    assert one([bare], Constraints(objective="size")).winner == bare
    # A missing figure that a limit already asks for is said once.
    assert len(one([bare], Constraints(max_latency_ns=1e6)).excluded) == 1


def test_overlapping_intervals_are_a_tie_that_the_smaller_wins() -> None:
    rows = [make("a", 1.000, 100), make("b", 1.010, 60), make("c", 1.019, 40), make("d", 1.5, 10)]
    found = one(rows)
    assert found.tie == ("a", "b", "c")
    assert names(found) == ("c", "a")
    (advice,) = advise([found])
    assert "A tie: by latency it cannot be told apart from a, b, so the smallest of them is taken." in advice.sentence


def test_without_intervals_no_tie_is_claimed_but_the_doubt_is_told() -> None:
    rows = [make(n, ms, latency_median_low_ns=None, latency_median_high_ns=None) for n, ms in (("a", 1.0), ("b", 1.01))]
    found = one(rows)
    assert (names(found)[0], found.tie, found.confidence) == ("a", (), None)
    assert "too few runs for an interval" in advise([found])[0].sentence


def medians(spread: float, seed: int = 1, **centres: float) -> dict[tuple[str, str], dict[int, float]]:
    rng = np.random.default_rng(seed)
    return {
        (name, "laptop"): dict(enumerate(centre * 1e6 * np.exp(rng.normal(0, spread, 6))))
        for name, centre in centres.items()
    }


def exact(name: str, ms: float, kb: float) -> Row:
    return make(name, ms, kb, latency_median_low_ns=ms * 1e6, latency_median_high_ns=ms * 1e6)


def test_the_bootstrap_over_runs_calls_a_tie_that_intervals_missed() -> None:
    rows = [exact("a", 1.0, 100), exact("b", 1.001, 50)]
    noisy = one(rows, run_medians=medians(0.05, a=1.0, b=1.001))
    assert noisy.tie == ("a", "b")
    assert names(noisy)[0] == "b"
    assert noisy.confidence is not None
    assert noisy.confidence < 0.95
    clear = one(rows, run_medians=medians(0.0001, a=1.0, b=1.1))
    assert (clear.tie, clear.confidence) == ((), 1.0)
    # Different rounds cannot be paired, so each variant's runs are drawn by themselves.
    odd = medians(0.05, a=1.0, b=1.001)
    odd["b", "laptop"] = {key + 100: value for key, value in odd["b", "laptop"].items()}
    assert one(rows, run_medians=odd).tie == ("a", "b")
    few = {key: dict(list(value.items())[:5]) for key, value in medians(0.05, a=1.0, b=1.001).items()}
    assert one(rows, run_medians=few).confidence is None


@pytest.mark.stats
def test_equal_variants_are_called_a_tie() -> None:
    """G15: A/A variants come out as a tie in at least 95 % of sessions."""
    ties = 0
    for seed in range(100):
        found = medians(0.02, seed, a=1.0, b=1.0)
        rows = []
        for (name, _), values in found.items():
            runs = sorted(values.values())
            middle = float(np.median(runs))
            rows.append(
                make(
                    name,
                    1,
                    latency_median_ns=middle,
                    latency_median_low_ns=runs[0],
                    latency_median_high_ns=runs[-1],
                )
            )
        ties += bool(one(rows, run_medians=found).tie)
    assert ties >= 95


def test_regression_is_guarded_by_its_error() -> None:
    rows = [
        dataclasses.replace(make("good", 2.0, rmse=0.1, rmse_ratio=1.01), **UNLABELLED),
        dataclasses.replace(make("ruined", 0.5, rmse=2.0, rmse_ratio=20.0), **UNLABELLED),
    ]
    found = one(rows)
    assert names(found)[0] == "good"
    assert found.defaulted == ("max_rmse_ratio",)
    assert found.pareto == ("good", "ruined")


def test_artifacts_without_labels_are_chosen_by_speed_alone() -> None:
    found = one([dataclasses.replace(make(n, ms, kb), **UNLABELLED) for n, ms, kb in (("a", 2.0, 10), ("b", 1.0, 20))])
    assert names(found) == ("b", "a")
    assert found.defaulted == ()
    assert found.pareto == ("a", "b")


def test_devices_are_answered_apart() -> None:
    rows = [*ROWS, *(dataclasses.replace(row, device="board", status=FAILED, error="X: gone") for row in ROWS[:2])]
    laptop, board = recommend(rows)
    assert (laptop.device, board.device) == ("laptop", "board")
    assert not board.qualifies
    assert [item.device for item in recommend(rows, device="board")] == ["board"]
    assert recommend(rows, device="nowhere") == []


AIMS = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))


@given(st.lists(AIMS, min_size=1, max_size=25))
@settings(max_examples=80, deadline=None)
def test_pareto_front_by_definition(points: list[tuple[int, int, int]]) -> None:
    rows = [make(str(i), ms, kb, 0.8 + a / 100) for i, (ms, kb, a) in enumerate(points)]
    front = set(pareto_front(rows, with_size=True))
    for i, (ms, kb, a) in enumerate(points):
        beaten = any(m <= ms and k <= kb and b >= a and (m, k, b) != (ms, kb, a) for m, k, b in points)
        assert (str(i) in front) is not beaten
    assert front >= set(pareto_front(rows, with_size=False)) or len({p[1] for p in points}) > 1
    fastest = min(points)[0]
    assert any(points[int(name)][0] == fastest for name in pareto_front(rows, with_size=False))


@given(
    st.lists(AIMS, min_size=1, max_size=12),
    st.sampled_from(["latency", "size", "accuracy", "memory"]),
    st.one_of(st.none(), st.integers(1, 6)),
)
@settings(max_examples=80, deadline=None)
def test_the_winner_meets_every_limit_and_everybody_is_accounted_for(
    points: list[tuple[int, int, int]], objective: Any, size: int | None
) -> None:
    rows = [make(str(i), ms, kb, 0.88 - a / 500) for i, (ms, kb, a) in enumerate(points)]
    limits = Constraints(max_size_bytes=None if size is None else size * 1000, objective=objective)
    found = one(rows, limits)
    out = {item.variant for item in found.excluded}
    assert len(out) + found.candidates == len(rows)
    if found.winner is None:
        assert out == {row.variant for row in rows}
        return
    assert found.winner.variant not in out
    for limit, (name, below) in LIMITS.items():
        bound = getattr(found.constraints, limit)
        if bound is not None:
            value = getattr(found.winner, name)
            assert value <= bound if below else value >= bound
    assert found.winner.variant in (found.tie or (found.winner.variant,))
    assert recommend(list(reversed(rows)), limits)[0].winner == found.winner


def test_words() -> None:
    (advice,) = advise([one()])
    assert advice.sentence.startswith(
        "Deploy int8 on laptop: median 1.00 ms (95 % 0.99–1.01), 60.0 kB, accuracy 87.60 % (−0.40 pp against the base "
        "model) — 2.0× faster and 2.8× smaller than fp32."
    )
    assert "Limits: accuracy drop ≤ 1.00 pp (default)." in advice.sentence
    assert (advice.winner, advice.runner_up, advice.qualifies) == ("int8", "fp16", True)
    assert dict(advice.excluded)["int4"] == ("accuracy drop 6.00 pp is over the limit of 1.00 pp by 5.00 pp",)
    assert dict(advice.excluded)["gone"] == ("failed: EngineCrashed: boom",)
    (nothing,) = advise([one(limits=Constraints(max_size_bytes=50_000, max_drop_pp=1.0))])
    assert nothing.winner is None
    assert nothing.sentence.startswith("Nothing qualifies on laptop (3 out by size")
    assert "Nearest: int8, whose size 60.0 kB is over the limit of 50.0 kB by 10.0 kB." in nothing.sentence
    assert limits_words(Constraints()) == "none"
    assert limits_words(Constraints(min_accuracy=0.8)) == "accuracy ≥ 80.00 %"


def test_doubts_are_told() -> None:
    emulated = make("x", 1.0, grade="C", grade_reasons=("the device is emulated",), accuracy_drop_high_pp=1.4)
    sentence = advise([one([emulated])])[0].sentence
    assert "its grade is C (the device is emulated)" in sentence
    assert "the interval of its accuracy drop reaches 1.40 pp" in sentence


def test_from_a_whole_session_and_as_json() -> None:
    data = sample_session(broken_device=True)
    found = recommend(build_rows(data), run_medians=run_medians(data))
    assert [names(item)[0] for item in found] == [
        "dscnn.tflite.static_wi8_ai8",
        "dscnn.tflite.static_wi8_ai8",
        None,
    ]
    assert found[0].confidence == 1.0
    assert found[2].qualifies is False
    for item, advice in zip(found, advise(found), strict=True):
        text = json.dumps(recommendation_to_dict(item), allow_nan=False)
        assert json.loads(text)["winner"] == names(item)[0]
        assert advice_to_dict(advice)["sentence"] == advice.sentence


def _rounds(*times: float) -> dict[int, float]:
    return dict(enumerate(times))


def test_noise_that_hits_both_alike_makes_no_tie() -> None:
    """Intervals over rounds overlap widely, yet in every round one is 5 % slower than the other."""
    machine = np.exp(np.random.default_rng(1).normal(0, 0.2, 6)) * 1e6
    rows = [
        make(name, ms, kb, latency_median_low_ns=0.7e6 * ms, latency_median_high_ns=1.4e6 * ms)
        for name, ms, kb in (("fast", 1.0, 100), ("small", 1.05, 50))
    ]
    medians = {("fast", "laptop"): _rounds(*machine), ("small", "laptop"): _rounds(*(machine * 1.05))}
    assert names(one(rows, run_medians=medians)) == ("fast", "small")
    assert one(rows, run_medians=medians).tie == ()
    # Without pairs only the intervals are there, and they overlap: the smaller one is taken.
    assert names(one(rows)) == ("small", "fast")
    within = {**medians, ("small", "laptop"): _rounds(*(machine * 1.005))}
    assert one(rows, run_medians=within).winner is not None
    assert set(one(rows, run_medians=within).tie) == {"fast", "small"}


def test_rounds_that_one_variant_stopped_before_are_no_obstacle() -> None:
    rows = [make("fast", 1.0), make("slow", 1.2)]
    medians = {("fast", "laptop"): _rounds(*[1e6] * 6), ("slow", "laptop"): _rounds(*[1.2e6] * 9)}
    found = one(rows, run_medians=medians)
    assert (found.tie, found.confidence) == ((), 1.0)
