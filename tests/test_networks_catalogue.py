"""Compact networks without a toolchain: what there is, the strides for small images, how commands and recipes name them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from converters.chains import step_files
from converters.dataset import dataset_from_arrays
from converters.errors import ConversionInputError, RecipeError
from converters.networks import NETWORKS, building, making, network
from converters.steps import make_step
from harness.cli.main import app
from harness.report.networks import network_words

FAMILIES = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "mnasnet",
    "squeezenet",
    "shufflenet_v2",
    "efficientnet_lite",
)


def test_every_family_is_there_with_its_paper():
    assert all(any(name.startswith(family) for name in NETWORKS) for family in FAMILIES)
    for name, item in NETWORKS.items():
        assert name == item.name
        assert "arXiv:" in item.paper
        assert item.parameters / 1e6 == pytest.approx(item.published_millions, rel=0.04)


def test_a_misspelt_name_is_answered():
    with pytest.raises(ConversionInputError, match="did you mean 'mobilenet_v2'"):
        network("mobilnet_v2")


@pytest.mark.parametrize(
    ("side", "expected"),
    [(224, 7), (192, 6), (128, 4), (96, 3), (64, 4), (48, 3), (32, 4), (28, 4), (16, 4), (8, 4), (2, 2), (1, 1)],
)
def test_small_images_keep_a_feature_map(side, expected):
    chosen = building.strides(side, 5)
    assert len(chosen) == 5
    assert list(chosen) == sorted(chosen)  # the earliest halvings are left out
    assert -(-side // np.prod(chosen)) == expected


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"input_shape": (28, 28)}, "height, width, channels"),
        ({"input_shape": (0, 28, 1)}, "height, width, channels"),
        ({"classes": 0}, "at least one"),
        ({"width": 0.0}, "width is 0"),
        ({"width": float("nan")}, "width is nan"),
        ({"resolution": 9.0}, "resolution is 9"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(wish, words):
    with pytest.raises(ConversionInputError, match=words):
        building.build("mnasnet", **{"input_shape": (28, 28, 1), "classes": 3} | wish)


def test_a_student_is_a_network_or_a_file(tmp_path: Path):
    named = make_step("distill", {"student": "mobilenet_v2", "width": 0.5})
    assert named.text == "distill(0.5, student=mobilenet_v2)"
    assert step_files(named, tmp_path) == {}
    assert named.slug == "distill_0.5_student-mobilenet-v2"
    (tmp_path / "own.keras").touch()
    own = make_step("distill", {"student": "own.keras"})
    assert step_files(own, tmp_path) == {"student": tmp_path.resolve() / "own.keras"}
    assert own.slug.startswith("distill_student-own.keras-")
    with pytest.raises(RecipeError, match=r"there is no file .*mobilenet_v2"):
        step_files(make_step("distill", {"student": "mobilenet"}), tmp_path)


def rows(labels: int = 3, shape: tuple[int, ...] = (6, 6), kind: type = np.int64):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, *shape)).astype(np.float32), (np.arange(60) % labels).astype(kind)
    arrays = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    return dataset_from_arrays(arrays, training=True, calibration_size=5)


def job(tmp_path: Path, **wish):
    return making._job(making.NetworkRequest("squeezenet", tmp_path / "m.keras", **wish))


def test_the_data_say_what_was_not_said(tmp_path: Path):
    made = job(tmp_path, dataset=rows(), epochs=2)
    assert (made.input_shape, made.classes) == ([6, 6, 1], 3)
    assert made.folder.startswith(str(tmp_path.resolve() / ".m.keras."))
    own = job(tmp_path, dataset=rows(shape=(6, 6, 2)), classes=7)
    assert (own.input_shape, own.classes, own.data) == ([6, 6, 2], 7, None)
    # A training goes on only where everything is the same.
    assert job(tmp_path, dataset=rows(), epochs=3).folder != made.folder
    assert job(tmp_path, dataset=rows(labels=2), epochs=2).folder != made.folder
    assert job(tmp_path, dataset=rows(), epochs=2).folder == made.folder


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({}, "--input 28x28x1 --classes 10"),
        ({"input_shape": (8, 8, 1), "classes": 2, "epochs": 1}, "x_train"),
        ({"dataset": rows(shape=(6,))}, "no images"),
        ({"dataset": rows(kind=np.float32, labels=60)}, "classes"),
        ({"epochs": -1}, "0 or more"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, wish, words):
    if "dataset" in wish and words == "classes":
        wish = {"dataset": regression()}
    with pytest.raises(ConversionInputError, match=words):
        job(tmp_path, **wish)


def regression():
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 6, 6)).astype(np.float32), rng.random(60).astype(np.float32)
    arrays = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    return dataset_from_arrays(arrays, training=True, calibration_size=5)


def test_the_command_lists_them():
    done = CliRunner().invoke(app, ["networks", "--json"])
    assert done.exit_code == 0, done.output
    assert [row["network"] for row in json.loads(done.stdout)] == list(NETWORKS)
    text = CliRunner().invoke(app, ["networks"]).stdout
    assert all(name in text and item.paper.split(";")[0] in text for name, item in NETWORKS.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mobilenet_v2"], "--out"),
        (["mobilnet_v2", "--out", "m.keras"], "did you mean"),
        (["mobilenet_v2", "--out", "m.h5", "--input", "8x8x1", "--classes", "2"], ".keras"),
        (["mobilenet_v2", "--out", "m.keras", "--data", "nowhere.npz"], "no such file"),
        (["mobilenet_v2", "--out", "m.keras", "--input", "8x8"], "28x28x1"),
    ],
)
def test_wrong_words_end_with_the_code_for_wrong_input(words, said):
    done = CliRunner().invoke(app, ["networks", *words])
    assert done.exit_code == 2
    assert said in done.stderr


def test_what_was_made_is_said_in_words():
    report = {
        "path": "m.keras",
        "name": "mnasnet",
        "input_shape": [28, 28, 1],
        "classes": 10,
        "width": 0.5,
        "resolution": 1.0,
        "parameters": 1_230_000,
        "macs": 4_560_000,
        "last_map": (4, 4),
        "epochs": 0,
    }
    assert "mnasnet width 0.5, 28×28×1 to 10 classes, 1.23 M parameters, 4.56 M multiply-accumulates" in network_words(
        report
    )
    assert "not trained" in network_words(report)
    trained = {"epochs": 3, "stopped_early": True, "seconds": 9.6, "train_rows": 90, "validation_rows": 10}
    words = network_words(report | trained | {"metric": "accuracy", "validation_score": 0.875})
    assert "3 epochs, stopped early on 90 rows in 10 s: 87.50 % right on 10 validation rows" in words
