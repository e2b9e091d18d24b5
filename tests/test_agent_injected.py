"""A slowdown put in on purpose: what is asked for is what is injected, it is on record, and half understood is refused."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from session_driver import protocol, spec
from test_stats_rules import GOOD

from harness.agent import protocol as p
from harness.agent.channel import AgentError
from harness.agent.engines import open_engine
from harness.agent.engines.base import LoadOptions
from harness.agent.engines.injected import Injection, injection, slowed, wrapped
from harness.agent.runs import load
from harness.experiment import Experiment
from harness.profiles import DeviceProfile
from harness.runner import run_session
from harness.stats.grade import grade
from harness.store import Store
from harness.table import build_rows

S = 1_000_000_000


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"mode": "null"}))
    return str(path)


def test_shares_multiply_and_follow_the_clock() -> None:
    what = injection(
        {
            "inject": {
                "slowdown": {"b": 0.1},
                "ramp": {"share": 0.2, "seconds": 10},
                "step": {"share": 0.5, "after_s": 20},
                "from_ns": 5 * S,
            }
        },
        "b",
    )
    assert what is not None
    assert what.share(0) == pytest.approx(0.1)
    assert what.share(10 * S) == pytest.approx(1.1 * 1.1 - 1)
    assert what.share(20 * S) == pytest.approx(1.1 * 1.2 - 1)
    assert what.share(25 * S) == pytest.approx(1.1 * 1.2 * 1.5 - 1)
    assert what.words == "+10.000% always, +20.000% growing over 10 s, +50.000% from 20 s on"


def test_nothing_asked_nothing_done(model: str) -> None:
    session = open_engine("fault").load(model, LoadOptions())
    assert wrapped(session, {}, "a") is session
    assert wrapped(session, {"inject": {}}, "a") is not session  # wrapped, though not slowed: all models cost the same
    assert wrapped(session, {"inject": {}}, "a").facts(deep=False)["injected"] == "+0.000% always"


@pytest.mark.parametrize(
    "asked",
    [
        3,
        {"slow": {}},
        {"slowdown": 0.1},
        {"slowdown": {"m": -0.1}},
        {"slowdown": {"m": "3 %"}},
        {"ramp": {"share": 0.2}},
        {"step": {"share": 0.2, "seconds": 1}},
        {"from_ns": True},
        {"only": "m"},
        {"only": [1]},
    ],
)
def test_what_is_not_understood_is_refused(model: str, asked: object) -> None:
    job = p.Job("fault", (p.Model("m", model),), p.Data(), options={"inject": asked})
    with pytest.raises(AgentError, match="inject") as caught:
        load(job, open_engine("fault"), {}, job.models[0])
    assert caught.value.kind == "job"


@pytest.mark.parametrize("what", [Injection(slowdown=1.0), Injection(step=1.0)])
def test_the_cpu_spins_for_the_share(what: Injection) -> None:
    spun = []

    def invoke() -> None:
        until = time.perf_counter_ns() + 1_000_000
        while time.perf_counter_ns() < until:
            pass

    for _ in range(5):
        started, cpu = time.perf_counter_ns(), time.thread_time_ns()
        slowed(invoke, what)()
        spun.append((time.perf_counter_ns() - started, time.thread_time_ns() - cpu))
    # Never less than was asked for; how much more, the scheduler decides.
    assert min(wall for wall, _ in spun) >= 2_000_000


def test_such_a_row_is_indicative_at_best() -> None:
    letter, words = grade(dataclasses.replace(GOOD, injected="+3.000% always"))
    assert (letter, words[0]) == ("C", "slowed down on purpose: +3.000% always")


def test_the_experiment_may_ask_for_it() -> None:
    inject = {"slowdown": {"m": 0.03}}
    made = Experiment.model_validate({"artifacts": ["m.onnx"], "engine_options": {"inject": inject}})
    assert made.engine_options == {"inject": inject}


@pytest.mark.slow
def test_a_real_engine_is_slowed_and_the_session_says_so(tmp_path: Path) -> None:
    device = DeviceProfile(name="here", transport="local", work_folder=str(tmp_path / "work"))
    options = {"inject": {"slowdown": {"tiny.onnx": 1.0}}}
    asked = dataclasses.replace(spec([device], protocol(), ("tiny.onnx", "tiny_qdq.onnx")), options=options)
    with Store.open(tmp_path / "s.db") as store:
        data = store.load(run_session(asked, store))
    assert data.session.environment["options"] == options
    rows = {row.variant: row for row in build_rows(data)}
    assert rows["tiny.onnx"].grade == rows["tiny_qdq.onnx"].grade == "C"
    assert "slowed down on purpose: +100.000% always" in rows["tiny.onnx"].grade_reasons


def test_ramp_and_step_may_hit_one_model_alone() -> None:
    asked = {"inject": {"ramp": {"share": 0.2, "seconds": 1.0}, "slowdown": {"b": 0.1}, "only": ["a"], "from_ns": 0}}
    first, second = injection(asked, "a"), injection(asked, "b")
    assert first is not None
    assert second is not None
    assert first.share(2 * S) == pytest.approx(0.2)
    assert second.share(2 * S) == pytest.approx(0.1)
