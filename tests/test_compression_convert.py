"""Recipes with compression steps from a Keras model to files that engines run, with the real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from converters.dataset import Dataset, load_dataset
from converters.jobs import ConversionEvent, ConversionReport, TrainingOptions
from converters.pipeline import ConversionRequest, convert
from converters.recipe_words import parse_recipes
from converters.variant import load_variant

pytestmark = [
    pytest.mark.compression,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and its data: which half of a row is brighter."""
    import keras

    folder = tmp_path_factory.mktemp("base")
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16,), name="row")
    hidden = keras.layers.Dense(24, activation="relu", name="hidden")(inputs)
    keras.Model(inputs, keras.layers.Dense(2, name="scores")(hidden)).save(folder / "halves.keras")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 16)).astype(np.float32)
    y = (x[:, :8].sum(1) > x[:, 8:].sum(1)).astype(np.int64)
    np.savez(folder / "data.npz", x_test=x[:200], y_test=y[:200], x_train=x[200:], y_train=y[200:])
    return folder


def data(folder: Path) -> Dataset:
    return load_dataset(folder / "data.npz", training=True)


def converted(
    folder: Path, out: Path, words: str, cache: Path | None = None, said: list[str] | None = None, **options
) -> ConversionReport:
    request = ConversionRequest(
        folder / "halves.keras", parse_recipes(words), out, dataset=data(folder), cache=cache, seed=5, **options
    )

    def hear(event: ConversionEvent) -> None:
        if said is not None:
            said.append(event.text)

    return convert(request, hear)


def test_a_chain_in_all_formats(folder, tmp_path):
    said: list[str] = []
    words = "tflite:fp32, fine_tune(2) > fp32, fine_tune(2) > prune(0.5, epochs=0) > static_wi8_ai8 @ tflite"
    report = converted(folder, tmp_path / "out", words, said=said)
    assert [row.status for row in report.rows] == ["ok"] * 5, report.rows
    base, *tuned, pruned = (load_variant(row.folder).manifest for row in report.rows)
    assert [manifest.format for manifest in tuned] == ["tflite", "onnx", "openvino"]
    for manifest in tuned:
        assert manifest.agreement is not None
        assert manifest.agreement.relative_error < 1e-4  # against the tuned model, which is another than the base
        assert manifest.base_sha256 == report.base.sha256
        (step,) = manifest.lineage
        assert step["metric"] == "accuracy"
        assert step["score_after"] > step["score_before"]
        assert manifest.ledger["macs"] == 16 * 24 + 24 * 2
        assert manifest.signature is not None
        assert [spec.source for spec in manifest.signature.inputs] == ["row"]
    assert base.lineage == ()
    assert base.ledger["macs"] == pruned.ledger["macs"] > pruned.ledger["effective_macs"]
    assert pruned.lineage[0]["score_after"] == tuned[0].lineage[0]["score_after"]
    assert pruned.lineage[1]["score_before"] == pruned.lineage[0]["score_after"]
    assert sum("fine_tune(2): fine_tune: epoch 1 of 2" in text for text in said) == 1
    with np.load(tmp_path / "out" / "halves.reference.npz") as reference:
        assert reference["out:scores"].shape == (200, 2)


def converting(folder: Path, out: Path, words: str, cache: Path) -> subprocess.Popen[str]:
    """The same in a process of its own, which prints what it says."""
    code = f"""
from pathlib import Path
import test_compression_convert as own
said = []
own.converted(Path({str(folder)!r}), Path({str(out)!r}), {words!r}, Path({str(cache)!r}), said)
print(chr(10).join(said))
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_training_that_was_killed_ends_with_the_same_bytes(folder, tmp_path):
    words = "tflite:fine_tune(60)>fp32"
    cache, out = tmp_path / "cache", tmp_path / "cut"
    with converting(folder, out, words, cache) as child:
        deadline = time.monotonic() + 120
        while not list(cache.glob("v1/unfinished/*/work/fine_tune/checkpoint.npz")):
            assert child.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = psutil.Process(child.pid).children(recursive=True)
        for process in (child, *workers):
            process.send_signal(signal.SIGKILL)
    with converting(folder, out, words, cache) as child:
        said, _ = child.communicate()
    assert "resumed after epoch" in said, said
    whole = converted(folder, tmp_path / "whole", words, tmp_path / "another cache")
    models = [next(tmp_path.glob(f"{name}/v1/step/*/*/model.keras")) for name in ("cache", "another cache")]
    assert models[0].read_bytes() == models[1].read_bytes()
    variants = [load_variant(tmp_path / name / "halves.tflite.fine_tune_60+fp32").manifest for name in ("cut", "whole")]
    assert whole.rows[0].status == "ok"
    # The export too, although one of them was made by a process that had loaded the base before.
    assert variants[0].files == variants[1].files
    scores = [manifest.lineage[0]["score_after"] for manifest in variants]
    assert scores[0] == scores[1]


def test_a_training_function_of_the_users_own(folder, tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(
        "from beside import SCALE\n"
        "def train(model, data, *, epochs, say):\n"
        "    say(f'mine: {len(data.train.labels)} rows, {epochs} epochs')\n"
        "    model.get_layer('scores').kernel.assign(model.get_layer('scores').kernel * SCALE)\n",
        encoding="utf-8",
    )
    (tmp_path / "beside.py").write_text("SCALE = 2.0\n", encoding="utf-8")
    said: list[str] = []
    report = converted(
        folder,
        tmp_path / "out",
        "tflite:fine_tune(7)>fp32",
        said=said,
        training=TrainingOptions(function=f"{own}:train"),
    )
    assert report.rows[0].status == "ok", report.rows
    assert any("mine: " in text and " rows, 7 epochs" in text for text in said)


def test_mixed_precision_trains(folder, tmp_path):
    options = TrainingOptions(precision_policy="mixed_bfloat16")
    report = converted(folder, tmp_path / "out", "tflite:fine_tune(1)>fp32", training=options)
    assert report.rows[0].status == "ok", report.rows
    assert set(load_variant(report.rows[0].folder).manifest.weight_dtypes) == {"float32"}
