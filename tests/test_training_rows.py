"""Training rows: never a test or calibration row, validated by rows apart, the same for the same seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from converters.dataset import Dataset, DatasetError, dataset_from_arrays
from converters.dataset_rows import row_digests
from converters.transfer import read_dataset, write_dataset
from converters.variant import TensorSpec


def arrays(rows: int = 200, classes: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 255, (rows, 5, 5), dtype=np.uint8)
    y = np.arange(rows) % classes
    return {"x_test": x[:40], "y_test": y[:40], "x_train": x[40:], "y_train": y[40:]}


def loaded(data: dict[str, np.ndarray], **options) -> Dataset:
    return dataset_from_arrays(data, calibration_size=20, training=True, **options)


def digests(rows: dict[str, np.ndarray]) -> set[bytes]:
    return set(row_digests(rows))


def test_only_who_asks_gets_training_rows():
    assert dataset_from_arrays(arrays()).training is None
    assert loaded(arrays()).training is not None


def test_test_rows_calibration_rows_and_validation_rows_are_not_trained_on():
    data = arrays()
    # Ten test rows stand among the training rows too, one of them with another label, and a training row stands there twice.
    data["x_train"] = np.concatenate([data["x_train"], data["x_test"][:10], data["x_train"][:50]])
    data["y_train"] = np.concatenate([data["y_train"], 3 - data["y_test"][:10], data["y_train"][:50]])
    dataset = loaded(data, limit=7)
    training = dataset.training
    parts = [training.inputs, training.validation, dataset.calibration]
    for index, part in enumerate(parts):
        for other in parts[index + 1 :]:
            assert not digests(part) & digests(other)
        # The limit on test rows makes no others of the rest.
        assert not digests(part) & digests({"x": data["x_test"]})
    assert any("not trained on" in note for note in dataset.notes)
    assert training.rows + training.validation_rows >= 160 - 20


def test_labels_stay_with_their_rows():
    data = arrays()
    label_of = dict(zip(row_digests({"x": data["x_train"]}), data["y_train"], strict=True))
    training = loaded(data).training
    for inputs, labels in ((training.inputs, training.labels), (training.validation, training.validation_labels)):
        assert [label_of[digest] for digest in row_digests(inputs)] == labels.tolist()


def test_every_class_validates_and_none_gives_its_only_row():
    data = arrays()
    data["y_train"] = np.array([0] * 120 + [1] * 36 + [2] * 3 + [3])
    training = dataset_from_arrays(data, calibration_size=0, training=True).training
    counts = np.bincount(training.validation_labels, minlength=4).tolist()
    assert counts == [12, 4, 1, 0]
    assert np.bincount(training.labels, minlength=4).tolist() == [108, 32, 2, 1]


def test_the_seed_and_the_limit_choose():
    same, again, other = (loaded(arrays(), seed=seed).training for seed in (0, 0, 1))
    assert same.sha256 == again.sha256 != other.sha256
    few = loaded(arrays(), training_limit=40).training
    assert few.rows + few.validation_rows == 40
    assert np.bincount(np.concatenate([few.labels, few.validation_labels])).tolist() == [10] * 4
    with pytest.raises(DatasetError, match="training_limit"):
        loaded(arrays(), training_limit=1)


def test_regression_validates_a_tenth():
    data = arrays() | {"y_test": np.linspace(0, 1, 40), "y_train": np.linspace(0, 1, 160)}
    training = loaded(data).training
    assert training.validation_rows == 14
    assert training.labels.dtype == np.float32


@pytest.mark.parametrize("missing", [("y_train",), ("x_train", "y_train")])
def test_without_labelled_training_rows_there_are_none(missing):
    data = {key: array for key, array in arrays().items() if key not in missing}
    assert loaded(data).training is None


def test_when_all_rows_are_test_rows_a_note_says_so():
    data = arrays()
    data["x_train"], data["y_train"] = data["x_test"], data["y_test"]
    dataset = loaded(data)
    assert dataset.training is None
    assert any("leaves no rows to train on" in note for note in dataset.notes)


def test_they_follow_the_model_and_travel_without_test_rows(tmp_path):
    dataset = loaded(arrays())
    write_dataset(dataset, tmp_path / "plain")
    assert read_dataset(tmp_path / "plain").training is None
    assert read_dataset(tmp_path / "plain").rows == 40
    write_dataset(dataset, tmp_path / "training", training=True)
    there = read_dataset(tmp_path / "training")
    assert there.rows == 0
    assert there.calibration_rows == 20
    matched = there.matched_to([TensorSpec("image", (None, 5, 5, 1), "float32")])
    training = matched.training
    assert training.inputs["image"].shape == (dataset.training.rows, 5, 5, 1)
    assert training.validation["image"].shape[1:] == (5, 5, 1)
    assert np.array_equal(training.inputs["image"][..., 0], dataset.training.inputs["x"])
    assert np.array_equal(training.validation_labels, dataset.training.validation_labels)
    assert training.sha256 == dataset.training.sha256
    beyond = dataclasses.replace(training, labels=training.labels + 1)
    with pytest.raises(DatasetError, match="training labels go up to 4"):
        dataclasses.replace(matched, training=beyond).validate_labels(4)
