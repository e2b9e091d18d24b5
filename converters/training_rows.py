"""The training split of the user's data → rows to train on and rows to validate by, none of which is a test or calibration row.

Called by `converters.dataset` when a conversion asks for it; `converters.compress` trains on what comes out. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.dataset_rows import balanced_order, limited_rows, row_digests
from converters.dataset_source import Split
from converters.preprocessing import Array

VALIDATION_SHARE = 0.1
_SEED_STREAM = 3  # the other streams choose calibration and test rows (`converters.dataset_rows`)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """Labelled rows, preprocessed, as `converters.dataset.Dataset` holds its own.

    `inputs` and `validation`: one array [n, …] per input name. `labels`, `validation_labels`: int64 [n] classes or float32
    targets. No row has the same bytes as a test row, a calibration row, or a row of the other part. `sha256` is over
    all rows as stored, their labels and the preprocessing.
    """

    inputs: dict[str, Array]
    labels: Array
    validation: dict[str, Array]
    validation_labels: Array
    sha256: str

    @property
    def rows(self) -> int:
        """Number of rows to train on."""
        return len(self.labels)

    @property
    def validation_rows(self) -> int:
        """Number of rows to validate by."""
        return len(self.validation_labels)


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What training rows are cut from: the `split` with its `labels`, the digests of rows that are `taken` by tests and
    calibration, and how many rows at most."""

    split: Split
    labels: Array
    taken: frozenset[bytes]
    task: str
    seed: int
    limit: int | None


def chosen_training_rows(wanted: Wanted) -> tuple[Array, Array, tuple[str, ...]]:
    """Indices of the rows to train on and of those to validate by, and notes on rows left out.

    Both are empty when fewer than two rows are left. Of each class (of all rows, for a regression) a seeded tenth
    validates, at least one row, and never the only one.
    """
    split, labels = wanted.split, wanted.labels
    digests = row_digests(split.take(np.arange(split.count)))
    free = np.array([i for i, digest in enumerate(digests) if digest not in wanted.taken], np.int64)
    dropped = split.count - len(free)
    notes = (
        (f"{dropped} rows of {split.where} equal to test or calibration rows were not trained on",) if dropped else ()
    )
    free = limited_rows(free, labels, wanted.task, wanted.limit, wanted.seed)
    own = labels[free] if wanted.task == "classification" else np.zeros(len(free), np.int64)
    rng = np.random.Generator(np.random.PCG64([wanted.seed, _SEED_STREAM]))
    order = balanced_order(own, len(free), rng)
    chosen = []
    for value in np.unique(own):
        of_class = order[own[order] == value]
        count = max(1, round(VALIDATION_SHARE * len(of_class))) if len(of_class) > 1 else 0
        chosen += of_class[:count].tolist()
    validation = np.sort(free[np.array(chosen, np.int64)])
    # A row that occurs twice must not be learnt and judged by: its twins leave the training.
    judged = {digests[i] for i in validation}
    train = np.array([i for i in free if digests[i] not in judged], np.int64)
    if not len(train) or not len(validation):
        nothing = np.arange(0)
        return nothing, nothing, (*notes, f"{split.where} leaves no rows to train on and to validate by")
    return train, validation, notes


def cut_training_rows(
    wanted: Wanted,
    preprocess: Callable[[dict[str, Array], str], dict[str, Array]],
    fingerprint: Callable[[Mapping[str, Array], Array], str],
) -> tuple[TrainingRows | None, tuple[str, ...]]:
    """The rows themselves, and notes; None when none are left. Raises DatasetError for values that are no numbers."""
    train, validation, notes = chosen_training_rows(wanted)
    if not len(train):
        return None, notes
    raw, raw_validation = wanted.split.take(train), wanted.split.take(validation)
    labels, validation_labels = wanted.labels[train], wanted.labels[validation]
    everything: dict[str, Any] = {f"train:{name}": x for name, x in raw.items()}
    everything |= {f"validation:{name}": x for name, x in raw_validation.items()}
    everything["validation labels"] = validation_labels
    rows = TrainingRows(
        inputs=preprocess(raw, wanted.split.where),
        labels=labels,
        validation=preprocess(raw_validation, wanted.split.where),
        validation_labels=validation_labels,
        sha256=fingerprint(everything, labels),
    )
    return rows, notes
