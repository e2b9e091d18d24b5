"""The rows a search judges by, which are never test rows; and shares of the training rows for a first look.

Under `harness.tune.trials`. A dataset goes in; out comes one whose "test" part holds the validation rows, so that all that reads
answers and accuracy works as ever. The real test rows are left for the final measurement of what the search chose.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from converters.dataset import Dataset
from converters.dataset_rows import balanced_order
from converters.training_rows import TrainingRows

_SEED_STREAM = 4  # 1 to 3 choose calibration, test and validation rows
VALIDATION = "validation rows"
CALIBRATION = "calibration rows"
_LEAST = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """`dataset`: its test part are the rows to judge by. `where` they come from; None: there are no labelled rows that are no test rows."""

    dataset: Dataset
    where: str | None


def judged(dataset: Dataset) -> Judged:
    """The data as a search may see them.

    The validation part of the training rows judges. Where there are no labelled training rows, the labelled calibration rows do:
    ranges were chosen by them, so that they flatter static quantization a little. Where those have no labels either, they still
    serve as inputs.
    """
    training = dataset.training
    if training is not None:
        inputs, labels = training.validation, training.validation_labels
        return Judged(_as_test(dataset, inputs, labels, f"validation {training.sha256}"), VALIDATION)
    labelled = dataset.calibration_labels is not None and dataset.calibration_rows > 0
    if dataset.calibration_rows == 0:
        return Judged(dataset, None)
    found = _as_test(
        dataset, dataset.calibration, dataset.calibration_labels, f"calibration {dataset.calibration_sha256}"
    )
    return Judged(found, CALIBRATION if labelled else None)


def _as_test(dataset: Dataset, inputs: dict[str, np.ndarray], labels: np.ndarray | None, what: str) -> Dataset:
    task = dataset.task if labels is not None else "none"
    digest = hashlib.sha256(what.encode()).hexdigest()
    return dataclasses.replace(dataset, inputs=inputs, labels=labels, task=task, sha256=digest)


def with_share(dataset: Dataset, share: float, seed: int) -> Dataset:
    """The same with only a share in (0, 1] of the training rows (seeded, class-balanced, at least two); validation rows stay the same, so
    that what was tried on few rows and on all of them is held against the same answers."""
    training = dataset.training
    if training is None or share >= 1.0:
        return dataset
    count = max(_LEAST, round(share * training.rows))
    labels = training.labels if dataset.task == "classification" else None
    rng = np.random.Generator(np.random.PCG64([seed, _SEED_STREAM]))
    chosen = np.sort(balanced_order(labels, training.rows, rng)[:count])
    digest = hashlib.sha256(f"{training.sha256} {count} {seed}".encode()).hexdigest()
    fewer = TrainingRows(
        inputs={name: rows[chosen] for name, rows in training.inputs.items()},
        labels=training.labels[chosen],
        validation=training.validation,
        validation_labels=training.validation_labels,
        sha256=digest,
    )
    return dataclasses.replace(dataset, training=fewer)
