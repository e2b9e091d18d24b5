"""Carries a Dataset into a worker process and back out of files: plain .npy arrays that are mapped, never unpickled.

The pipeline writes, the TensorFlow worker reads (`converters.export.prepare`). numpy only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from converters.dataset import Dataset

_META = "dataset.json"


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """Write all arrays and what is said about them into `folder` (made here)."""
    folder.mkdir(parents=True)
    arrays = [("inputs", name, array) for name, array in dataset.inputs.items()]
    arrays += [("calibration", name, array) for name, array in dataset.calibration.items()]
    arrays += [
        (part, "", array)
        for part, array in (("labels", dataset.labels), ("calibration_labels", dataset.calibration_labels))
        if array is not None
    ]
    for number, (_, _, array) in enumerate(arrays):
        np.save(folder / f"{number}.npy", array, allow_pickle=False)
    meta = {
        "arrays": [[part, name] for part, name, _ in arrays],
        "class_names": list(dataset.class_names),
        "task": dataset.task,
        "sha256": dataset.sha256,
        "calibration_sha256": dataset.calibration_sha256,
        "preprocessing": dataset.preprocessing,
        "notes": list(dataset.notes),
    }
    (folder / _META).write_text(json.dumps(meta), encoding="utf-8")


def read_dataset(folder: Path) -> Dataset:
    """Inverse of `write_dataset`; arrays are mapped from disk, read-only."""
    meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    parts: dict[str, dict[str, Any]] = {"inputs": {}, "calibration": {}, "labels": {}, "calibration_labels": {}}
    for number, (part, name) in enumerate(meta.pop("arrays")):
        parts[part][name] = np.load(folder / f"{number}.npy", mmap_mode="r", allow_pickle=False)
    return Dataset(
        inputs=parts["inputs"],
        calibration=parts["calibration"],
        labels=parts["labels"].get(""),
        calibration_labels=parts["calibration_labels"].get(""),
        class_names=tuple(meta.pop("class_names")),
        notes=tuple(meta.pop("notes")),
        **meta,
    )
