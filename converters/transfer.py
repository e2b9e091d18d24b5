"""Carries a Dataset into a worker process and back out of files: plain .npy arrays that are mapped, never unpickled.

The pipeline writes, workers read (`converters.export.prepare`; with the training rows, `converters.compress.chain`). numpy only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from converters.dataset import Dataset, TrainingRows

_META = "dataset.json"
_PARTS = (
    "inputs",
    "labels",
    "calibration",
    "calibration_labels",
    "training",
    "training_labels",
    "validation",
    "validation_labels",
)


def write_dataset(dataset: Dataset, folder: Path, *, training: bool = False) -> None:
    """Write all arrays and what is said about them into `folder` (made here).

    With `training`: the training rows instead of the test rows, which nobody who trains shall see.
    """
    folder.mkdir(parents=True)
    tests = {name: array[:0] for name, array in dataset.inputs.items()} if training else dataset.inputs
    labels = dataset.labels if dataset.labels is None or not training else dataset.labels[:0]
    learnt = dataset.training if training else None
    arrays = [("inputs", name, array) for name, array in tests.items()]
    arrays += [("calibration", name, array) for name, array in dataset.calibration.items()]
    arrays += [
        (part, "", array)
        for part, array in (("labels", labels), ("calibration_labels", dataset.calibration_labels))
        if array is not None
    ]
    if learnt is not None:
        arrays += [("training", name, array) for name, array in learnt.inputs.items()]
        arrays += [("validation", name, array) for name, array in learnt.validation.items()]
        arrays += [("training_labels", "", learnt.labels), ("validation_labels", "", learnt.validation_labels)]
    for number, (_, _, array) in enumerate(arrays):
        np.save(folder / f"{number}.npy", array, allow_pickle=False)
    meta = {
        "arrays": [[part, name] for part, name, _ in arrays],
        "class_names": list(dataset.class_names),
        "task": dataset.task,
        "sha256": dataset.sha256,
        "calibration_sha256": dataset.calibration_sha256,
        "training_sha256": None if learnt is None else learnt.sha256,
        "preprocessing": dataset.preprocessing,
        "notes": list(dataset.notes),
    }
    (folder / _META).write_text(json.dumps(meta), encoding="utf-8")


def read_dataset(folder: Path) -> Dataset:
    """Inverse of `write_dataset`; arrays are mapped from disk, read-only."""
    meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    parts: dict[str, dict[str, Any]] = {name: {} for name in _PARTS}
    for number, (part, name) in enumerate(meta.pop("arrays")):
        parts[part][name] = np.load(folder / f"{number}.npy", mmap_mode="r", allow_pickle=False)
    training_sha256 = meta.pop("training_sha256")
    training = None
    if training_sha256 is not None:
        training = TrainingRows(
            inputs=parts["training"],
            labels=parts["training_labels"][""],
            validation=parts["validation"],
            validation_labels=parts["validation_labels"][""],
            sha256=training_sha256,
        )
    return Dataset(
        inputs=parts["inputs"],
        calibration=parts["calibration"],
        labels=parts["labels"].get(""),
        calibration_labels=parts["calibration_labels"].get(""),
        class_names=tuple(meta.pop("class_names")),
        notes=tuple(meta.pop("notes")),
        training=training,
        **meta,
    )
