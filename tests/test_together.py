"""Devices of one machine measure in turns: real agents, real sessions; and what happens when one of the circle fails."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from fake_device import MemoryStore
from session_driver import FILES as ALL_FILES
from session_driver import protocol, spec

from harness.compare import compare_devices, compare_variants
from harness.profiles import DeviceProfile
from harness.records import LATENCY, Run
from harness.runner import run_session
from harness.session.events import STARTED, Event
from harness.store import Store

pytest.importorskip("onnxruntime", reason="onnxruntime is missing: install the extra 'onnx'")
pytestmark = pytest.mark.slow  # many real processes: not in the part that ends within a minute

FILES = ("tiny.onnx", "tiny_qdq.onnx")


def twins(folder: Path) -> list[DeviceProfile]:
    return [
        DeviceProfile(name=name, transport="local", work_folder=str(folder / name), engines=("onnxruntime",))
        for name in ("one", "two")
    ]


def spans(run: Run) -> list[tuple[int, int, int]]:
    """Round, begin and end of each block; both devices have the same monotonic clock."""
    return [(b.index, b.started_ns, b.started_ns + int(b.wall_ns.sum())) for b in run.blocks if b.phase == "measure"]


def test_rounds_of_two_devices_alternate_and_are_compared_round_by_round(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db") as store:
        session = run_session(spec(twins(tmp_path), protocol(3), FILES), store)
        data = store.load(session)
    runs = [run for run in data.runs if run.kind == LATENCY]
    assert [run.status for run in runs] == ["ok"] * 6
    for round_ in range(3):
        pair = [run for run in runs if run.round == round_]
        assert {run.device for run in pair} == {"one", "two"}
        assert len({run.environment["turns"] for run in pair}) == 1
        one, two = ({index: (begin, end) for index, begin, end in spans(run)} for run in pair)
        for index in one:  # never at the same time, round by round
            assert one[index][1] < two[index][0] or two[index][1] < one[index][0]
        merged = sorted((begin, index) for run in pair for index, begin, _ in spans(run))
        assert [index for _, index in merged] == sorted(index for _, index in merged)
    table = compare_devices(data, "one", "two")
    assert {pair.method for pair in table.pairs} == {"block"}
    assert {pair.comparison.n for pair in table.pairs} == {3}
    assert table.overall is not None
    assert table.overall.n == 3
    # The pipes are gone, and nothing else is left.
    assert list((tmp_path / "one" / "sessions").iterdir()) == []


def test_one_that_dies_costs_the_others_only_their_turn(tmp_path: Path) -> None:
    killed = []

    def kill_one(work: Path) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not killed:
            for link in Path("/proc").glob("[0-9]*/cwd"):
                try:
                    if str(link.readlink()).startswith(str(work)):
                        os.kill(int(link.parts[2]), signal.SIGKILL)
                        killed.append(link)
                        return
                except OSError:
                    continue
            time.sleep(0.005)

    def on_event(event: Event) -> None:
        if event.kind == STARTED and "in turns" in event.text and not killed and not waiting:
            thread = threading.Thread(target=kill_one, args=(tmp_path / "two",))
            thread.start()
            waiting.append(thread)

    waiting: list[threading.Thread] = []
    store = MemoryStore()
    begun = time.monotonic()
    run_session(spec(twins(tmp_path), protocol(2), FILES), store, on_event)
    assert killed
    assert time.monotonic() - begun < 40, "nobody waits for a turn that cannot come"
    done = {(run.device, run.round) for run in store.kinds(kind=LATENCY) if run.status == "ok"}
    assert done == {(device, round_) for device in ("one", "two") for round_ in (0, 1)}
    assert any(run.status == "failed" and run.device == "two" for run in store.runs)


def test_devices_with_no_common_folder_are_measured_one_after_the_other(tmp_path: Path) -> None:
    from harness.devices.transport import Transport
    from harness.devices.transport.local import LocalTransport

    class Elsewhere(LocalTransport):
        """A device that is the same machine but has another disk, as a container has."""

        def run(self, argv, **settings):  # type: ignore[no-untyped-def]
            if argv[0] == "sh" and "token" in argv[2]:
                argv = ["false"]
            return super().run(argv, **settings)

    def opener(profile: DeviceProfile) -> Transport:
        return (Elsewhere if profile.name == "two" else LocalTransport)(profile.name)

    store = MemoryStore()
    run_session(spec(twins(tmp_path), protocol(1), FILES), store, opener=opener)
    runs = store.kinds(kind=LATENCY)
    assert [run.status for run in runs] == ["ok", "ok"]
    assert not any("turns" in run.environment for run in runs)
    assert {run.environment["alone"] for run in runs} == {"they have no folder in common that holds named pipes"}


def test_engines_of_one_device_alternate_and_are_compared_round_by_round(tmp_path: Path) -> None:
    device = DeviceProfile(name="one", transport="local", work_folder=str(tmp_path / "one"))
    with Store.open(tmp_path / "s.db") as store:
        session = run_session(spec([device], protocol(3), ALL_FILES), store)
        data = store.load(session)
    runs = [run for run in data.runs if run.kind == LATENCY]
    engines = {run.engine for run in runs}
    assert [run.status for run in runs] == ["ok"] * 3 * len(engines)
    for round_ in range(3):
        circle = [run for run in runs if run.round == round_]
        assert {run.engine for run in circle} == engines
        assert len({run.environment["turns"] for run in circle}) == 1
        turns = sorted(
            (min(begin for i, begin, _ in spans(run) if i == index), max(end for i, _, end in spans(run) if i == index))
            for run in circle
            for index in {index for index, _, _ in spans(run)}
        )
        assert all(before[1] < after[0] for before, after in itertools.pairwise(turns)), "one at a time"
    table = compare_variants(data, "one", "tiny.onnx")
    assert {(pair.method, pair.comparison.n) for pair in table.pairs} == {("block", 3)}
    assert not any("alone" in run.environment for run in runs)
    assert list((tmp_path / "one" / "sessions").iterdir()) == []


def test_a_crash_in_the_circle_is_blamed_on_no_other_engine(tmp_path: Path) -> None:
    device = DeviceProfile(name="one", transport="local", work_folder=str(tmp_path / "one"))
    killed: list[int] = []

    def kill_litert() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not killed:
            for maps in Path("/proc").glob("[0-9]*/maps"):
                try:
                    if f"{tmp_path}" in str((maps.parent / "cwd").readlink()) and "LiteRt" in maps.read_text():
                        os.kill(int(maps.parts[2]), signal.SIGKILL)
                        killed.append(int(maps.parts[2]))
                        return
                except OSError:
                    continue
            time.sleep(0.005)

    def on_event(event: Event) -> None:
        if event.kind == STARTED and "in turns" in event.text and not waiting:
            waiting.append(threading.Thread(target=kill_litert))
            waiting[0].start()

    waiting: list[threading.Thread] = []
    store = MemoryStore()
    run_session(spec([device], protocol(2), ("tiny_fp32.tflite", "tiny.onnx", "tiny_ov.xml")), store, on_event)
    waiting[0].join()
    assert killed
    failed = [run for run in store.runs if run.status == "failed"]
    assert {run.engine for run in failed if run.failed_variants} <= {"litert"}
    assert any(run.failure is not None and run.failure.name == "EndedWithAnother" for run in failed)
    done = {(run.engine, run.round) for run in store.kinds(kind=LATENCY, status="ok")}
    assert {("onnxruntime", 0), ("onnxruntime", 1), ("openvino", 0), ("openvino", 1)} <= done
    alone = [run.environment.get("alone") for run in store.kinds(kind=LATENCY, status="ok", round=0)]
    assert set(alone) == {"the runs in turns failed"}
