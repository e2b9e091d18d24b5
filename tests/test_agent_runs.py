"""Probe and latency runs in this process, with the engine that fails on purpose."""

import hashlib
import json

import numpy as np
import pytest

from harness.agent import protocol as p
from harness.agent.channel import AgentError
from harness.agent.engines import open_engine
from harness.agent.inputs import open_data
from harness.agent.runs import check_plan, run_latency, run_probe


class Recorder:
    """A channel that keeps the messages."""

    def __init__(self):
        self.messages = []

    def send(self, kind, /, **fields):
        self.messages.append(p.decode_message(p.encode_message(kind, 0, **fields)))

    def error(self, model, error):
        self.send("error", id=model, kind=error.kind, name=error.name, message=error.message, remedy=error.remedy)

    def stage(self, stage, model):
        self.send("sensor", name="stage", values={"stage": stage, "id": model})

    def of(self, kind):
        return [message for message in self.messages if message["type"] == kind]


@pytest.fixture
def model(tmp_path):
    def make(name, **settings):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(settings))
        return p.Model(name, str(path))

    return make


def latency(models, order, **plan):
    plan = {"warmup_samples": 3, "warmup_s": 0.0, "block_samples": 4, "block_s": 0.0, **plan}
    job = p.Job("fault", tuple(models), p.Data(), latency=p.LatencyPlan(order, **plan))
    channel = Recorder()
    run_latency(job, job.latency, open_engine("fault"), {}, channel)
    return channel


def probe(models, data=None, **plan):
    job = p.Job("fault", tuple(models), data or p.Data(), probe=p.ProbePlan(**plan))
    channel = Recorder()
    run_probe(job, job.probe, open_engine("fault"), open_data(job.data), channel)
    return channel


def test_a_latency_run_follows_the_order_and_tells_its_phases_apart(model):
    order = (("a", "b"), ("b", "a"), ("a", "b"))
    channel = latency([model("a"), model("b", mode="slow", seconds=0.0005)], order, settle=2)
    assert [m["id"] for m in channel.of("loaded")] == ["a", "b"]
    assert all(m["first_inference_ns"] is None and m["load_ns"] > 0 for m in channel.of("loaded"))
    assert [(m["id"], len(m["wall_ns"])) for m in channel.of("warmup")] == [("a", 3), ("b", 3)]
    blocks = channel.of("block")
    assert [(m["index"], m["id"]) for m in blocks if m["phase"] == "measure"] == [
        (index, name) for index, names in enumerate(order) for name in names
    ]
    assert {len(m["wall_ns"]) for m in blocks if m["phase"] == "settle"} == {2}
    assert all(len(m["wall_ns"]) == len(m["cpu_ns"]) >= 4 for m in blocks if m["phase"] == "measure")
    assert min(ns for m in blocks if m["id"] == "b" for ns in m["wall_ns"]) >= 500_000
    starts = [m["started_ns"] for m in blocks]
    assert starts == sorted(starts)
    contention = [m["values"]["round"] for m in channel.of("sensor") if m["name"] == "contention"]
    assert contention == [0, 1, 2]


def test_no_settling_when_the_plan_wants_none(model):
    assert {m["phase"] for m in latency([model("a")], (("a",),), settle=0).of("block")} == {"measure"}


@pytest.mark.parametrize(
    ("settings", "kind", "blocks"),
    [
        ({"mode": "error", "at": "load", "message": "no such operator"}, "load", 0),
        ({"mode": "error", "at": "first"}, "invoke", 0),
        ({"mode": "error", "after": 3 + 2 + 4 + 2 + 1}, "invoke", 4),  # one sample into the second round's block
    ],
)
def test_one_failing_model_costs_nothing_but_itself(model, settings, kind, blocks):
    channel = latency([model("bad", **settings), model("good")], (("bad", "good"), ("good", "bad")))
    (error,) = channel.of("error")
    assert (error["id"], error["kind"], error["name"]) == ("bad", kind, "RuntimeError")
    assert error["message"] == settings.get("message", "injected error")
    assert error["remedy"]
    assert len([m for m in channel.of("block") if m["id"] == "bad"]) == blocks
    assert len([m for m in channel.of("block") if m["id"] == "good" and m["phase"] == "measure"]) == 2


