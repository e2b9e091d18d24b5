"""harness/demo: small, balanced, apart from each other, licensed, and as accurate as they say."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from converters.dataset import Dataset, load_dataset

DEMO = Path(__file__).resolve().parent.parent / "harness" / "demo"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset(DEMO / "data.npz")


def test_all_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.iterdir() if path.is_file()) < 2_000_000


def test_rows_are_balanced_and_preprocessed(data: Dataset) -> None:
    assert data.inputs["x"].shape == (1000, 28, 28)
    assert data.inputs["x"].max() == pytest.approx(1.0)
    assert data.labels is not None
    assert np.bincount(data.labels).tolist() == [100] * 10
    assert data.calibration_labels is not None
    assert np.bincount(data.calibration_labels).tolist() == [20] * 10
    assert len(data.class_names) == 10


def test_calibration_shares_no_image_with_the_test_rows(data: Dataset) -> None:
    test = {row.tobytes() for row in data.inputs["x"]}
    assert not [row for row in data.calibration["x"] if row.tobytes() in test]
    assert data.notes == ()


def test_licence_is_given() -> None:
    text = (DEMO / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "Copyright © 2017 Zalando SE" in text
    assert "THE SOFTWARE IS PROVIDED" in text


def test_model_has_the_promised_ends_and_no_optimizer() -> None:
    with zipfile.ZipFile(DEMO / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    layers = config["config"]["layers"]
    assert layers[0]["config"]["name"] == "image"
    assert layers[0]["config"]["batch_shape"] == [None, 28, 28, 1]
    assert layers[-1]["config"]["name"] == "logits"
    assert layers[-1]["config"]["activation"] == "linear"
    assert not config.get("compile_config")


@pytest.mark.convert
@pytest.mark.filterwarnings("ignore")
def test_accuracy_on_the_demo_images(data: Dataset) -> None:
    keras = pytest.importorskip("keras", reason="needs keras and tensorflow (extra: convert)")
    model = keras.models.load_model(DEMO / "model.keras", compile=False)
    logits = model.predict(data.inputs["x"][..., None], batch_size=250, verbose=0)
    assert logits.shape == (1000, 10)
    assert float((logits.argmax(axis=1) == data.labels).mean()) >= 0.87
