"""Trials of scripts/fidelity survive being cut off, and rules are judged for what they said; nothing is measured here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "_fidelity"))
    monkeypatch.setenv("FIDELITY_WORK", str(tmp_path))

    def get(name: str) -> ModuleType:
        for loaded in ("trials", "live", name):
            sys.modules.pop(loaded, None)
        return importlib.import_module(name)

    return get


def test_a_series_that_was_cut_off_goes_on(module: Any) -> None:
    trials = module("trials")
    made: list[str] = []

    def make(key: str, seed: int) -> dict[str, Any]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(key)
        return {"seed": seed}

    keys = ["a", "b", "c"]
    with pytest.raises(KeyboardInterrupt):
        trials.series(keys, make, setting="s", seed=1)
    with trials.path().open("a") as stream:
        stream.write('{"key": "half a li')
        stream.write("\n")
    before = list(made)
    made.clear()
    found = trials.series(keys, make, setting="s", seed=1)
    assert [entry["key"] for entry in found] == keys
    assert sorted(before + made) == keys
    assert {entry["key"]: entry["seed"] for entry in found} == {key: trials.seed_of(1, key) for key in keys}
    # Trials of another setting are other trials.
    made.clear()
    trials.series(["a"], make, setting="other", seed=1)
    assert made == ["a"]


@pytest.mark.parametrize(("asked", "made"), [("3", 3), ("500", 100)])
def test_fewer_trials_may_be_asked_for_never_more(
    module: Any, monkeypatch: pytest.MonkeyPatch, asked: str, made: int
) -> None:
    monkeypatch.setenv("FIDELITY_TRIALS", asked)
    assert module("trials").count(100) == made


def entry(slowdown: float, **verdicts: str) -> dict[str, Any]:
    others = dict.fromkeys(("Mann-Whitney", "fixed 50, 1 %", "fixed 50, t test", "all averages, 1 %"), "slower")
    return {"slowdown": slowdown, "verdicts": {**others, **verdicts}}


def test_rules_are_judged_by_false_verdicts_and_by_power(module: Any) -> None:
    rivals = module("rival_rules")
    entries = [
        entry(0.0, ours="equivalent", pyperf="not different"),
        entry(0.0, ours="inconclusive", pyperf="faster"),
        entry(0.03, ours="slower", pyperf="faster"),
        entry(0.03, ours="slower", pyperf="not different"),
    ]
    rules = rivals.table(entries)
    assert (rules["ours"]["false"]["hits"], rules["ours"]["found"]["hits"]) == (0, 2)
    assert (rules["Mann-Whitney"]["false"]["hits"], rules["Mann-Whitney"]["found"]["hits"]) == (2, 2)
    assert (rules["pyperf"]["false"]["hits"], rules["pyperf"]["found"]["hits"], rules["pyperf"]["wrong way"]) == (
        1,
        0,
        1,
    )
    assert rivals.better(rules)
    entries[0]["verdicts"]["ours"] = entries[1]["verdicts"]["ours"] = "slower"
    assert not rivals.better(rivals.table(entries))  # pyperf now has fewer false verdicts


def test_an_effect_is_recovered_within_a_point_or_not(module: Any) -> None:
    g05 = module("g05")
    good = [{"ratio": 1.05 + error, "low": 1.04, "high": 1.06} for error in (-0.004, 0.004)]
    found = g05.level(0.05, good)
    assert found["mean_error"] == pytest.approx(0.0)
    assert (found["within_one_point"]["rate"], found["held_by_interval"]["rate"]) == (1.0, 1.0)
    lost = {"ratio": None, "low": None, "high": None}
    assert g05.level(0.05, [*good, lost])["within_one_point"]["rate"] == pytest.approx(2 / 3)


def test_benchmark_app_has_its_turn_once_per_pair(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    g01 = module("g01")
    order: list[str] = []
    monkeypatch.setattr(g01, "benchmark_app", lambda path, cpu: order.append("theirs") or 1.0)
    turn = g01.Turn(Path("m.xml"), 0, 5, 3)
    turn.after(-1)
    for pair in range(5):
        order.append(f"ours {pair}")
        turn.after(pair)
    assert sorted(turn.theirs) == list(range(5))
    for pair, ours_first in enumerate(turn.ours_first):
        at = order.index(f"ours {pair}")
        assert (order[at + 1 : at + 2] == ["theirs"]) if ours_first else (order[at - 1] == "theirs" and at > 0)


def test_too_few_pairs_never_pass(module: Any) -> None:
    g01 = module("g01")
    assert not g01.judge([0.0] * 5, [True] * 5, 6e6, "").passed
    assert g01.judge([0.0] * 30, [True] * 30, 6e6, "").passed
    assert not g01.judge([0.0] * 30, [True] * 30, 4e6, "").passed  # the model is too small
    assert not g01.judge([0.03] * 30, [True] * 30, 6e6, "").passed