def test_a_missing_file_is_an_error_of_loading(model, tmp_path):
    channel = latency([p.Model("gone", str(tmp_path / "gone.json")), model("good")], (("gone", "good"),))
    (error,) = channel.of("error")
    assert (error["id"], error["kind"]) == ("gone", "load")
    assert "gone.json" in error["message"]


def test_a_probe_gives_memory_and_the_outputs_of_every_row(model, tmp_path):
    rows = np.random.default_rng(0).random((7, 2, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    out = tmp_path / "deep" / "out.npy"
    data = p.Data({"x": str(tmp_path / "x.npy")}, rows=7)
    channel = probe([model("m", shape=[None, 2, 2])], data, outputs_path=str(out), memory_invokes=2)
    (loaded,), (memory,), (outputs,) = (channel.of(kind) for kind in ("loaded", "memory", "outputs"))
    assert loaded["load_ns"] > 0
    assert loaded["first_inference_ns"] > 0
    values = memory["memory"]
    assert {"baseline", "after_load", "after_first", "load_peak", "inference_peak", "peak", "arena"} <= set(values)
    assert values["peak"] >= values["after_load"] > 0
    assert values["arena"] is None
    assert values["arena_reason"]
    result = np.load(out, allow_pickle=False)
    assert np.array_equal(result, rows.reshape(7, 4))
    assert (outputs["rows"], outputs["shape"]) == (7, [7, 4])
    assert outputs["sha256"] == hashlib.sha256(rows.tobytes()).hexdigest()
    assert channel.of("error") == []


def test_a_fixed_batch_gives_every_row_once(model, tmp_path):
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.save(tmp_path / "x.npy", rows)
    data = p.Data({"x": str(tmp_path / "x.npy")}, rows=5)
    probe([model("m", shape=[2, 2])], data, outputs_path=str(tmp_path / "out.npy"))
    assert np.array_equal(np.load(tmp_path / "out.npy"), rows)


def test_the_peak_has_a_spike_in_the_middle_of_the_inferences(model):
    size = 64 * 1024 * 1024
    channel = probe([model("m", mode="memory", bytes=size, after=3)], memory_invokes=5)
    values = channel.of("memory")[0]["memory"]
    if values["inference_peak"] is None:
        pytest.skip(f"the high-water mark cannot be set back here: {values['peak_how']}")
    assert abs(values["peak"] - values["baseline"] - size) <= 2 * 1024 * 1024
    assert values["after_first"] - values["baseline"] < 2 * 1024 * 1024


def test_no_rows_and_no_room_are_errors_of_data(model, tmp_path):
    (error,) = probe([model("m")], outputs_path=str(tmp_path / "out.npy")).of("error")
    assert error["kind"] == "data"
    np.save(tmp_path / "x.npy", np.zeros((2, 4), np.float32))
    (tmp_path / "file").write_text("")
    data = p.Data({"x": str(tmp_path / "x.npy")}, rows=2)
    (error,) = probe([model("m")], data, outputs_path=str(tmp_path / "file" / "out.npy")).of("error")
    assert error["kind"] == "data"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "exactly one"),
        ({"probe": p.ProbePlan(), "latency": p.LatencyPlan(())}, "exactly one"),
        ({"probe": p.ProbePlan(), "models": ()}, "at least one"),
        ({"probe": p.ProbePlan(), "models": (p.Model("a", "x"), p.Model("a", "y"))}, "twice"),
        ({"latency": p.LatencyPlan((("a", "z"),))}, "names z"),
        ({"probe": p.ProbePlan(), "threads": 0}, "threads"),
    ],
)
def test_jobs_that_make_no_sense_are_refused(changes, words):
    fields = {"engine": "fault", "models": (p.Model("a", "x"),), "data": p.Data(), **changes}
    with pytest.raises(AgentError, match=words) as error:
        check_plan(p.Job(**fields))
    assert error.value.kind == "job"
