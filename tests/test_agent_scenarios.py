"""Offline and sustained runs through the real agent process, with the engine that fails on purpose."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from agent_process import finish, of, run, send, start

from harness.agent.protocol import Data, Job, Model, ProtocolError, decode_job, encode_job
from harness.agent.scenarios import LoadgenPlan, OfflinePlan, SustainedPlan
from harness.collectors.loadgen import answers_of, parse_summary
from harness.collectors.sustained import seconds_of
from harness.collectors.throughput import laps_of, times_of
from harness.collectors.unavailable import Unavailable

QUICK = {"warmup_s": 0.0, "warmup_batches": 1, "block_s": 0.01, "block_batches": 3}


def job(folder: Path, models: dict[str, dict[str, Any]], **plans: Any) -> Job:
    paths = []
    for name, settings in models.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        paths.append(Model(name, str(path)))
    return Job("fault", tuple(paths), Data(seed=3), **plans)


def offline(order: list[str], **changes: Any) -> OfflinePlan:
    return OfflinePlan(order=(tuple(order), tuple(order[::-1])), **{**QUICK, **changes})


def sensors(messages: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [message for message in of(messages, "sensor") if message["name"] == name]


def test_plans_come_through_the_wire_unchanged(tmp_path: Path) -> None:
    for plan in (
        {"offline": offline(["a"], batch=8, streams=2)},
        {"sustained": SustainedPlan(12.5)},
        {"loadgen": LoadgenPlan("/x", "offline", batch=4)},
    ):
        made = job(tmp_path, {"a": {}}, **plan)
        assert decode_job(encode_job(made)) == made
        assert made.plans() == list(plan)
    broken = json.loads(encode_job(made))
    broken["loadgen"]["surprise"] = 1
    with pytest.raises(ProtocolError, match="surprise"):
        decode_job(json.dumps(broken))


def test_batches_and_streams_and_what_cannot_be_measured_so(tmp_path: Path) -> None:
    models: dict[str, dict[str, Any]] = {
        "good": {"mode": "slow", "seconds": 0.0005},
        "fixed": {"shape": [2, 4]},
        "mixed": {"mixes_rows": True},
        "dies": {"mode": "error", "after": 12, "message": "out of luck"},
    }
    made = job(tmp_path, models, offline=offline(list(models), batch=4, streams=2))
    code, messages, errors = run(made)
    assert code == 0, errors
    laps = laps_of(of(messages, "sensor"))
    good = [lap for lap in laps if lap.variant == "good"]
    assert [(lap.index, lap.phase, lap.batch, lap.streams) for lap in good] == [
        (-1, "warmup", 4, 2),
        (0, "measure", 4, 2),
        (1, "measure", 4, 2),
    ]
    assert all(lap.inferences >= 2 * 4 * 3 for lap in good[1:])
    assert all(lap.seconds >= 0.01 for lap in good[1:])
    assert sorted(times_of(of(messages, "sensor"))["good"]) == [0, 1]
    facts = {message["id"]: message["facts"] for message in of(messages, "loaded")}
    assert facts["good"]["batch_deviation"] == 0.0
    assert (facts["fixed"]["batch"], facts["fixed"]["batch_asked"]) == (2, 4)
    assert facts["fixed"]["batch_deviation"] is None
    failed = {message["id"]: message for message in of(messages, "error")}
    assert set(failed) == {"mixed", "dies"}
    assert failed["mixed"]["name"] == "BatchMismatch"
    assert "differ from those of its rows one by one" in failed["mixed"]["message"]
    assert "--batch 1" in failed["mixed"]["remedy"]
    assert "out of luck" in failed["dies"]["message"]
    assert {lap.variant for lap in laps} >= {"good", "fixed"}
    assert {m["values"]["round"] for m in sensors(messages, "contention")} == {0, 1}


def test_a_lap_that_makes_no_sense_is_refused() -> None:
    values = {"id": "a", "index": 0, "phase": "measure", "batch": 2, "batches": [4, 4], "cpu_ns": 1}
    values |= {"started_ns": [0, 0], "ended_ns": [10**9, 2 * 10**9]}
    (lap,) = laps_of([{"name": "throughput", "values": values}])
    assert lap.per_s == pytest.approx(8 / 1 + 8 / 2)
    assert (lap.inferences, lap.seconds) == (16, 2.0)
    for wrong in ({"batches": []}, {"ended_ns": [0, 5]}, {"batches": [0, 4]}, {"started_ns": [0]}):
        with pytest.raises(ValueError, match="throughput"):
            laps_of([{"name": "throughput", "values": values | wrong}])


def test_a_sustained_run_tells_each_second_and_keeps_what_it_may(tmp_path: Path) -> None:
    plan = SustainedPlan(duration_s=0.3, interval_s=0.1, keep=7)
    code, messages, errors = run(job(tmp_path, {"a": {"mode": "slow", "seconds": 0.001}}, sustained=plan))
    assert code == 0, errors
    seconds = seconds_of(of(messages, "sensor"), "a")
    blocks = of(messages, "block")
    assert len(seconds) == len(blocks) >= 2
    assert [block["index"] for block in blocks] == list(range(len(blocks)))
    for second, block in zip(seconds, blocks, strict=True):
        assert 0 < len(block["wall_ns"]) <= 7
        assert second.kept_every == -(-second.count // 7)
        assert second.min_ns <= second.median_ns <= second.p90_ns <= second.max_ns
        assert second.min_ns <= min(block["wall_ns"])
    assert seconds[0].at_s == 0.0
    assert of(messages, "loaded")[0]["first_inference_ns"] > 0
    assert seconds_of(of(messages, "sensor"), "another") == ()


def test_a_failure_and_a_signal_leave_the_seconds_before(tmp_path: Path) -> None:
    plan = SustainedPlan(duration_s=60.0, interval_s=0.05)
    slow = {"mode": "slow", "seconds": 0.001}
    process = start()
    send(process, job(tmp_path, {"a": slow | {"mode": "error", "after": 150}, "b": slow}, sustained=plan))
    # The first model fails by itself; the second is at work until it is told to stop.
    seen = 0
    while seen < 3:
        line = json.loads(process.stdout.readline())
        seen += line["type"] == "sensor" and line["name"] == "second" and line["values"]["id"] == "b"
    process.send_signal(signal.SIGTERM)
    code, messages, _ = finish(process)
    assert code == 143
    assert [message["kind"] for message in of(messages, "error")] == ["terminated"]


def test_the_watch_reads_what_is_quick_and_there(tmp_path: Path) -> None:
    from harness.agent.heat import Watch
    from harness.collectors.thermal import parse_heat

    def put(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n", encoding="ascii")

    for number in range(20):
        put(f"class/thermal/thermal_zone{number}/type", "cpu-thermal" if number == 19 else f"skin{number}")
        put(f"class/thermal/thermal_zone{number}/temp", str(40_000 + number * 1000))
    put("devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1800000")
    put("class/thermal/cooling_device0/type", "Processor")
    put("class/thermal/cooling_device0/cur_state", "2")
    watch = Watch(str(tmp_path))
    heat = parse_heat(watch.look())
    assert "thermal_zone19 cpu-thermal" in heat.temperatures_c  # the CPU's own zone comes before the others
    assert len(heat.temperatures_c) <= 12
    assert heat.frequency_khz == {"policy0": 1_800_000}
    assert heat.now == ("Processor slows the CPU (state 2)",)
    (tmp_path / "class/thermal/thermal_zone19/temp").unlink()
    assert "thermal_zone19 cpu-thermal" not in parse_heat(watch.look()).temperatures_c
    empty = Watch(str(tmp_path / "nothing")).look()
    assert empty["zones"] == {}
    began = time.monotonic()
    watch.look()
    assert time.monotonic() - began < 5


SUMMARY = """SUT name : PySUT
Scenario : SingleStream
Mode     : PerformanceOnly
90.0th percentile latency (ns) : 116567
Result is : INVALID
  Min duration satisfied : Yes
  Min queries satisfied : NO
  Early stopping satisfied: NO
