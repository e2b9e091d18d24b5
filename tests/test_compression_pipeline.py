"""The pipeline's promises for recipes with compression steps, proven on drills (no toolchain is needed)."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from converters.dataset import dataset_from_arrays
from converters.errors import ConversionInputError
from converters.export.faults import drill_workshop, write_drill
from converters.jobs import ConversionEvent, ConversionReport, TrainingOptions
from converters.pipeline import ConversionRequest, convert
from converters.recipe_words import parse_recipes
from converters.variant import ManifestError, load_variant

# Half a minute of processes, all in all: not for the unit part.
pytestmark = pytest.mark.compression

PRUNED = "tflite:prune(0.5)>static_wi8_ai8"
SHARED = "tflite:prune(0.5)>cluster(16)>fp16"


def dataset(*, training: bool = True):
    x = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    arrays = {"x_test": x[:4], "y_test": np.arange(4) % 2, "x_train": x[4:], "y_train": np.arange(36) % 2}
    return dataset_from_arrays(arrays, calibration_size=8, training=training)


def drill(
    tmp_path: Path, words: str, faults: dict[str, str] | None = None, events: list | None = None, **options
) -> ConversionReport:
    base = write_drill(tmp_path / "drill.keras", faults or {})
    options = {"dataset": dataset(), "cache": tmp_path / "cache"} | options
    request = ConversionRequest(base, parse_recipes(words), tmp_path / "out", **options)
    return convert(request, events.append if events is not None else lambda _event: None, workshop=drill_workshop())


def begun(row) -> list[int]:
    return [step["figures"]["begun"] for step in load_variant(row.folder).manifest.lineage]


def test_a_chain_is_exported_with_its_lineage_and_its_files(tmp_path):
    events: list[ConversionEvent] = []
    report = drill(tmp_path, f"tflite:fp32, {PRUNED}, {SHARED}", events=events)
    assert [row.status for row in report.rows] == ["ok"] * 3, report.rows
    plain, pruned, shared = (load_variant(row.folder) for row in report.rows)
    assert pruned.name == "drill.tflite.prune_0.5+static_wi8_ai8"
    assert shared.manifest.recipe_name == "prune_0.5+cluster_16+fp16"
    assert [step["step"] for step in shared.manifest.lineage] == ["prune", "cluster"]
    assert shared.manifest.lineage[0]["parameters"]["sparsity"] == 0.5
    assert plain.manifest.lineage == ()
    for variant in (plain, pruned, shared):
        assert variant.manifest.base_sha256 == report.base.sha256
        assert variant.manifest.base == "drill"
        assert [path.name for path in variant.paths()] == ["model.bin"]
    assert set(shared.manifest.extras) == {"prune.txt", "cluster.txt"}
    assert (shared.folder / "cluster.txt").is_file()
    assert any("prune(0.5): begun 1 times" in event.text for event in events)
    # The pruning is shared: both variants have the very file that it left.
    assert pruned.manifest.extras["prune.txt"] == shared.manifest.extras["prune.txt"]
    (shared.folder / "cluster.txt").unlink()
    with pytest.raises(ManifestError, match=r"cluster\.txt"):
        load_variant(shared.folder)


def test_all_models_go_through_the_same_processes(tmp_path):
    report = drill(tmp_path, f"tflite:fp32, {PRUNED}, {SHARED}")
    processes = {(row.folder / "model.bin").read_text(encoding="utf-8").split()[-1] for row in report.rows}
    assert len(processes) == 1
    steps = {path.read_text(encoding="utf-8").split()[-1] for path in (tmp_path / "out").glob("*/*.txt")}
    assert len(steps) == 1


def test_the_cache_serves_variants_steps_and_beginnings_of_chains(tmp_path):
    drill(tmp_path, PRUNED)
    again = drill(tmp_path, PRUNED)
    assert again.rows[0].cached
    events: list[ConversionEvent] = []
    longer = drill(tmp_path, f"{SHARED}, tflite:prune(0.6)>fp16", events=events)
    texts = [event.text for event in events]
    assert [row.cached for row in longer.rows] == [False, False]
    assert not any("prune(0.5)" in text and "begun" in text for text in texts)
    assert any("cluster(16): begun" in text for text in texts)
    assert any("prune(0.6): begun" in text for text in texts)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"dataset": None}, {"training": TrainingOptions(None, "mixed_float16")}]
)
def test_what_decides_a_step_is_in_its_address(tmp_path, other):
    words = "tflite:prune(0.5, epochs=0)>fp16"
    drill(tmp_path, words)
    events: list[ConversionEvent] = []
    report = drill(tmp_path, words, events=events, **other)
    assert report.rows[0].status == "ok"
    assert any("begun" in event.text for event in events)


def test_a_failing_step_costs_the_rows_behind_it_and_is_tried_once(tmp_path):
    events: list[ConversionEvent] = []
    words = f"tflite:fp32, {PRUNED}, {SHARED}, tflite:cluster(16)>fp16"
    report = drill(tmp_path, words, {"prune(0.5)": "fail"}, events)
    assert [row.status for row in report.rows] == ["ok", "failed", "failed", "ok"]
    for row in report.rows[1:3]:
        assert row.message == "prune(0.5): drill: the tool refuses this model"
        assert row.remedy == "run no drill"
    assert sum("prune(0.5): begun" in event.text for event in events) == 1
    assert (report.log / "compression.log").is_file()


def test_a_killed_step_finds_its_folder_again(tmp_path):
    first = drill(tmp_path, PRUNED, {"prune(0.5)": "once"})
    assert (first.rows[0].status, first.rows[0].error_class) == ("failed", "Crashed")
    second = drill(tmp_path, PRUNED, {"prune(0.5)": "once"})
    assert second.rows[0].status == "ok", second.rows
    assert begun(second.rows[0]) == [2]
    unfinished = [path for path in (tmp_path / "cache").glob("*/unfinished/*") if path.is_dir()]
    assert unfinished == []


def test_a_step_that_failed_by_itself_begins_anew(tmp_path):
    drill(tmp_path, PRUNED, {"prune(0.5)": "fail"})
    assert [path for path in (tmp_path / "cache").glob("*/unfinished/*") if path.is_dir()] == []


def test_without_a_cache_chains_are_made_all_the_same(tmp_path):
    report = drill(tmp_path, f"{PRUNED}, {SHARED}", cache=None)
    assert [row.status for row in report.rows] == ["ok", "ok"]
    assert not (tmp_path / "cache").exists()


def test_impossible_chains_are_refused_before_any_work(tmp_path):
    words = "tflite:prune(0.5)>fp32, tflite:qat>fp32, tflite:prune(0.5, epochs=0)>fp32, tflite:entropy>prune(0.5)>fp32"
    report = drill(tmp_path, words, dataset=dataset(training=False))
    assert [row.status for row in report.rows] == ["refused", "refused", "ok", "refused"]
    reasons = [row.message or "" for row in report.rows]
    assert "prune trains nothing with epochs=0" in reasons[0]
    assert "a static precision" in reasons[1]
    assert "last step" in reasons[3]


def test_a_base_of_no_use_is_the_users_fault(tmp_path):
    with pytest.raises(ConversionInputError, match="of no use"):
        drill(tmp_path, PRUNED, {"prune(0.5)": "wrong_input"})


def test_a_missing_training_function_is_said_at_once(tmp_path):
    with pytest.raises(ConversionInputError, match=r"mine\.py"):
        drill(tmp_path, PRUNED, training=TrainingOptions(str(tmp_path / "mine.py:fit")))


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, even when a shell started the tests in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupting_a_step_keeps_what_is_finished_and_leaves_no_process(tmp_path, interruptible):
    base = write_drill(tmp_path / "drill.keras", {"prune(0.5)": "hang"})
    recipes = parse_recipes(f"tflite:fp32, {PRUNED}")
    request = ConversionRequest(base, recipes, tmp_path / "out", dataset=dataset(), cache=tmp_path / "cache")
    started, finished = threading.Event(), threading.Event()

    def interrupt(event: ConversionEvent) -> None:
        started.set() if "begun" in event.text else None
        finished.set() if event.row is not None else None
        if started.is_set() and finished.is_set():
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        convert(request, interrupt, workshop=drill_workshop())
    assert load_variant(tmp_path / "out" / "drill.tflite.fp32").name == "drill.tflite.fp32"
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert not [child for child in psutil.Process().children(recursive=True) if "converters.worker" in child.cmdline()]
    # What the step had done by then is there for the next time.
    assert [path for path in (tmp_path / "cache").glob("*/unfinished/*") if path.is_dir()]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core, and so one worker for compression")
def test_chains_that_have_nothing_to_do_with_each_other_are_made_side_by_side(tmp_path, interruptible):
    faults = {"prune(0.5)": "hang", "prune(0.6)": "hang"}
    base = write_drill(tmp_path / "drill.keras", faults)
    recipes = parse_recipes(f"{PRUNED}, tflite:prune(0.6)>fp16")
    request = ConversionRequest(base, recipes, tmp_path / "out", dataset=dataset(), cache=tmp_path / "cache", jobs=2)
    begun = set()

    def interrupt(event: ConversionEvent) -> None:
        begun.update(name for name in faults if f"{name}: begun" in event.text)
        if len(begun) == len(faults):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        convert(request, interrupt, workshop=drill_workshop())
    assert not [child for child in psutil.Process().children(recursive=True) if "converters.worker" in child.cmdline()]
    assert len([path for path in (tmp_path / "cache").glob("*/unfinished/*") if path.is_dir()]) == 2


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_ended_and_may_go_on_later(tmp_path):
    report = drill(tmp_path, f"tflite:fp32, {PRUNED}", {"prune(0.5)": "hang"}, train_timeout_s=2.0)
    assert [row.status for row in report.rows] == ["ok", "failed"]
    assert report.rows[1].error_class == "TimedOut"
    assert report.rows[1].message == "prune(0.5): no result within the limit of 2 s"
    assert [path for path in (tmp_path / "cache").glob("*/unfinished/*") if path.is_dir()]


def test_two_steps_may_ship_files_of_the_same_name(tmp_path):
    report = drill(tmp_path, "tflite:prune(0.5)>prune(0.6)>fp16")
    assert set(load_variant(report.rows[0].folder).manifest.extras) == {"prune.txt", "2_prune.txt"}


def test_the_ledger_is_of_every_variant(tmp_path):
    report = drill(tmp_path, f"tflite:fp32, {PRUNED}")
    for row in report.rows:
        manifest = load_variant(row.folder).manifest
        assert manifest.ledger["parameters"] == 1
        assert manifest.ledger["macs"] is None
        assert manifest.ledger["macs_missing"]
        assert manifest.size_entropy_bytes == manifest.ledger["size_entropy_bytes"] > 0
    # Without compression nothing is counted, and the cache keeps both apart.
    (plain,) = drill(tmp_path, "tflite:fp32").rows
    assert not plain.cached
    assert load_variant(plain.folder).manifest.ledger == {}
