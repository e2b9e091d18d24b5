"""Labels as stored → what task they are of, and class numbers or targets. Read by `dataset.py`; numpy only."""

from __future__ import annotations

import numpy as np

from converters.dataset_source import Split, sides
from converters.preprocessing import Array, DatasetError


def guessed_task(labels: Array | None, class_names: tuple[str, ...], given: str | None) -> str:
    """What the user says the task is, else what the labels look like. Raises DatasetError for an unknown word."""
    if given not in (None, "classification", "regression", "none"):
        raise DatasetError(f"task must be classification, regression or none, not {given!r}")
    if labels is None:
        return "none"
    if given is not None:
        return given
    whole = labels.dtype.kind in "iub" or _is_one_hot(labels)
    return "classification" if whole or class_names else "regression"


def _is_one_hot(labels: Array) -> bool:
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "iubf":  # noqa: PLR2004
        return False
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def checked_labels(split: Split, task: str, class_names: tuple[str, ...]) -> Array | None:
    """int64 [n] class numbers (one-hot rows are read), or float32 targets. Raises DatasetError, naming the split."""
    labels, where = split.labels, f"labels of {split.where}"
    if labels is None or task == "none":
        return None
    if labels.dtype.kind not in "iubf":
        raise DatasetError(f"{where}: must be numbers, not {labels.dtype}", remedy="put the words into class_names")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DatasetError(f"{where}: hold NaN or infinite values")
    if task == "regression":
        return labels.astype(np.float32)
    if _is_one_hot(labels):
        return np.asarray(np.argmax(labels, axis=1), np.int64)
    flat = labels.reshape(-1)
    if len(flat) != len(labels):
        raise DatasetError(f"{where}: must be one class number per row, not {sides(labels.shape[1:])}")
    if (flat != np.floor(flat)).any():
        raise DatasetError(f"{where}: are not whole numbers", remedy="store class numbers from 0")
    if (flat < 0).any():
        raise DatasetError(f"{where}: hold negative class numbers", remedy="number the classes from 0")
    if (flat > np.iinfo(np.int32).max).any():
        raise DatasetError(f"{where}: go up to {flat.max()}, which is no class number")
    if class_names and int(flat.max()) >= len(class_names):
        raise DatasetError(f"{where}: go up to {int(flat.max())}, but there are {len(class_names)} class_names")
    return flat.astype(np.int64)
