import dataclasses
import json

import pytest

from harness.agent import protocol as p

JOB = p.Job(
    "litert",
    (
        p.Model(
            "a", "/x/a", (p.Tensor("i", (None, 2), "int8", "x", (0, 1), (0.5,), (3,)),), (p.Tensor("o", (1, 3), "f"),)
        ),
        p.Model("b", "/x/b"),
    ),
    p.Data({"x": "/x/x.npy"}, rows=3, seed=4),
    threads=2,
    affinity=(0, 1),
    latency=p.LatencyPlan((("a", "b"), ("b", "a"))),
)


def test_a_job_survives_the_wire():
    text = p.encode_job(JOB)
    assert "\n" not in text
    assert p.decode_job(text) == JOB
    probe = dataclasses.replace(JOB, latency=None, probe=p.ProbePlan(3, "/x/out.npy"), affinity=None)
    assert p.decode_job(p.encode_job(probe)) == probe


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"version": 99}', "not json", p.encode_job(JOB)[:-20]])
def test_what_is_no_job_is_refused(text):
    with pytest.raises(p.ProtocolError):
        p.decode_job(text)


def test_a_field_of_a_message_may_be_called_kind():
    line = p.encode_message("error", 5, id=None, kind="job", name="N", message="m", remedy=None)
    assert p.decode_message(line) == {
        "type": "error",
        "t_ns": 5,
        "id": None,
        "kind": "job",
        "name": "N",
        "message": "m",
        "remedy": None,
    }


def test_messages_are_whole_or_refused():
    with pytest.raises(p.ProtocolError):
        p.encode_message("done", 1)
    with pytest.raises(p.ProtocolError):
        p.encode_message("nonsense", 1)
    for line in ("INFO: delegate created", '{"type":"hello","t_ns":1}', '{"type":"noise","t_ns":1}', "[1]"):
        with pytest.raises(p.ProtocolError):
            p.decode_message(line)


def stage(name, model):
    return json.loads(p.encode_message("sensor", 1, name="stage", values={"stage": name, "id": model}))


def block(model, index, phase="measure"):
    text = p.encode_message(
        "block", 1, id=model, index=index, phase=phase, started_ns=1, wall_ns=[1], cpu_ns=[1], cpu_clock="thread"
    )
    return json.loads(text)


def failed(model):
    return json.loads(p.encode_message("error", 1, id=model, kind="invoke", name="E", message="m", remedy=None))


@pytest.mark.parametrize(
    ("messages", "blamed"),
    [
        ([], None),
        ([stage("load", "a")], "a"),
        ([stage("load", "a"), stage("load", "b")], "b"),
        ([stage("load", "a"), failed("a")], None),
        ([stage("measure", None)], "a"),
        ([stage("measure", None), block("a", 0, "settle")], "a"),
        ([stage("measure", None), block("a", 0)], "b"),
        ([stage("measure", None), block("a", 0), block("b", 0)], "b"),
        ([stage("measure", None), block("a", 0), failed("b"), block("a", 1)], None),
        ([stage("measure", None), failed("b"), block("a", 0)], "a"),
    ],
)
def test_a_crash_is_blamed_on_the_model_at_work(messages, blamed):
    assert p.model_at_work(JOB, messages) == blamed
