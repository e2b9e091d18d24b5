"""The scenarios on real engines on this machine: batches and streams in each, minutes in little, and MLPerf's loadgen."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_device import MemoryStore
from session_driver import ROWS, protocol, spec

from harness.profiles import DeviceProfile
from harness.records import OFFLINE, SUSTAINED, SessionData
from harness.runner import run_session
from harness.store import Store
from harness.table import build_rows

pytestmark = pytest.mark.slow
FILES = ("tiny_fp32.tflite", "tiny.onnx", "tiny_dynamic.onnx", "tiny_ov.xml")


@pytest.fixture(autouse=True)
def _engines() -> None:
    for module, extra in (("ai_edge_litert", "litert"), ("onnxruntime", "onnx"), ("openvino", "openvino")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: install the extra '{extra}'")


def measure(folder: Path, files: tuple[str, ...], logs: Path | None = None, **changes: Any) -> SessionData:
    store = MemoryStore()
    device = DeviceProfile(name="here", transport="local", work_folder=str(folder / "work"))
    wanted = dataclasses.replace(protocol(), **changes)
    made = dataclasses.replace(spec([device], wanted, files), logs=logs)
    run_session(made, store)
    assert store.session is not None
    devices, runs = tuple(store.devices.values()), tuple(store.runs)
    return SessionData(store.session, tuple(made.variants), devices, runs, store.reference)


def test_every_engine_works_in_batches_and_streams(tmp_path: Path) -> None:
    data = measure(tmp_path, FILES, scenario="offline", batch=8, streams=2)
    assert [run.failure or run.failed_variants for run in data.runs if run.status != "ok"] == []
    rows = {row.variant: row for row in build_rows(data)}
    assert {row.status for row in rows.values()} == {"ok"}
    assert all((row.throughput_per_s or 0) > 100 for row in rows.values())
    assert {name: row.batch for name, row in rows.items()} == dict.fromkeys(FILES, 8) | {"tiny_fp32.tflite": 1}
    assert {row.streams for row in rows.values()} == {2}
    assert any("fixed batch" in text for text in rows["tiny_fp32.tflite"].grade_reasons)
    # Dynamic quantization finds its ranges over the whole batch: near, but not the same.
    assert any("in a batch its outputs differ" in text for text in rows["tiny_dynamic.onnx"].grade_reasons)
    assert not any("in a batch its outputs differ" in text for text in rows["tiny.onnx"].grade_reasons)
    assert not any("threads, not" in text for row in rows.values() for text in row.grade_reasons)
    facts = {load.variant: load.facts for run in data.runs if run.kind == OFFLINE for load in run.loads}
    assert facts["tiny.onnx"]["batch_deviation"] == pytest.approx(0.0, abs=1e-5)
    assert (facts["tiny_ov.xml"]["threads"], facts["tiny_ov.xml"]["threads_of_all_streams"]) == (1, 2)


@pytest.mark.quiet
def test_some_seconds_without_a_pause(tmp_path: Path) -> None:
    data = measure(tmp_path, ("tiny.onnx",), scenario="sustained", duration_s=2.0)
    (run,) = (run for run in data.runs if run.kind == SUSTAINED)
    assert run.status == "ok", run.failure
    seconds = [item["values"] for item in run.sensors if item["name"] == "second"]
    assert 2 <= len(seconds) <= 3
    for values, block in zip(seconds, run.blocks, strict=True):
        assert values["ended_ns"] - values["started_ns"] >= 1e9
        assert 0 < block.wall_ns.size <= 1000
        # Nothing but the loop itself stands between two inferences: of a second, most is inference.
        assert values["wall_ns"] > 0.5e9
    (row,) = build_rows(data)
    assert row.samples == sum(values["count"] for values in seconds)
    assert row.latency_burst_ns is None


@pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="install the extra 'loadgen'")
@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_loadgen_drives_a_real_engine(tmp_path: Path, scenario: str) -> None:
    streams = {"batch": 4, "streams": 2} if scenario == "offline" else {}
    quick: dict[str, Any] = {"driver": "loadgen", "loadgen_s": 0.3, "loadgen_queries": 80}
    data = measure(tmp_path, ("tiny.onnx",), tmp_path / "logs", scenario=scenario, **quick, **streams)
    assert [run.failure for run in data.runs if run.status != "ok"] == []
    (row,) = build_rows(data)
    assert (row.mlperf_scenario, row.mlperf_valid) == (scenario, True)
    # Ours and loadgen's answers to the same rows.
    assert row.mlperf_accuracy == row.accuracy
    assert (row.mlperf_throughput_per_s or 0) > 0
    if scenario == "single-stream":
        assert row.latency_min_ns is not None
        assert (row.mlperf_latency_p90_ns or 0) > row.latency_min_ns
    folder = tmp_path / "logs" / "here-tiny.onnx"
    summary = (folder / "performance" / "mlperf_log_summary.txt").read_text()
    assert "Result is : VALID" in summary
    assert "min_query_count : 80" in summary or scenario == "offline"
    log = json.loads((folder / "accuracy" / "mlperf_log_accuracy.json").read_text())
    assert sorted(entry["qsl_idx"] for entry in log) == list(range(ROWS))


CUT_OFF = """
import dataclasses, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from session_driver import protocol, spec
from harness.profiles import DeviceProfile
from harness.runner import run_session
from harness.store import Store
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[2])
wanted = dataclasses.replace(protocol(), scenario="sustained", duration_s=300.0)
device = DeviceProfile(name="here", transport="local", work_folder=str(folder / "work"))
with Store.open(folder / "s.sqlite") as store:
    run_session(spec([device], wanted, ("tiny.onnx",)), store, lambda event: print(event.kind, event.text, flush=True))
"""


def test_ctrl_c_keeps_the_seconds_that_were_measured(tmp_path: Path) -> None:
    tests = str(Path(__file__).resolve().parent)
    process = subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, tests, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    started = 0
    for line in process.stdout:
        started += line.startswith("started")
        if started == 2:  # the probe, then the sustained run
            break
    assert started == 2
    time.sleep(3.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    with Store.open(tmp_path / "s.sqlite") as store:
        data = store.load(store.resolve("latest"))
    assert data.session.status == "interrupted"
    (run,) = (run for run in data.runs if run.kind == SUSTAINED)
    assert run.status == "interrupted"
    assert len([item for item in run.sensors if item["name"] == "second"]) >= 1
    (row,) = build_rows(data)
    assert row.samples > 0
    assert any("ended early" in text for text in row.grade_reasons)
