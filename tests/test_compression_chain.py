"""A chain's steps as the compression worker does them: loading, judging, saving, what they leave, and what they may not do."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.compress.record import KEEP, MODEL, read_record
from converters.dataset import dataset_from_arrays
from converters.errors import ToolError
from converters.step_catalogue import STEPS, Parameter, StepInfo
from converters.steps import make_step
from converters.transfer import write_dataset

# TensorFlow's tensors do not know numpy 2's `copy` yet; Keras asks for it when it saves.
pytestmark = [
    pytest.mark.compression,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
NAMES = ("halve", "rename", "shorten", "spoil", "smuggle")


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        times = Parameter("times", int, 1, "how often")
        info = StepInfo(name, f"compression_steps:{name}", "a test", "none", name, (times,))
        monkeypatch.setitem(STEPS, name, info)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, activation="relu")(inputs)
    path = tmp_path_factory.mktemp("base") / "base.keras"
    keras.Model(inputs, keras.layers.Dense(2, name="scores")(hidden)).save(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    arrays = {"x_test": x[:10], "y_test": y[:10], "x_train": x[10:], "y_train": y[10:]}
    folder = tmp_path_factory.mktemp("data") / "training"
    write_dataset(dataset_from_arrays(arrays, calibration_size=10, training=True), folder, training=True)
    return str(folder)


def done(base: Path, folder: Path, name: str, before: Path | None = None, **options: Any) -> list[str]:
    """Do one step in `folder`; what it said."""
    from converters.compress.chain import run_step

    said: list[str] = []
    folder.mkdir()
    earlier = () if before is None else (read_record(before).step,)
    job = {"base": str(base), "step": make_step(name).to_dict(), "paths": {}, "before": before and str(before)}
    run_step({**job, "earlier": earlier, "folder": str(folder), "seed": 7, **options}, said.append)
    return said


def test_a_step_leaves_a_model_and_a_record_that_the_next_one_takes_up(base, data, tmp_path):
    import keras

    said = done(base, tmp_path / "1", "halve", data=data)
    assert said == ["halving"]
    first = read_record(tmp_path / "1")
    assert first.figures | {"random": 0} == {
        "numpy": 0.5,
        "nan": None,
        "earlier": [],
        "kept": [],
        "trainable_in_base": 0,
        "rows": [36, 4],
        "calibration": 10,
        "random": 0,
    }
    assert (first.inputs, first.outputs) == (("x",), ("scores",))
    assert first.left_alone == {"dense_9": "not known"}
    assert first.metric == "accuracy"
    assert first.score_before is not None
    assert first.score_missing is None
    assert first.ledger["parameters"] == 26
    assert (tmp_path / "1" / KEEP / "halved.txt").read_text() == "1"
    done(base, tmp_path / "2", "halve", tmp_path / "1", data=data)
    second = read_record(tmp_path / "2")
    assert second.score_before == first.score_after
    assert (second.figures["earlier"], second.figures["kept"], second.preserve) == (["halve"], ["zeros"], ("zeros",))
    weights = [keras.models.load_model(path, compile=False).get_weights() for path in (base, tmp_path / "2" / MODEL)]
    for before, after in zip(*weights, strict=True):
        assert np.array_equal(before * 0.25, after)


def test_the_same_step_gives_the_same_bytes(base, data, tmp_path):
    digests = []
    for name in ("a", "b"):
        done(base, tmp_path / name, "halve", data=data)
        digests.append(hashlib.sha256((tmp_path / name / MODEL).read_bytes()).hexdigest())
        record = read_record(tmp_path / name)
        digests.append(dataclasses.replace(record, seconds=0.0).to_json())
    assert digests[:2] == digests[2:]


def test_without_rows_there_is_no_score_and_a_reason(base, tmp_path):
    done(base, tmp_path / "1", "halve")
    record = read_record(tmp_path / "1")
    assert (record.score_before, record.score_after, record.metric) == (None, None, None)
    assert "no labelled training rows" in (record.score_missing or "")
    assert record.figures["rows"] is None


@pytest.mark.parametrize(
    ("name", "words"),
    [("shorten", "changed the model's outputs"), ("spoil", "NaN or infinite"), ("smuggle", "Lambda")],
)
def test_what_no_step_may_do_fails_it(base, data, tmp_path, name, words):
    with pytest.raises(ToolError, match=words):
        done(base, tmp_path / "1", name, data=data)


def test_variants_keep_the_names_of_the_bases_tensors(base, tmp_path):
    from converters.export.base import SAVED_MODEL, load_source
    from converters.export.prepare import Preparation

    done(base, tmp_path / "1", "rename")
    record = read_record(tmp_path / "1")
    (tmp_path / "source").mkdir()
    request = {
        "base": str(tmp_path / "1" / MODEL),
        "kind": "keras",
        "name": "base",
        "sha256": "0" * 64,
        "folder": str(tmp_path / "source"),
        "seed": 0,
        "dataset": None,
        "reference": None,
        "tensors": (record.inputs, record.outputs),
    }
    Preparation(request).make(SAVED_MODEL)
    source = load_source(tmp_path / "source")
    assert [spec.name for spec in (*source.inputs, *source.outputs)] == ["x", "scores"]
    assert source.base_sha256 == "0" * 64


def test_training_under_another_policy_leaves_the_weights_as_they_were(base):
    import keras

    from converters.compress.precision import policy

    model = keras.models.load_model(base, compile=False)
    x = np.ones((1, 3), np.float32)
    before = model(x)
    with policy(model, "mixed_bfloat16"):
        assert model(x).dtype == "bfloat16"
        assert {variable.dtype for variable in model.variables} == {"float32"}
    assert np.array_equal(model(x), before)
    with pytest.raises(ToolError, match="no dtype policy"), policy(model, "mixed_nonsense"):
        pass
    with pytest.raises(ToolError, match="would be"), policy(model, "float16"):
        pass
