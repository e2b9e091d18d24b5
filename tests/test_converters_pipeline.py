"""The pipeline's promises about faults, files and the cache, proven on drills (no toolchain is needed)."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from converters import cache as cache_module
from converters.dataset import DatasetError, dataset_from_arrays
from converters.errors import BaseModelError, ConversionInputError
from converters.export.faults import drill_workshop, write_drill
from converters.jobs import ConversionEvent, ConversionReport
from converters.pipeline import ConversionRequest, convert
from converters.recipe_words import parse_recipes
from converters.shelf import Shelf
from converters.variant import load_variant

WORDS = "tflite:fp32, tflite:fp16, tflite:static_wi8_ai8"


def drill(tmp_path: Path, faults: dict[str, str], words: str = WORDS, **options) -> ConversionReport:
    base = write_drill(tmp_path / "drill.keras", faults)
    request = ConversionRequest(base, parse_recipes(words), tmp_path / "out", **options)
    return convert(request, workshop=drill_workshop())


def status(report: ConversionReport) -> dict[str, str]:
    return {f"{row.format}:{row.recipe}": row.status for row in report.rows}


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if path.name.startswith(".")]


def dataset(rows: int = 8):
    x = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    y = np.arange(rows) % 2
    return dataset_from_arrays({"x_test": x[:4], "y_test": y[:4], "x_train": x[4:] + 2, "y_train": y[4:]})


def test_every_recipe_becomes_a_verified_variant(tmp_path):
    events: list[ConversionEvent] = []
    base = write_drill(tmp_path / "drill.keras", {})
    request = ConversionRequest(base, parse_recipes(WORDS), tmp_path / "out", dataset=dataset())
    report = convert(request, events.append, workshop=drill_workshop())
    assert [row.status for row in report.rows] == ["ok"] * 3
    assert [row.variant for row in report.rows][:2] == ["drill.tflite.fp32", "drill.tflite.fp16"]
    for row in report.rows:
        manifest = load_variant(row.folder).manifest
        assert manifest.name == row.variant
        assert manifest.base_sha256 == report.base.sha256
        assert manifest.recipe_name == row.recipe
        assert manifest.dataset_sha256 == request.dataset.sha256
    assert report.reference == tmp_path / "out" / "drill.reference.npz"
    assert report.log is None
    assert not leftovers(tmp_path / "out")
    settled = [event for event in events if event.row is not None]
    assert [event.done for event in settled] == [1, 2, 3]


def test_a_fault_costs_exactly_its_variant(tmp_path):
    faults = {
        "fp16": ("sigkill", "Crashed", "SIGKILL: drill: about to be killed"),
        "dynamic_wi8_afp32": ("segfault", "Crashed", "SIGSEGV"),
        "static_wi8_ai16_int_io": ("exit", "Crashed", "exit code 7"),
        "static_wi8_ai8": ("garbage", "Crashed", "garbage"),
        "static_wi8_ai8_int_io": ("fail", "ToolError", "drill: the tool refuses this model"),
        "static_wi8_ai16": ("disk_full", "DiskFull", "no space left on device"),
    }
    sound = ["fp32", "static_wi8_ai8_per_tensor"]
    names = [sound[0], *faults, sound[1]]
    report = drill(tmp_path, {name: fault[0] for name, fault in faults.items()}, ",".join(f"tflite:{n}" for n in names))
    assert [row.recipe for row in report.rows] == names
    assert [row.recipe for row in report.rows if row.status == "ok"] == sound
    for row in report.rows:
        if row.recipe in sound:
            continue
        _, error_class, words = faults[row.recipe]
        assert row.error_class == error_class
        assert words in row.message
        assert "\n" not in row.message
        assert row.folder is None
        assert not (tmp_path / "out" / row.variant).exists()
    assert not leftovers(tmp_path / "out")
    assert (report.log / "tflite.log").is_file()


@pytest.mark.slow
def test_a_hang_is_ended_at_the_time_limit(tmp_path):
    started = time.monotonic()
    report = drill(tmp_path, {"fp16": "hang"}, timeout_s=2.0)
    assert time.monotonic() - started < 10
    assert status(report)["tflite:fp16"] == "failed"
    assert report.rows[1].error_class == "TimedOut"
    assert "limit of 2 s" in report.rows[1].message
    assert status(report)["tflite:static_wi8_ai8"] == "ok"


@pytest.mark.slow
def test_a_memory_hog_is_ended_at_the_memory_limit(tmp_path):
    report = drill(tmp_path, {"fp16": "eat_memory"}, memory_limit_bytes=160 * 2**20)
    row = report.rows[1]
    assert (row.error_class, row.message) == ("OutOfMemory", "out of memory: the limit is 160 MiB")
    assert row.remedy is not None
    assert status(report)["tflite:static_wi8_ai8"] == "ok"


def test_noise_on_stdout_is_no_answer(tmp_path):
    report = drill(tmp_path, {"fp16": "noise"})
    assert set(status(report).values()) == {"ok"}


def test_a_part_that_fails_costs_only_those_who_need_it(tmp_path):
    report = drill(tmp_path, {"model.onnx": "segfault"}, WORDS + ", onnx:fp32")
    assert status(report) == {
        "tflite:fp32": "ok",
        "tflite:fp16": "ok",
        "tflite:static_wi8_ai8": "ok",
        "onnx:fp32": "failed",
    }
    assert report.rows[3].error_class == "Crashed"


def test_without_the_first_part_every_row_fails_with_its_words(tmp_path):
    report = drill(tmp_path, {"saved_model": "fail"})
    assert {row.message for row in report.rows} == {"drill: the tool refuses this model"}
    assert {row.status for row in report.rows} == {"failed"}


def test_a_useless_base_is_the_users_error(tmp_path):
    with pytest.raises(ConversionInputError, match="of no use — run no drill"):
        drill(tmp_path, {"saved_model": "wrong_input"})
    assert not leftovers(tmp_path / "out")


def test_a_missing_reference_is_a_note(tmp_path):
    report = drill(tmp_path, {"reference.npz": "fail"}, dataset=dataset())
    assert report.reference is None
    assert "drill: the tool refuses this model" in report.notes[0]
    assert {row.status for row in report.rows} == {"ok"}


def test_what_cannot_exist_is_refused_before_any_work(tmp_path, monkeypatch):
    def no_process(*_args, **_kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    report = drill(tmp_path, {}, "onnx:static_wi8_ai16, tflite:static_wi8_au8")
    assert [row.status for row in report.rows] == ["refused", "refused"]
    assert "16-bit" in report.rows[0].message
    assert not (tmp_path / "out").exists()


def test_accuracy_control_without_labels_is_refused(tmp_path):
    report = drill(tmp_path, {}, "openvino:static_wi8_ai8_accuracy_control, openvino:fp32")
    assert [row.status for row in report.rows] == ["refused", "ok"]
    assert "labelled" in report.rows[0].message


def test_a_second_run_does_no_work(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = drill(tmp_path, {}, cache=cache, dataset=dataset())
    contents = {row.variant: (row.folder / "model.bin").read_bytes() for row in first.rows}

    def no_process(*_args, **_kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", no_process)
    second = drill(tmp_path, {}, cache=cache, dataset=dataset())
    assert all(row.cached and row.status == "ok" for row in second.rows)
    assert {row.variant: (row.folder / "model.bin").read_bytes() for row in second.rows} == contents
    assert second.reference.is_file()
    renamed = drill(tmp_path, {}, cache=cache, dataset=dataset(), name="other name")
    assert renamed.rows[0].variant == "other_name.tflite.fp32"
    assert load_variant(renamed.rows[0].folder).name == "other_name.tflite.fp32"


def test_a_damaged_cache_entry_is_made_again(tmp_path):
    cache = tmp_path / "cache"
    drill(tmp_path, {}, "tflite:fp32", cache=cache)
    (stored,) = (cache / "v1" / "variant").rglob("model.bin")
    stored.unlink()
    stored.write_text("something else", encoding="utf-8")
    again = drill(tmp_path, {}, "tflite:fp32", cache=cache)
    assert [(row.status, row.cached) for row in again.rows] == [("ok", False)]
    load_variant(again.rows[0].folder)
    assert drill(tmp_path, {}, "tflite:fp32", cache=cache).rows[0].cached


def test_failures_are_not_cached(tmp_path):
    cache = tmp_path / "cache"
    assert drill(tmp_path, {"fp16": "fail"}, cache=cache).rows[1].status == "failed"
    again = drill(tmp_path, {"fp16": "fail"}, cache=cache)
    assert [row.cached for row in again.rows] == [True, False, True]


def test_a_full_disk_while_publishing_is_a_failed_row(tmp_path, monkeypatch):
    original = Shelf.publish

    def publish(self, recipe, folder):
        if recipe.name == "fp16":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, recipe, folder)

    monkeypatch.setattr(Shelf, "publish", publish)
    report = drill(tmp_path, {})
    assert [row.status for row in report.rows] == ["ok", "failed", "ok"]
    assert report.rows[1].error_class == "DiskFull"
    assert "free some space" in report.rows[1].remedy


def test_a_tool_that_fails_on_a_full_disk_is_not_blamed(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    report = drill(tmp_path, {"fp16": "fail", "static_wi8_ai8": "segfault"})
    assert [(row.status, row.error_class) for row in report.rows] == [
        ("ok", None),
        ("failed", "DiskFull"),
        ("failed", "DiskFull"),
    ]


def test_data_that_cannot_be_handed_over_fail_every_row(tmp_path, monkeypatch):
    def short_write(*_args, **_kwargs):
        raise OSError("784000 requested and 563168 written")

    monkeypatch.setattr(np, "save", short_write)
    report = drill(tmp_path, {}, dataset=dataset())
    assert {(row.status, row.error_class) for row in report.rows} == {("failed", "DiskFull")}
    assert report.reference is None
    assert not leftovers(tmp_path / "out")


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path, monkeypatch):
    def put(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.Cache, "put", put)
    report = drill(tmp_path, {}, cache=tmp_path / "cache")
    assert {row.status for row in report.rows} == {"ok"}
    assert "not cached" in report.notes[0]


def test_a_folder_that_is_no_variant_is_never_replaced(tmp_path):
    mine = tmp_path / "out" / "drill.tflite.fp32"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work", encoding="utf-8")
    report = drill(tmp_path, {}, "tflite:fp32, tflite:fp16")
    assert [row.status for row in report.rows] == ["failed", "ok"]
    assert "in the way" in report.rows[0].message
    assert (mine / "thesis.txt").is_file()


def test_an_older_variant_is_replaced(tmp_path):
    drill(tmp_path, {}, "tflite:fp32")
    report = drill(tmp_path, {}, "tflite:fp32")
    assert report.rows[0].status == "ok"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["drill.tflite.fp32"]


def test_nan_in_the_data_is_the_users_error(tmp_path):
    good = dataset()
    next(iter(good.calibration.values()))[0] = np.nan
    with pytest.raises(ConversionInputError, match="calibration rows of input x hold NaN"):
        drill(tmp_path, {}, dataset=good)


def test_static_recipes_need_calibration_rows(tmp_path):
    bare = dataset_from_arrays({"x_test": np.zeros((4, 1), np.float32), "y_test": np.array([0, 1, 0, 1])})
    with pytest.raises(DatasetError, match="no calibration rows"):
        drill(tmp_path, {}, "tflite:static_wi8_ai8", dataset=bare)
    assert drill(tmp_path, {}, "tflite:fp32", dataset=bare).rows[0].status == "ok"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive at all"])
def test_a_truncated_base_is_the_users_error(tmp_path, content):
    base = tmp_path / "m.keras"
    base.write_bytes(content)
    with pytest.raises(BaseModelError, match=r"not a whole \.keras archive"):
        convert(ConversionRequest(base, parse_recipes("tflite:fp32"), tmp_path / "out"))


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, even when a shell started the tests in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_keeps_finished_variants_and_leaves_no_process(tmp_path, interruptible):
    base = write_drill(tmp_path / "drill.keras", {"static_wi8_ai8": "hang"})
    request = ConversionRequest(base, parse_recipes(WORDS), tmp_path / "out", jobs=1)

    def interrupt(event: ConversionEvent) -> None:
        if event.row is None and event.text.endswith("static_wi8_ai8"):
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        convert(request, interrupt, workshop=drill_workshop())
    assert load_variant(tmp_path / "out" / "drill.tflite.fp32").name == "drill.tflite.fp32"
    assert not leftovers(tmp_path / "out")
    assert not [child for child in psutil.Process().children(recursive=True) if "converters.worker" in child.cmdline()]


@pytest.mark.slow
def test_workers_end_when_the_pipeline_is_killed(tmp_path):
    write_drill(tmp_path / "drill.keras", {"fp32": "hang"})
    code = f"""
from pathlib import Path
from converters.export.faults import drill_workshop
from converters.pipeline import ConversionRequest, convert
from converters.recipe_words import parse_recipes
p = Path({str(tmp_path)!r})
convert(ConversionRequest(p / "drill.keras", parse_recipes("tflite:fp32"), p / "out"), print, workshop=drill_workshop())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "drill.tflite.fp32" in line:
            break
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait()
    process.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive
    assert not list((tmp_path / "out").glob("drill.*"))
    (tmp_path / "drill.keras").unlink()
    report = drill(tmp_path, {}, "tflite:fp32")
    assert report.rows[0].status == "ok"
    assert not leftovers(tmp_path / "out")
