"""Labelled data: an npz or a folder of images → test rows to judge by, and calibration rows that are never test rows.

Light: numpy only, so that a host which merely measures can load the data too. `dataset_source.py` reads npz files,
`dataset_images.py` folders, `dataset_labels.py` labels; `preprocessing.py` defines what happens to the values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.dataset_labels import checked_labels, guessed_task
from converters.dataset_rows import chosen_rows, limited_rows, row_digests
from converters.dataset_source import MAX_BYTES, SOLE_INPUT, Source, Split, read_npz, sides, source_from_arrays
from converters.preprocessing import Array, DatasetError, Preprocessing, preprocessing_from_dict
from converters.training_rows import TrainingRows, Wanted, cut_training_rows
from converters.variant import TensorSpec

__all__ = [
    "Dataset",
    "DatasetError",
    "Preprocessing",
    "TrainingRows",
    "dataset_from_arrays",
    "fingerprint",
    "load_dataset",
    "preprocessing_from_dict",
]

PreprocessingLike = Preprocessing | Mapping[str, Preprocessing] | None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Test rows and calibration rows, preprocessed: float32, or integers where the model takes token ids.

    `inputs` and `calibration`: one array [n, …] per input name; the sole input of a model is called "x" until
    `matched_to` gives it the model's name. `labels`: int64 [n] (classification), float32 [n] or [n, k] (regression), or
    None. `calibration` has 0 rows when the data hold none that are not test rows. `sha256` is over the test rows as
    stored, their labels and the preprocessing; `calibration_sha256` over the calibration rows likewise. `training`: rows to
    train on, where they were asked for and the data hold labelled ones.
    """

    inputs: dict[str, Array]
    labels: Array | None
    calibration: dict[str, Array]
    calibration_labels: Array | None
    class_names: tuple[str, ...]
    task: str  # "classification", "regression" or "none" (no labels)
    sha256: str
    calibration_sha256: str
    preprocessing: dict[str, Any]
    notes: tuple[str, ...] = ()
    training: TrainingRows | None = None

    @property
    def rows(self) -> int:
        """Number of test rows."""
        return len(next(iter(self.inputs.values())))

    @property
    def calibration_rows(self) -> int:
        """Number of calibration rows."""
        return len(next(iter(self.calibration.values())))

    def require_calibration(self) -> None:
        """Raise DatasetError when there is no calibration row."""
        if self.calibration_rows == 0:
            raise DatasetError(
                "the data hold no calibration rows apart from the test rows",
                remedy="add x_train, y_train or calibration to the npz",
            )

    def validate_labels(self, n_classes: int) -> None:
        """Raise DatasetError unless labels are class numbers 0 … n_classes − 1 (no labels at all are fine)."""
        if self.task == "regression":
            raise DatasetError(
                f"labels are not whole numbers, the model has {n_classes} classes", remedy="store class numbers from 0"
            )
        learnt = None if self.training is None else self.training.labels
        for where, labels in (
            ("labels", self.labels),
            ("calibration labels", self.calibration_labels),
            ("training labels", learnt),
        ):
            if labels is not None and len(labels) and int(labels.max()) >= n_classes:
                starts = " (they start at 1)" if int(labels.min()) == 1 and int(labels.max()) == n_classes else ""
                raise DatasetError(
                    f"{where} go up to {int(labels.max())}{starts}, the model has {n_classes} classes: "
                    f"0 … {n_classes - 1}",
                    remedy="number the classes from 0, in the order of the model's outputs",
                )

    def check_against(self, specs: Sequence[TensorSpec]) -> None:
        """Raise DatasetError unless names, row shapes and types are those of the model's inputs (batch axis first)."""
        wanted = [spec.name for spec in specs]
        if set(self.inputs) != set(wanted):
            raise DatasetError(
                f"the data have the inputs {', '.join(self.inputs)}; the model wants {', '.join(wanted)}",
                remedy="store one array per input: " + ", ".join(f"x:{name}" for name in wanted),
            )
        for spec in specs:
            x = self.inputs[spec.name]
            if not _fits(x.shape[1:], spec.shape[1:]):
                raise DatasetError(
                    f"data rows are {sides(x.shape[1:])}, the model wants {sides(spec.shape[1:])}",
                    remedy=_shape_remedy(x.shape[1:], spec.shape[1:]),
                )
            if np.dtype(spec.dtype).kind in "iu" and x.dtype.kind == "f":
                raise DatasetError(
                    f"input {spec.name} wants {spec.dtype}, the data rows are {x.dtype}",
                    remedy="store whole numbers and declare no scale, mean or std for it",
                )

    def matched_to(self, specs: Sequence[TensorSpec]) -> Dataset:
        """The same rows under the model's input names, with its types; for the converter and the reference run.

        A sole input takes the model's name; a channel axis of 1 is appended where only that is missing (unless
        `add_channel` is false); integers become float32 or the model's integer type. Raises DatasetError as
        `check_against` does, and for integers that do not fit the type.
        """
        inputs = _under_model_names(self.inputs, specs)
        grow = {spec.name for spec in specs if self._lacks_channel(inputs, spec)}

        def fitted(rows: dict[str, Array]) -> dict[str, Array]:
            return _fitted(_under_model_names(rows, specs), specs, grow)

        training = self.training
        if training is not None:
            training = dataclasses.replace(
                training, inputs=fitted(training.inputs), validation=fitted(training.validation)
            )
        matched = dataclasses.replace(
            self, inputs=fitted(self.inputs), calibration=fitted(self.calibration), training=training
        )
        matched.check_against(specs)
        return matched

    def _lacks_channel(self, inputs: Mapping[str, Array], spec: TensorSpec) -> bool:
        x = inputs.get(spec.name)
        return x is not None and _fits((*x.shape[1:], 1), spec.shape[1:]) and _may_grow(self.preprocessing, spec.name)


