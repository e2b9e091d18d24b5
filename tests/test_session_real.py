"""Real sessions: the real agent and engines on this host and over a real sshd; interrupted, killed, disconnected."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_device import MemoryStore
from session_driver import FILES, ROWS, protocol, spec
from sshd import Sshd

from harness.profiles import DeviceProfile
from harness.records import LATENCY, PROBE
from harness.runner import run_session
from harness.session.events import FINISHED, Event
from harness.store import Store

DRIVER = Path(__file__).resolve().parent / "session_driver.py"


@pytest.fixture(autouse=True)
def _engines() -> None:
    for module, extra in (("ai_edge_litert", "litert"), ("onnxruntime", "onnx"), ("openvino", "openvino")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: install the extra '{extra}'")


def local(folder: Path) -> DeviceProfile:
    return DeviceProfile(name="here", transport="local", work_folder=str(folder / "work here"))


def agents_in(folder: Path) -> list[int]:
    """Processes of this machine whose current folder is below `folder`: that is where agents run."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(int(link.parts[2]))
    return found


def wait_until_empty(folder: Path) -> list[int]:
    deadline = time.monotonic() + 10
    while agents_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return agents_in(folder)


@pytest.mark.slow
def test_a_local_session_with_the_real_agent(tmp_path: Path) -> None:
    store = MemoryStore()
    files = ("tiny_fp32.tflite", "tiny_int8.tflite")
    run_session(spec([local(tmp_path)], protocol(), files), store)
    assert store.status == "done"
    assert [run.status for run in store.runs] == ["ok"] * 3, [run.failure or run.failed_variants for run in store.runs]
    evaluations = [evaluation for run in store.kinds(kind=PROBE) for evaluation in run.evaluations]
    assert {evaluation.rows for evaluation in evaluations} == {ROWS}
    (latency,) = store.kinds(kind=LATENCY)
    measured = {
        name: sum(len(b.wall_ns) for b in latency.blocks if b.variant == name and b.phase == "measure")
        for name in files
    }
    assert min(measured.values()) >= 10
    assert all((block.wall_ns > 0).all() for block in latency.blocks)
    assert latency.environment["threads"] == 1
    assert store.devices["here"].facts["engines"]["litert"]
    work = tmp_path / "work here"
    assert list((work / "sessions").iterdir()) == []
    assert len(list((work / "blobs").iterdir())) == 4  # the agent, two models, the data
    assert wait_until_empty(tmp_path) == []


@pytest.mark.ssh
def test_local_and_ssh_give_the_same_outputs_bit_for_bit(sshd: Sshd, tmp_path: Path) -> None:
    store = MemoryStore()
    run_session(spec([local(tmp_path), sshd.profile(python=sys.executable)], protocol()), store)
    assert [run.failure or run.failed_variants for run in store.runs if run.status != "ok"] == []
    found = {
        (run.device, evaluation.variant): evaluation.outputs_sha256
        for run in store.kinds(kind=PROBE)
        for evaluation in run.evaluations
    }
    assert len(found) == 2 * len(FILES)
    assert {name: found["here", name] for name in FILES} == {name: found["loopback", name] for name in FILES}
    assert len(store.kinds(kind=LATENCY, device="loopback")) == 3
    here, there = store.devices["here"], store.devices["loopback"]
    assert here.host_id == there.host_id
    assert here.facts["engines"] == there.facts["engines"]


@pytest.mark.ssh
def test_what_is_on_the_device_is_not_sent_again(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.devices.transport.ssh import SshTransport

    pushed: list[str] = []
    push = SshTransport.push
    monkeypatch.setattr(
        SshTransport, "push", lambda self, path, remote: (pushed.append(remote), push(self, path, remote))[1]
    )
    profile = sshd.profile(python=sys.executable)
    run_session(spec([profile], protocol(), ("tiny_ov.xml",)), MemoryStore())
    assert sum(name.endswith(("tiny_ov.xml", "tiny_ov.bin", "input0.npy")) for name in pushed) == 3
    pushed.clear()
    run_session(spec([profile], protocol(), ("tiny_ov.xml",)), MemoryStore())
    assert pushed == []
    run_session(spec([profile.model_copy(update={"keep_uploads": False})], protocol(), ("tiny_ov.xml",)), MemoryStore())
    assert list((sshd.folder / "work" / "blobs").iterdir()) == []


@pytest.mark.ssh
def test_a_dropped_connection_is_made_again(sshd: Sshd) -> None:
    store = MemoryStore()
    dropped = []

    def on_event(event: Event) -> None:
        if event.kind == FINISHED and not dropped:
            dropped.append(event)
            sshd.drop_connections()

    run_session(spec([sshd.profile(python=sys.executable)], protocol(2), ("tiny_fp32.tflite",)), store, on_event)
    assert dropped
    assert [run.status for run in store.runs] == ["ok"] * 3
    assert sum(run.retries for run in store.runs) == 1
    assert store.status == "done"


def drive(folder: Path, profile: DeviceProfile, runs: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(DRIVER.parent.parent)}
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(folder / "s.db"), json.dumps(profile.model_dump()), str(runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_runs(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("finished") and int(line.split()[1]) >= count:
            return
    errors = process.stderr.read() if process.stderr is not None else ""
    raise AssertionError(f"ended early: {''.join(seen)} {errors}")


@pytest.mark.ssh
@pytest.mark.parametrize("how", ["local", "ssh"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ending_the_harness_loses_no_finished_run(sshd: Sshd, tmp_path: Path, how: str, number: signal.Signals) -> None:
    profile = local(tmp_path) if how == "local" else sshd.profile(python=sys.executable)
    assert profile.work_folder is not None
    work = Path(profile.work_folder)
    process = drive(tmp_path, profile, 1000)
    wait_for_runs(process, 4)
    time.sleep(0.2)  # into the next run
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert wait_until_empty(work) == [], "no agent outlives the harness"
    with Store.open(tmp_path / "s.db") as store:
        (summary,) = store.sessions()
        data = store.load(summary.id)
    assert sum(run.status == "ok" for run in data.runs) >= 4
    if number == signal.SIGINT:
        assert data.session.status == "interrupted"
        assert {run.status for run in data.runs} <= {"ok", "interrupted"}
        assert list((work / "sessions").iterdir()) == []
    else:
        assert data.session.status == "running"
