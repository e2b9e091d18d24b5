"""The runner on devices that are told how to behave: order, failures, retries, interruption, what reaches the store."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import Crash, FakeDevice, Hang, Lost, MemoryStore, make_variant, record_of

from harness.agent.protocol import Job
from harness.devices.transport import Transport
from harness.errors import DeviceError, HostKeyError, SpecError, TransportError
from harness.plan import MeasurementProtocol
from harness.profiles import DeviceProfile
from harness.records import LATENCY, PROBE, Reference
from harness.runner import SessionSpec, run_session
from harness.session.events import ENDED, RETRY, STOPPED, UNREACHABLE, Event

PROTOCOL = MeasurementProtocol(runs=6, max_runs=8, probes=2, rounds=3, run_samples=6, target=0.5)
FORMATS = {"t1": "tflite", "t2": "tflite", "o1": "onnx", "v1": "openvino"}


class Lab:
    """Fake devices, a store, and the events of a session."""

    def __init__(self, folder: Path, *devices: FakeDevice, formats: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.devices = {device.name: device for device in devices}
        self.store = MemoryStore()
        self.events: list[Event] = []
        self.pauses: list[float] = []
        self.artifacts = {name: make_variant(folder, name, kind) for name, kind in (formats or FORMATS).items()}

    def open(self, profile: DeviceProfile) -> Transport:
        return self.devices[profile.name].open(profile)

    def spec(self, **changes: Any) -> SessionSpec:
        values: dict[str, Any] = {
            "name": "test",
            "variants": [record_of(variant) for variant in self.artifacts.values()],
            "artifacts": self.artifacts,
            "devices": [device.profile() for device in self.devices.values()],
            "protocol": PROTOCOL,
        }
        return SessionSpec(**values | changes)

    def run(self, **changes: Any) -> str:
        return run_session(
            self.spec(**changes), self.store, self.events.append, opener=self.open, pause=self.pauses.append
        )


def at(stage: str, error: Exception, *, kind: str | None = None, times: int = 1_000_000) -> Any:
    """A behaviour: raise at a stage, in jobs of a kind, so many times."""
    left = [times]

    def behave(job: Job, now: str) -> None:
        wanted = kind is None or (kind == LATENCY) == (job.latency is not None)
        if now == stage and wanted and left[0] > 0:
            left[0] -= 1
            raise error

    return behave


def test_everything_is_measured_and_stored_in_order(tmp_path: Path) -> None:
    lab = Lab(tmp_path, FakeDevice("a"), FakeDevice("b", modules={"numpy": "2", "tflite_runtime": "2.14"}))
    session_id = lab.run(seed=3)
    store = lab.store
    assert store.session is not None
    assert (store.session.id, store.session.seed, store.status) == (session_id, 3, "done")
    assert store.session.protocol["runs"] == 6
    probes = store.kinds(kind=PROBE, status="ok")
    assert sorted((run.device, run.loads[0].variant, run.round) for run in probes) == sorted(
        [("a", name, r) for name in FORMATS for r in range(2)]
        + [("b", name, r) for name in ("t1", "t2") for r in range(2)]
    )
    assert all(run.loads[0].first_inference_ns == 1000 and run.loads[0].memory["peak"] == 20 for run in probes)
    latencies = store.kinds(kind=LATENCY)
    assert len(latencies) == 4 * 6
    assert [run.round for run in latencies] == sorted(run.round for run in latencies)
    assert store.runs.index(latencies[0]) > store.runs.index(probes[-1])
    run = next(run for run in latencies if run.engine == "litert")
    assert [block.phase for block in run.blocks] == ["warmup"] * 2 + ["settle", "measure"] * 6
    assert run.environment["requested"] == {"threads": 1, "precision": "f32", "affinity": None}
    assert run.environment["after"] == {"load_average": [0, 0, 0]}
    # b lacks two engines: failed rows with a remedy that names the extra, no silence.
    missing = store.kinds(device="b", status="failed")
    assert {name for run in missing for name in run.failed_variants} == {"o1", "v1"}
    remedies = [run.failed_variants["o1"].remedy for run in missing if "o1" in run.failed_variants]
    assert "extra 'onnx'" in str(remedies)
    last = lab.events[-1]
    assert (last.kind, last.done, last.total) == (ENDED, len(latencies) + len(probes), len(latencies) + len(probes))
    assert all(event.done <= event.total or event.total == 0 for event in lab.events)
    assert any(event.remaining_s is not None for event in lab.events)


def test_one_job_at_a_time_and_every_process_ended(tmp_path: Path) -> None:
    device = FakeDevice("a")
    Lab(tmp_path, device).run()
    assert device.transport is not None
    assert all(process.killed for process in device.transport.processes)
    assert device.transport.closed
    assert [request["do"] for request in device.asked] == ["inspect", "sweep"]
    sweep = device.asked[-1]
    assert sweep["keep"] is True
    assert len(sweep["mine"]) == 5  # four artifacts and the agent


def test_uploads_happen_once(tmp_path: Path) -> None:
    device = FakeDevice("a")
    Lab(tmp_path, device).run()
    assert device.transport is not None
    pushed = [name for name in device.transport.pushed if not name.endswith(".py")]
    assert len(pushed) == len(set(pushed)) == 5
    xml = next(name for name in pushed if name.endswith(".xml"))
    assert xml.replace(".xml", ".bin") in pushed
    again = FakeDevice("a")
    again.transport = device.transport
    Lab(tmp_path, again).run()
    assert again.transport.pushed == []


def test_damaged_uploads_are_sent_again(tmp_path: Path) -> None:
    device = FakeDevice("a")
    Lab(tmp_path, device).run()
    assert device.transport is not None
    victim = next(name for name in device.transport.files if name.endswith("model.onnx"))
    device.transport.files[victim] = b"damaged"
    again = FakeDevice("a")
    again.transport = device.transport
    Lab(tmp_path, again).run()
    assert again.transport.pushed == [victim]


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (Crash(-11, b"Fatal\nSegmentation fault"), "SIGSEGV", "Segmentation fault"),
        (Crash(-9), "SIGKILL", "SIGKILL"),
        (Crash(1, b"ImportError: numpy"), "AgentEnded", "ImportError"),
        (Hang(), "Hang", "said nothing"),
    ],
)
def test_a_variant_whose_canary_dies_is_a_failed_row(tmp_path: Path, error: Exception, name: str, words: str) -> None:
    lab = Lab(tmp_path, FakeDevice("a", behave=at("load t1", error)))
    lab.run()
    failed = lab.store.kinds(status="failed")
    assert len(failed) == 1, "no second probe, no latency run for it"
    failure = failed[0].failed_variants["t1"]
    assert failure.name == name
    assert words in failure.message
    assert "during load" in failure.message
    assert failure.remedy
    assert {model.id for job in lab.devices["a"].jobs if job.latency for model in job.models} == {"t2", "o1", "v1"}
    assert lab.store.status == "done"


def test_an_engine_that_refuses_a_model_tells_why(tmp_path: Path) -> None:
    lab = Lab(tmp_path, FakeDevice("a", errors={"o1": "bad magic number"}))
    lab.run()
    (failed,) = lab.store.kinds(status="failed")
    assert failed.failed_variants["o1"].message == "bad magic number"
    assert failed.failed_variants["o1"].remedy == "convert it again"


@pytest.mark.parametrize("stage", ["load t1", "warmup t1", "visit 0 t1", "visit 2 t1"])
@pytest.mark.parametrize("error", [Crash(), Hang()])
def test_survivors_of_a_crash_are_measured_again(tmp_path: Path, stage: str, error: Exception) -> None:
    lab = Lab(tmp_path, FakeDevice("a", behave=at(stage, error, kind=LATENCY)))
    lab.run()
    runs = lab.store.kinds(kind=LATENCY, engine="litert")
    assert [run.status for run in runs] == ["failed"] + ["ok"] * 6
    assert list(runs[0].failed_variants) == ["t1"]
    assert (runs[1].round, runs[1].retries) == (0, 1)
    assert all({block.variant for block in run.blocks} == {"t2"} for run in runs[1:])
    assert any(event.kind == RETRY for event in lab.events)


def test_a_death_without_a_culprit_is_tried_once_more_then_recorded(tmp_path: Path) -> None:
    lab = Lab(
        tmp_path,
        FakeDevice("a", behave=at("start", Crash(1, b"no"), kind=LATENCY)),
        formats={"t1": "tflite", "t2": "tflite"},
    )
    lab.run()
    runs = lab.store.kinds(kind=LATENCY)
    assert [run.status for run in runs] == ["failed", "failed"]
    assert set(lab.store.runs[-1].failed_variants) == {"t1", "t2"}
    behave = at("start", Crash(1), kind=LATENCY, times=1)
    once = Lab(tmp_path, FakeDevice("a", behave=behave), formats={"t1": "tflite", "t2": "tflite"})
    once.run()
    assert not any(run.failed_variants for run in once.store.runs)


def test_an_unknown_line_is_an_error(tmp_path: Path) -> None:
    device = FakeDevice("a", errors={})
    lab = Lab(tmp_path, device, formats={"t1": "tflite"})
    played = device._play

    def noisy(job: Job, call: Any) -> Any:
        yield from played(job, call) if job.latency else ["INFO: created delegate"]

    device._play = noisy  # type: ignore[method-assign]
    lab.run()
    assert lab.store.runs[0].failed_variants["t1"].name == "ProtocolError"
    assert "INFO: created delegate" in lab.store.runs[0].failed_variants["t1"].message


def test_samples_that_cannot_be_are_no_samples(tmp_path: Path) -> None:
    lab = Lab(tmp_path, FakeDevice("a", ns={"t1": -5}), formats={"t1": "tflite"})
    lab.run()
    run = lab.store.kinds(kind=LATENCY)[0]
    assert (run.status, run.blocks) == ("failed", ())
    assert "negative" in str(run.failure)


def test_a_lost_connection_is_tried_again_and_noted(tmp_path: Path) -> None:
    device = FakeDevice("a", behave=at("load t1", Lost(), times=2))
    lab = Lab(tmp_path, device, formats={"t1": "tflite"})
    lab.run()
    run = lab.store.runs[0]
    assert (run.status, run.retries) == ("ok", 2)
    assert len(run.environment["retried"]) == 2
    assert lab.pauses == [0.5, 2.0]
    assert device.opened == 3
    assert lab.store.status == "done"


def test_a_device_lost_for_good_leaves_the_others(tmp_path: Path) -> None:
    gone = FakeDevice("gone", unreachable=TransportError("no route", transient=True))

    def behave(job: Job, stage: str) -> None:
        if job.latency is not None and stage.startswith("visit 1"):
            gone.down = 100
            raise Lost

    gone.behave = behave
    lab = Lab(tmp_path, gone, FakeDevice("here"), formats={"t1": "tflite"})
    lab.run()
    failure = lab.store.devices["gone"].failure
    assert failure is not None
    assert failure.message == "no route"
    assert failure.transient
    assert len(lab.store.kinds(device="here", kind=LATENCY, status="ok")) == 6
    (run,) = lab.store.kinds(device="gone", kind=LATENCY)
    assert (run.status, run.retries, run.failed_variants) == ("failed", 5, {})
    assert len(lab.store.kinds(device="gone", kind=PROBE, status="ok")) == 2, "what was measured before stays"
    assert any(event.kind == UNREACHABLE for event in lab.events)


def test_a_device_that_answers_with_another_key_is_lost(tmp_path: Path) -> None:
    device = FakeDevice("a", unreachable=HostKeyError("CHANGED"))

    def behave(job: Job, stage: str) -> None:
        if stage == "load t2":
            device.down = 1
            raise Lost

    device.behave = behave
    lab = Lab(tmp_path, device, formats={"t1": "tflite", "t2": "tflite"})
    lab.run()
    failure = lab.store.devices["a"].failure
    assert failure is not None
    assert (failure.name, failure.transient) == ("HostKeyError", False)
    assert len(lab.store.kinds(status="failed")) == 1, "nothing more is asked of it"


def test_a_device_that_cannot_be_reached_is_recorded(tmp_path: Path) -> None:
    gone = FakeDevice("gone", unreachable=TransportError("refused", remedy="start sshd"), down=-1)
    lab = Lab(tmp_path, gone, FakeDevice("here"), formats={"t1": "tflite"})
    lab.run()
    failure = lab.store.devices["gone"].failure
    assert failure is not None
    assert (failure.message, failure.remedy) == ("refused", "start sshd")
    assert lab.store.kinds(device="here")
    alone = Lab(tmp_path, gone, formats={"t1": "tflite"})
    with pytest.raises(TransportError, match="refused"):
        alone.run()
    assert alone.store.session is None


def test_an_old_python_is_refused_by_name(tmp_path: Path) -> None:
    lab = Lab(tmp_path, FakeDevice("a", python="3.9.2"), formats={"t1": "tflite"})
    with pytest.raises(DeviceError, match=r"3\.9\.2"):
        lab.run()


def test_ctrl_c_keeps_the_partial_run_and_cleans_up(tmp_path: Path) -> None:
    def behave(job: Job, stage: str) -> None:
        if job.latency is not None and stage.startswith("visit 2"):
            raise KeyboardInterrupt

    device = FakeDevice("a", behave=behave)
    lab = Lab(tmp_path, device, formats={"t1": "tflite", "t2": "tflite"})
    with pytest.raises(KeyboardInterrupt):
        lab.run()
    assert lab.store.status == "interrupted"
    partial = lab.store.runs[-1]
    assert (partial.kind, partial.status, partial.failed_variants) == (LATENCY, "interrupted", {})
    assert sum(block.phase == "measure" for block in partial.blocks) == 4
    assert device.transport is not None
    assert device.transport.processes[-2].killed
    assert device.asked[-1]["do"] == "sweep"
    assert device.transport.closed


def test_a_bug_does_not_pass_for_a_result(tmp_path: Path) -> None:
    lab = Lab(tmp_path, FakeDevice("a", behave=at("visit 0 t1", RuntimeError("bug"))), formats={"t1": "tflite"})
    with pytest.raises(RuntimeError, match="bug"):
        lab.run()
    assert lab.store.status == "failed"
    assert lab.store.runs[-1].status == "interrupted"


def dataset(task: str = "classification", rows: int = 4) -> dict[str, Any]:
    labels = np.arange(rows, dtype=np.int64) % 3
    return {
        "inputs": {"image/0": np.zeros((rows, 2, 2), np.float32)},
        "reference": Reference(task, rows, labels=labels),
    }


def test_outputs_are_evaluated_once_and_removed(tmp_path: Path) -> None:
    device = FakeDevice("a", outputs={"t1": np.array([[0.1, 0.9, 0.9], [3, 2, 1], [1, 2, 3], [0, 0, 0]], np.float32)})
    lab = Lab(tmp_path, device, formats={"t1": "tflite"})
    lab.run(**dataset())
    first, second = lab.store.kinds(kind=PROBE)
    (evaluation,) = first.evaluations
    assert evaluation.top is not None
    assert evaluation.top.tolist() == [[1, 2, 0], [0, 1, 2], [2, 1, 0], [0, 1, 2]]
    assert second.evaluations == ()
    assert device.transport is not None
    assert not [name for name in device.transport.files if "sessions" in name], "outputs are deleted on the device"
    (remote,) = {path for job in device.jobs for path in job.data.inputs.values()}
    assert np.load(tmp_path_of(device, remote, tmp_path)).shape == (4, 2, 2)
    assert all(job.data.rows == 4 for job in device.jobs)
    assert lab.store.reference is not None


def tmp_path_of(device: FakeDevice, remote: str, folder: Path) -> Path:
    assert device.transport is not None
    path = folder / "copy.npy"
    path.write_bytes(device.transport.files[remote])
    return path


def test_outputs_that_are_not_numbers_fail_the_variant(tmp_path: Path) -> None:
    device = FakeDevice("a", outputs={"t1": np.full((4, 3), np.nan, np.float32)})
    lab = Lab(tmp_path, device, formats={"t1": "tflite", "t2": "tflite"})
    lab.run(**dataset())
    (failed,) = lab.store.kinds(status="failed")
    assert "NaN" in failed.failed_variants["t1"].message


def test_no_task_means_no_evaluation(tmp_path: Path) -> None:
    device = FakeDevice("a")
    lab = Lab(tmp_path, device, formats={"t1": "tflite"})
    lab.run(**dataset("none"))
    assert all(job.probe.outputs_path is None for job in device.jobs if job.probe)
    assert not any(run.evaluations for run in lab.store.runs)


def test_runs_are_added_until_the_interval_is_narrow(tmp_path: Path) -> None:
    device = FakeDevice("a")
    lab = Lab(tmp_path, device, formats={"t1": "tflite"})
    # The medians differ by up to 2 of 1000 between runs: within 0.5 at once, never within 1e-6.
    lab.run()
    assert len(lab.store.kinds(kind=LATENCY)) == 6
    assert any(event.kind == STOPPED and "settled after 6 runs" in event.text for event in lab.events)
    wide = Lab(tmp_path, FakeDevice("a"), formats={"t1": "tflite"})
    wide.run(protocol=dataclasses.replace(PROTOCOL, target=1e-6))
    assert len(wide.store.kinds(kind=LATENCY)) == 8
    spent = Lab(tmp_path, FakeDevice("a"), formats={"t1": "tflite"})
    spent.run(protocol=dataclasses.replace(PROTOCOL, budget_s=1e-9))
    assert len(spent.store.kinds(kind=LATENCY)) == 1


def test_an_engine_the_profile_leaves_out_is_said_so(tmp_path: Path) -> None:
    device = FakeDevice("a")
    lab = Lab(tmp_path, device, formats={"t1": "tflite", "o1": "onnx"})
    lab.run(devices=[device.profile(engines=("onnxruntime",))])
    (failed,) = lab.store.kinds(status="failed")
    assert failed.failed_variants["t1"].name == "EngineNotAllowed"


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": []},
        {"artifacts": {}},
        {"variants": []},
        {"inputs": {"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}},
        {"inputs": {"a": np.zeros((2, 1))}, "reference": Reference("classification", 3)},
    ],
)
def test_a_wrong_spec_is_refused_before_any_work(tmp_path: Path, changes: dict[str, Any]) -> None:
    device = FakeDevice("a")
    lab = Lab(tmp_path, device)
    with pytest.raises(SpecError):
        lab.run(**changes)
    assert device.opened == 0
    assert lab.store.session is None


def test_the_plan_is_the_seeds(tmp_path: Path) -> None:
    def orders(seed: int) -> list[str]:
        device = FakeDevice("a")
        Lab(tmp_path, device).run(seed=seed)
        return [json.dumps([m.id for m in job.models]) + str(job.latency and job.latency.order) for job in device.jobs]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