def check_labels(dataset: Dataset, outputs: Sequence[TensorSpec]) -> None:
    """Class numbers must be among the model's outputs; a sole output is a probability of class 1. Raises DatasetError."""
    shape = outputs[0].shape
    if dataset.task == "classification" and len(shape) == 2 and shape[1] is not None:  # noqa: PLR2004  rows, classes
        dataset.validate_labels(max(shape[1], 2))


def _under_model_names(rows: dict[str, Array], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """A sole input under the model's name."""
    return {specs[0].name: rows[SOLE_INPUT]} if len(specs) == 1 and list(rows) == [SOLE_INPUT] else rows


def _fitted(rows: dict[str, Array], specs: Sequence[TensorSpec], grow: set[str]) -> dict[str, Array]:
    """Rows with the model's types, and a channel axis of 1 for the inputs in `grow`."""
    fitted = dict(rows)
    for spec in specs:
        if spec.name in rows:
            x = rows[spec.name]
            fitted[spec.name] = _as_type(x[..., np.newaxis] if spec.name in grow else x, spec)
    return fitted


def load_dataset(
    path: Path,
    *,
    preprocessing: PreprocessingLike = None,
    limit: int | None = None,
    seed: int = 0,
    calibration_size: int = 200,
    task: str | None = None,
    max_bytes: int = MAX_BYTES,
    training: bool = False,
    training_limit: int | None = None,
) -> Dataset:
    """Load an npz or a folder of images by class.

    `preprocessing` (one for all inputs, or one per input name) overrides what the npz itself declares. `limit` keeps a
    seeded, class-balanced sample of the test rows. Calibration rows are the `calibration` arrays, else a seeded,
    class-balanced `calibration_size` of the training rows, else split off `x` (at most a fifth of it); none has the
    same bytes as a test row, `limit` or not. `task` overrides the guess: whole-number labels mean classification,
    others regression. `max_bytes` bounds the arrays in memory. With `training`, the labelled training rows are kept too,
    `training_limit` of them at most (seeded, class-balanced). Raises DatasetError.
    """
    if path.is_dir():
        from converters.dataset_images import source_from_folder

        if isinstance(preprocessing, Mapping):
            raise DatasetError("a folder of images has one input: declare one preprocessing")
        try:
            source = source_from_folder(path, preprocessing or Preprocessing(), max_bytes)
        except OSError as error:
            raise DatasetError(f"{error.filename or path}: {error.strerror or error}") from error
    else:
        source = source_from_arrays(read_npz(path, max_bytes), str(path))
    wish = _Wish(limit, seed, calibration_size, task, training, training_limit)
    return _assembled(source, preprocessing, wish)


def dataset_from_arrays(
    arrays: Mapping[str, Array],
    *,
    preprocessing: PreprocessingLike = None,
    limit: int | None = None,
    seed: int = 0,
    calibration_size: int = 200,
    task: str | None = None,
    training: bool = False,
    training_limit: int | None = None,
) -> Dataset:
    """As `load_dataset`, of arrays in memory under the keys of an npz. Raises DatasetError."""
    wish = _Wish(limit, seed, calibration_size, task, training, training_limit)
    return _assembled(source_from_arrays(arrays, "data"), preprocessing, wish)


def fingerprint(arrays: Mapping[str, Array], labels: Array | None, extra: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of the arrays and labels, and over `extra` (JSON types)."""
    digest = hashlib.sha256(json.dumps(extra, sort_keys=True).encode())
    for name, array in [*sorted(arrays.items()), *([] if labels is None else [("", labels)])]:
        digest.update(f"|{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the caller of `load_dataset` asks for."""

    limit: int | None
    seed: int
    calibration_size: int
    task: str | None
    training: bool
    training_limit: int | None


def _assembled(source: Source, preprocessing: PreprocessingLike, wish: _Wish) -> Dataset:
    """Choose rows, preprocess, check, fingerprint."""
    limit, size, seed = wish.limit, wish.calibration_size, wish.seed
    if size < 0 or (limit is not None and limit < 1):
        raise DatasetError(f"limit must be at least 1 and calibration_size at least 0, not {limit} and {size}")
    if wish.training_limit is not None and wish.training_limit < 2:  # noqa: PLR2004  one to train on, one to validate by
        raise DatasetError(f"training_limit must be at least 2, not {wish.training_limit}")
    steps = _steps(source, preprocessing)
    task = guessed_task(source.test.labels, source.class_names, wish.task)
    labels = {id(s): checked_labels(s, task, source.class_names) for s in _splits(source)}
    test_rows, calibration_split, calibration_rows, notes = chosen_rows(source, labels, task, seed, size)
    kept = limited_rows(test_rows, labels[id(source.test)], task, limit, seed)
    raw, raw_calibration = source.test.take(kept), calibration_split.take(calibration_rows)
    test_labels = _at(labels[id(source.test)], kept)
    calibration_labels = _at(labels.get(id(calibration_split)), calibration_rows)
    declared = _declared(steps, raw)
    dataset = Dataset(
        inputs=_preprocessed(raw, steps, source.test.where),
        labels=test_labels,
        calibration=_preprocessed(raw_calibration, steps, "calibration"),
        calibration_labels=calibration_labels,
        class_names=source.class_names,
        task=task,
        sha256=fingerprint(raw, test_labels, declared),
        calibration_sha256=fingerprint(raw_calibration, calibration_labels, declared),
        preprocessing=declared,
        notes=(*source.notes, *notes),
    )
    learnt = None if source.train is None else labels[id(source.train)]
    if not wish.training or source.train is None or learnt is None:
        return dataset
    # All test rows count as such, those beyond `limit` too.
    taken = frozenset(row_digests(source.test.take(np.arange(source.test.count)))) | set(row_digests(raw_calibration))
    training, more = cut_training_rows(
        Wanted(source.train, learnt, taken, task, seed, wish.training_limit),
        lambda rows, where: _preprocessed(rows, steps, where),
        lambda rows, own: fingerprint(rows, own, declared),
    )
    return dataclasses.replace(dataset, training=training, notes=(*dataset.notes, *more))


def _splits(source: Source) -> list[Split]:
    return [split for split in (source.test, source.train, source.calibration) if split is not None]


def _steps(source: Source, given: PreprocessingLike) -> Preprocessing | Mapping[str, Preprocessing]:
    """What the caller declares, else what the data declare, else nothing; per input only for inputs that exist."""
    if given is None:
        return Preprocessing() if source.preprocessing is None else preprocessing_from_dict(source.preprocessing)
    if isinstance(given, Mapping):
        names = set(source.test.take(np.arange(1)))
        if not set(given) <= names:
            raise DatasetError(f"preprocessing names {sorted(set(given) - names)}, the data have {sorted(names)}")
    return given


def _step(steps: Preprocessing | Mapping[str, Preprocessing], name: str) -> Preprocessing:
    return steps if isinstance(steps, Preprocessing) else steps.get(name, Preprocessing())


def _declared(steps: Preprocessing | Mapping[str, Preprocessing], raw: Mapping[str, Array]) -> dict[str, Any]:
    """The preprocessing as plain JSON: flat when one serves all inputs, else {"inputs": {name: …}}."""
    if isinstance(steps, Preprocessing):
        return steps.to_dict()
    return {"inputs": {name: _step(steps, name).to_dict() for name in sorted(raw)}}


def _may_grow(preprocessing: dict[str, Any], name: str) -> bool:
    declared = preprocessing.get("inputs", {}).get(name, preprocessing)
    return declared.get("add_channel") is not False


def _preprocessed(
    raw: dict[str, Array], steps: Preprocessing | Mapping[str, Preprocessing], where: str
) -> dict[str, Array]:
    out = {}
    for name, array in raw.items():
        out[name] = _step(steps, name).apply(array)
        if out[name].dtype.kind == "f" and not np.isfinite(out[name]).all():
            bad = ~np.isfinite(out[name].reshape(len(array), -1))
            raise DatasetError(
                f"{where}: {int(bad.sum())} values of input {name} are NaN or infinite, the first in row "
                f"{int(np.flatnonzero(bad.any(axis=1))[0])}",
                remedy="remove or repair those rows",
            )
    return out


def _at(labels: Array | None, rows: Array) -> Array | None:
    return None if labels is None else labels[rows]


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def _shape_remedy(have: tuple[int, ...], wanted: tuple[int | None, ...]) -> str | None:
    """What to declare so that the rows fit, when one declaration would do."""
    if _fits((*have, 1), wanted):
        return "set add_channel: true in preprocessing"
    if len(have) != 3 or len(wanted) != 3:  # noqa: PLR2004
        return "store rows of the model's shape"
    if _fits((have[1], have[2], have[0]), wanted):
        return "set layout: NCHW in preprocessing"
    if have[:2] == wanted[:2] and wanted[2] in (1, 3):
        return f"set channels: {wanted[2]} in preprocessing"
    return f"set resize: [{wanted[0]}, {wanted[1]}] in preprocessing"


def _as_type(x: Array, spec: TensorSpec) -> Array:
    """Integers as the input's type, when it holds them all; floats are left to `check_against`."""
    wanted = np.dtype(spec.dtype)
    if x.dtype.kind not in "iu" or x.dtype == wanted:
        return x
    if wanted.kind not in "iu":
        return x.astype(np.float32)
    limits = np.iinfo(wanted)
    if x.size and (int(x.min()) < limits.min or int(x.max()) > limits.max):
        raise DatasetError(f"input {spec.name} is {wanted}, the data go from {int(x.min())} to {int(x.max())}")
    return x.astype(wanted)
