"""Every fault of the matrix (faults.py) on every way to a device, with real processes; and that the page says the same."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_android import UNTOUCHED
from fault_lab import Bench, bench, eventually
from faults import MATRIX, OUTCOMES, PAGE, TRANSPORTS, cases, cell, page
from session_driver import artifacts

from harness.devices.device import Device
from harness.errors import DeviceError
from harness.plan import MeasurementProtocol
from harness.records import LATENCY, PROBE, SessionData, VariantRecord
from harness.runner import SessionSpec, run_session
from harness.session.events import STARTED, Event
from harness.store import Store
from harness.table import build_rows

DRIVER = Path(__file__).resolve().parent / "session_driver.py"
FILES = ("tiny_fp32.tflite", "tiny_int8.tflite")
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
# Large enough that a fault can strike in the middle of it.
ROWS = 4000
AFTER_BYTES = 400_000


def test_the_page_is_what_the_matrix_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/faults.py"
    assert {outcome for _, _, outcome in cases()} == set(OUTCOMES)
    assert all(set(outcomes) == set(TRANSPORTS) for _, outcomes in MATRIX.values())


def on(*faults: str) -> Any:
    """Run a test for these faults on every transport where they can happen, each with its outcome."""
    marks = {"local": pytest.mark.slow, "ssh": pytest.mark.ssh, "adb": pytest.mark.adb}

    def one(fault: str, transport: str, outcome: str) -> Any:
        name = f"{fault.replace(' ', '-')}-{transport}"
        # Each has a device of its own, so they need not wait for each other.
        return pytest.param(fault, transport, outcome, id=name, marks=(marks[transport], pytest.mark.xdist_group(name)))

    chosen = [one(*found) for found in cases() if found[0] in faults]
    assert {case.values[0] for case in chosen} == set(faults)
    return pytest.mark.parametrize(("fault", "transport", "outcome"), chosen)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Waits of a minute become waits of a second; and a journal of our own."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("ai_edge_litert is missing: install the extra 'litert'")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    patches: dict[str, float] = {
        "harness.devices.transport.ssh_connect.KEEPALIVE_INTERVAL_S": 0.7,
        "harness.devices.transport.adb_sync.STALL_TIMEOUT_S": 2.0,
        "harness.devices.transport.remote_shell.CHECK_INTERVAL_S": 2.0,
        "harness.devices.transport.adb.CHECK_TIMEOUT_S": 2.0,
        "harness.devices.transport.adb_process.KILL_TIMEOUT_S": 1.0,
        "harness.devices.device.ANSWER_TIMEOUT_S": 5.0,
    }
    for name, value in patches.items():
        monkeypatch.setattr(name, value)


@pytest.fixture
def device(transport: str, tmp_path: Path) -> Iterator[Bench]:
    with bench(transport, tmp_path) as made:
        yield made


def spec(device: Bench, *, run_s: float = 0.02, hang_s: float = 60.0, **changes: object) -> SessionSpec:
    made = artifacts(FILES)
    protocol = MeasurementProtocol(
        runs=1, max_runs=1, probes=1, rounds=2, run_samples=10, run_s=run_s, warmup_s=0.01, hang_s=hang_s
    )
    return SessionSpec(
        name="faults",
        variants=[VariantRecord(name, variant.manifest.format) for name, variant in made.items()],
        artifacts=made,
        devices=[device.profile(**changes)],
        protocol=protocol,
        inputs={"image": np.random.default_rng(0).normal(size=(ROWS, 8, 8, 1)).astype(np.float32)},
    )


def measured(device: Bench, work: SessionSpec, strike: Callable[[], None] | None = None) -> SessionData:
    """Run a session; `strike` happens in a thread of its own as soon as the first latency run begins."""
    threads: list[threading.Thread] = []

    def on_event(event: Event) -> None:
        if event.kind == STARTED and event.text.endswith("run 1") and strike is not None and not threads:
            threads.append(threading.Thread(target=strike))
            threads[0].start()

    with Store.open(device.folder / "s.db") as store:
        session_id = run_session(work, store, on_event, pause=lambda s: time.sleep(min(s, 1.2)))
        data = store.load(session_id)
    for thread in threads:
        thread.join()
    assert strike is None or threads, "the fault never struck"
    return data


def retried(data: SessionData) -> list[str]:
    return [item["error"] for run in data.runs for item in run.environment.get("retried", ())]


def at_work(device: Bench, then: Callable[[], None]) -> Callable[[], None]:
    """Do it when the agent has been at work for a while."""

    def strike() -> None:
        assert eventually(device.measuring, 60)
        then()

    return strike


def all_ok(data: SessionData) -> None:
    assert data.session.status == "done"
    assert [row.status for row in build_rows(data)] == ["ok"] * len(FILES), [row.error for row in build_rows(data)]
    assert len([run for run in data.runs if run.kind == LATENCY and run.status == "ok"]) == 1


@on("drop mid-push", "stall mid-push", "truncated packet")
def test_a_push_that_breaks(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "tried again"
    Device.open(device.profile()).close()  # the folders are there; only files travel now
    break_it: dict[str, Callable[[int], None]] = {
        "drop mid-push": device.drop,
        "stall mid-push": device.stall,
        "truncated packet": device.damage,
    }
    break_it[fault](AFTER_BYTES)
    data = measured(device, spec(device))
    all_ok(data)
    assert len(retried(data)) == 1, retried(data)
    device.assert_clean()


@on("drop mid-run", "device reboots mid-run")
def test_a_run_whose_connection_breaks(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "tried again"
    strike = device.cut if fault == "drop mid-run" else device.reboot
    data = measured(device, spec(device, run_s=1.3), at_work(device, strike))
    all_ok(data)
    assert len(retried(data)) >= 1
    assert all(run.retries == 0 for run in data.runs if run.kind == PROBE)
    device.assert_clean()


@on("slow link")
def test_a_slow_link(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "measured"
    device.slow()
    data = measured(device, spec(device))
    all_ok(data)
    assert retried(data) == []
    device.assert_clean()


@on("unauthorized", "offline")
def test_a_device_that_lets_nobody_in(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "refused"
    Device.open(device.profile()).close()
    (device.forbid if fault == "unauthorized" else device.vanish)()
    started = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        measured(device, spec(device))
    assert time.monotonic() - started < 5
    assert caught.value.remedy
    with Store.open(device.folder / "s.db") as store:
        assert store.sessions() == []
    device.assert_clean()
    if fault == "offline":
        device.come_back()


@on("unauthorized mid-run", "offline mid-run")
def test_a_device_that_is_lost(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "device lost"
    strike = device.forbid if fault.startswith("unauthorized") else device.vanish
    data = measured(device, spec(device, run_s=3.0), at_work(device, strike))
    assert data.session.status == "done"
    (record,) = data.devices
    assert record.failure is not None
    assert record.failure.message
    probes = [run for run in data.runs if run.kind == PROBE]
    assert [run.status for run in probes] == ["ok", "ok"], "what was measured before stays"
    assert all(row.status == "ok" and row.load_ns for row in build_rows(data))
    assert not [run for run in data.runs if run.kind == LATENCY and run.status == "ok"]
    assert eventually(lambda: device.processes() == [])
    assert eventually(lambda: device.sysfs.cpufreq() == UNTOUCHED), "the guardian puts settings back"
    if fault == "offline mid-run":
        device.come_back()
        Device.open(device.profile()).close()
        device.assert_clean()


@on("no space on the device")
def test_a_full_device(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "failed rows"
    device.fill("500k")
    data = measured(device, spec(device))
    assert data.session.status == "done"
    for row in build_rows(data):
        assert row.status == "failed"
        assert "space" in (row.error or "").lower()
    device.assert_clean()


@on("agent killed for want of memory")
def test_an_agent_that_the_kernel_kills(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "failed row"
    data = measured(device, spec(device, run_s=1.3), lambda: device.agent(signal.SIGKILL))
    one_failed(data, "SIGKILL", "memory")
    device.assert_clean()


@on("agent hangs")
def test_an_agent_that_hangs(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "failed row"
    work = spec(device, run_s=1.3, hang_s=3.0)
    block_s = {"block_max_s": 2.0, "warmup_max_s": 2.0}
    work = SessionSpec(
        **{
            **{name: getattr(work, name) for name in work.__slots__},
            "protocol": MeasurementProtocol(**{**vars_of(work.protocol), **block_s}),
        }
    )
    data = measured(device, work, lambda: device.agent(signal.SIGSTOP))
    one_failed(data, "said nothing for", "hang_s")
    device.assert_clean()


def vars_of(protocol: MeasurementProtocol) -> dict[str, Any]:
    return {name: getattr(protocol, name) for name in protocol.__slots__}


def one_failed(data: SessionData, words: str, remedy: str) -> None:
    assert data.session.status == "done"
    rows = build_rows(data)
    (failed,) = [row for row in rows if row.status == "failed"]
    assert words in (failed.error or "")
    assert remedy in (failed.remedy or "")
    (other,) = [row for row in rows if row.status == "ok"]
    assert other.latency_median_ns


@on("clock of the device jumps")
def test_a_clock_that_jumps(fault: str, transport: str, outcome: str, device: Bench) -> None:
    assert outcome == "measured"
    if not FAKETIME.exists():
        pytest.skip("no wall clock to move: install Debian's package faketime")
    moved = device.folder / "clock"
    moved.write_text("+0\n", encoding="ascii")
    environment = device.profile().environment | {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(moved),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    data = measured(
        device,
        spec(device, run_s=1.3, environment=environment),
        at_work(device, lambda: moved.write_text("-400d\n", encoding="ascii") and None),
    )
    all_ok(data)
    assert retried(data) == []
    (run,) = [run for run in data.runs if run.kind == LATENCY]
    assert all((block.wall_ns > 0).all() and block.wall_ns.max() < 1e9 for block in run.blocks)
    starts = [block.started_ns for block in run.blocks]
    assert starts == sorted(starts)
    device.assert_clean()


def drive(device: Bench, *more: str) -> subprocess.Popen[str]:
    profile = json.dumps(device.profile().model_dump(mode="json"))
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(device.folder / "s.db"), profile, "2", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(DRIVER.parent.parent)},
    )


def wait_for_runs(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("finished") and int(line.split()[1]) >= count:
            return
    raise AssertionError(f"ended early: {process.stderr.read() if process.stderr else ''}")


def stored(device: Bench) -> SessionData:
    with Store.open(device.folder / "s.db") as store:
        return store.load(store.resolve("latest"))


@on("Ctrl-C on the host", "host killed")
def test_a_host_that_ends(fault: str, transport: str, outcome: str, device: Bench) -> None:
    number = signal.SIGINT if outcome == "interrupted" else signal.SIGKILL
    host = drive(device)
    wait_for_runs(host, 3)
    assert device.sysfs.get("scaling_governor") == ["performance", "performance"]
    assert eventually(lambda: device.processes("agent"))
    host.send_signal(number)
    host.communicate(timeout=60)
    assert host.returncode != 0
    assert eventually(lambda: device.processes() == []), "no process outlives the host"
    assert eventually(lambda: device.sysfs.cpufreq() == UNTOUCHED), "no knob stays turned"
    broken = stored(device)
    finished = [run.id for run in broken.runs if run.status == "ok"]
    assert len(finished) >= 3
    assert broken.session.status == ("interrupted" if number == signal.SIGINT else "running")
    if number == signal.SIGINT:
        device.assert_clean()
    again = drive(device, "--resume")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    data = stored(device)
    assert (data.session.id, data.session.status) == (broken.session.id, "done")
    assert [run.id for run in data.runs if run.status == "ok"][: len(finished)] == finished
    made = [(run.kind, run.engine, run.round) for run in data.runs if run.status == "ok" and run.kind == LATENCY]
    assert len(made) == len(set(made)) == 4
    assert cell(fault, transport) == outcome
    device.assert_clean()