Early Stopping Result:
 * Early stopping 90.0th percentile estimate: 122799
QPS w/ loadgen overhead         : 4647.99
Mean latency (ns)               : 203426
"""


def test_loadgens_words_are_understood() -> None:
    found = parse_summary(SUMMARY)
    assert not isinstance(found, Unavailable)
    assert (found.scenario, found.valid) == ("single-stream", False)
    assert (found.p90_ns, found.early_stopping_p90_ns, found.mean_ns) == (116567, 122799, 203426)
    assert found.per_s == 4647.99
    assert found.reason == "min queries not satisfied, early stopping not satisfied"
    offline_text = "Scenario : Offline\nMode : PerformanceOnly\nSamples per second: 19349.6\nResult is : VALID\n"
    other = parse_summary(offline_text)
    assert not isinstance(other, Unavailable)
    assert (other.scenario, other.valid, other.per_s, other.p90_ns) == ("offline", True, 19349.6, None)
    assert isinstance(parse_summary("\nNo warnings encountered during test.\n"), Unavailable)
    log = '[{"seq_id":0,"qsl_idx":1,"data":"0000803F"},{"seq_id":1,"qsl_idx":0,"data":"00000040"}]'
    answers = answers_of(log, 2)
    assert not isinstance(answers, Unavailable)
    assert answers.tolist() == [[2.0], [1.0]]
    assert isinstance(answers_of(log, 3), Unavailable)
    assert isinstance(answers_of("[", 1), Unavailable)
