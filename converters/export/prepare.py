"""Makes a `Source` of a base model: checks the user's data against it, then writes one part after the other.

Runs in the TensorFlow worker. The order of parts is the order in which other toolchains can start: SavedModel first, then
ONNX, then TFLite; the base's answers on all test rows last. Each part is one job with its own time limit.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.dataset import Dataset, check_labels
from converters.errors import ToolError
from converters.export.base import (
    CALIBRATION,
    CHECK,
    IMAGE_LAYOUT,
    ONNX_MODEL,
    ONNX_OPSET,
    REFERENCE,
    SAVED_MODEL,
    TFLITE_MODEL,
    UNROLLED_MODEL,
    Array,
    Source,
    load_source,
    save_facts,
    write_whole,
)
from converters.support import (
    FACT_CALIBRATION_LABELS,
    FACT_CONSTANT_MATMULS,
    FACT_INTEGER_INPUTS,
    FACT_LOOPS,
    FACT_TRAINED_RANGES,
    FACT_UNROLLED_STEPS,
)
from converters.transfer import read_dataset

if TYPE_CHECKING:
    from converters.export.keras_base import LoadedBase

CHECK_ROWS = 32
SEQUENCE_RANK = 3
MAX_UNROLLED_STEPS = 128
RANDOM_CALIBRATION_ROWS = 64
_LOOPS = {"While", "StatelessWhile"}


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """What the TensorFlow worker is told about the base. Paths are absolute; `dataset` is a folder of `transfer`.

    `tensors`: for a model that compression steps made of a base, the names of the base's inputs and of its outputs. `counts`:
    whether the source gets a ledger.
    """

    base: str
    kind: str
    name: str
    sha256: str
    folder: str
    seed: int
    dataset: str | None
    reference: str | None  # file to write the base's answers on all test rows to; None: not wanted
    tensors: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    counts: bool = False


class Preparation:
    """One base model in the worker's memory; loaded when the first part is asked for."""

    def __init__(self, request: dict[str, Any]) -> None:
        """`request`: the fields of a PrepareRequest, as they come through a pipe."""
        self._request = PrepareRequest(**request)
        self._folder = Path(self._request.folder)
        self._loaded: tuple[LoadedBase, Dataset | None] | None = None

    def make(self, part: str) -> None:
        """Write one part of the source. Raises BaseModelError, DatasetError, ToolError."""
        makers: dict[str, Callable[[], None]] = {
            SAVED_MODEL: self._make_saved_model,
            ONNX_MODEL: self._make_onnx,
            TFLITE_MODEL: self._make_tflite,
            UNROLLED_MODEL: self._make_unrolled,
            REFERENCE: self._make_reference,
        }
        makers[part]()

    def _base(self) -> tuple[LoadedBase, Dataset | None]:
        if self._loaded is None:
            from converters.export.keras_base import load_base

            dataset = None if self._request.dataset is None else read_dataset(Path(self._request.dataset))
            dims = {} if dataset is None else {name: x.shape[1:] for name, x in dataset.inputs.items()}
            if self._request.tensors is None:
                base = load_base(Path(self._request.base), self._request.kind, dims)
            else:
                base = _compressed_base(self._request, dims, self._request.tensors)
            if dataset is not None:
                dataset = dataset.matched_to(base.inputs)
                check_labels(dataset, base.outputs)
            self._loaded = base, dataset
        return self._loaded

    def _make_saved_model(self) -> None:
        from converters.export.keras_base import rows_through

        base, dataset = self._base()
        data, rows, labels = _calibration(base, dataset, self._request.seed)
        check = {name: np.ascontiguousarray(x[:CHECK_ROWS]) for name, x in rows.items()}
        answers = rows_through(base, check)
        bad = [name for name, y in answers.items() if not np.isfinite(y).all()]
        if bad:
            raise ToolError(f"the base model itself gives NaN or infinite values in output {bad[0]}")
        _save_arrays(self._folder / CHECK, {"in": check, "out": answers})
        _save_arrays(self._folder / CALIBRATION, {"in": rows}, labels)
        loops = _write_saved_model(base, self._folder / SAVED_MODEL)
        integers = [spec.name for spec in base.inputs if np.dtype(spec.dtype).kind in "iu"]
        facts = {FACT_CALIBRATION_LABELS: labels is not None, FACT_LOOPS: loops, FACT_INTEGER_INPUTS: integers}
        if base.trained is not None:
            facts[FACT_TRAINED_RANGES] = base.trained
        self._source(base, dataset, data, facts).save()

    def _source(self, base: LoadedBase, dataset: Dataset | None, data: str, facts: dict[str, Any]) -> Source:
        request = self._request
        return Source(
            folder=self._folder,
            name=request.name,
            base_sha256=request.sha256,
            parameters=base.parameters,
            inputs=base.inputs,
            outputs=base.outputs,
            nchw_inputs=tuple(spec.name for spec in base.inputs if spec.layout == IMAGE_LAYOUT),
            data=data,
            dataset_sha256=None if dataset is None else dataset.sha256,
            calibration_sha256=None if dataset is None else dataset.calibration_sha256,
            preprocessing=None if dataset is None else dataset.preprocessing,
            task=None if dataset is None else dataset.task,
            facts=facts,
            notes=base.notes,
            ledger=_ledger(base) if request.counts else {},
        )

    def _make_onnx(self) -> None:
        from converters.export.keras_onnx import constant_matmuls, to_onnx

        base, _ = self._base()
        source = load_source(self._folder)
        model = to_onnx(base, source.nchw_inputs, ONNX_OPSET)
        write_whole(self._folder / ONNX_MODEL, model.SerializeToString())
        save_facts(self._folder, ONNX_MODEL, {FACT_CONSTANT_MATMULS: constant_matmuls(model.graph)})

    def _make_unrolled(self) -> None:
        """For models that loop over time steps: the same without loops, which TensorFlow Lite can calibrate."""
        from converters.export.keras_base import unrolled

        base, _ = self._base()
        steps = max((int(spec.shape[1] or 0) for spec in base.inputs if len(spec.shape) == SEQUENCE_RANK), default=0)
        facts: dict[str, Any] = {}
        if load_source(self._folder).facts[FACT_LOOPS] and base.recurrent and 0 < steps <= MAX_UNROLLED_STEPS:
            folder = self._folder / UNROLLED_MODEL
            with unrolled(base):
                still_loops = _write_saved_model(base, folder)
            if still_loops:
                shutil.rmtree(folder)
            else:
                facts[FACT_UNROLLED_STEPS] = steps
        save_facts(self._folder, UNROLLED_MODEL, facts)

    def _make_tflite(self) -> None:
        from converters.export.tflite import convert_float

        source = load_source(self._folder)
        write_whole(source.tflite, convert_float(source.saved_model))

    def _make_reference(self) -> None:
        from converters.export.keras_base import rows_through

        base, dataset = self._base()
        if dataset is None or self._request.reference is None:
            raise ToolError("there are no test rows to compute the base's answers on")
        _save_arrays(Path(self._request.reference), {"out": rows_through(base, dataset.inputs)})


def _ledger(base: LoadedBase) -> dict[str, Any]:
    """What the model costs before any export; a SavedModel has no layers to count in."""
    if base.model is None:
        return {}
    from converters.compress.record import plain
    from converters.ledger_model import model_ledger

    ledger: dict[str, Any] = plain(model_ledger(base.model, [spec.shape[1:] for spec in base.inputs]))
    return ledger


def _compressed_base(
    request: PrepareRequest, dims: dict[str, tuple[int, ...]], tensors: tuple[tuple[str, ...], tuple[str, ...]]
) -> LoadedBase:
    """What compression steps made of a base, under the tensor names of the base."""
    from converters.compress.loading import register_layers
    from converters.export.keras_base import load_base

    register_layers()
    base = load_base(Path(request.base), request.kind, dims)
    inputs, outputs = (
        tuple(dataclasses.replace(spec, name=name, source=name) for spec, name in zip(specs, names, strict=True))
        for specs, names in ((base.inputs, tensors[0]), (base.outputs, tensors[1]))
    )
    return dataclasses.replace(base, inputs=inputs, outputs=outputs)


def _calibration(base: LoadedBase, dataset: Dataset | None, seed: int) -> tuple[str, dict[str, Array], Array | None]:
    """Where calibration rows come from, the rows in the order of the model's inputs, and their labels."""
    if dataset is None:
        return "random", _random_rows(base, seed), None
    names = [spec.name for spec in base.inputs]
    if dataset.calibration_rows:
        return "dataset", {name: dataset.calibration[name] for name in names}, dataset.calibration_labels
    # No static recipe is asked for (the pipeline saw to that): these rows only serve the numeric check.
    return "dataset", {name: dataset.inputs[name][:CHECK_ROWS] for name in names}, None


def _random_rows(base: LoadedBase, seed: int) -> dict[str, Array]:
    """Seeded normal rows; token ids for integer inputs, pixels for images where the model expects them."""
    generator = np.random.default_rng(seed)
    rows: dict[str, Array] = {}
    for spec in base.inputs:
        shape = (RANDOM_CALIBRATION_ROWS, *(int(dim or 1) for dim in spec.shape[1:]))
        if np.dtype(spec.dtype).kind in "iub":
            rows[spec.name] = generator.integers(0, base.vocabulary, shape).astype(spec.dtype)
        elif base.pixels and spec.layout == IMAGE_LAYOUT:
            rows[spec.name] = generator.uniform(0, 255, shape).astype(spec.dtype)
        else:
            rows[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(spec.dtype)
    return rows


def _save_arrays(path: Path, groups: dict[str, dict[str, Array]], labels: Array | None = None) -> None:
    arrays: dict[str, Any] = {f"{prefix}:{name}": x for prefix, group in groups.items() for name, x in group.items()}
    if labels is not None:
        arrays["labels"] = labels
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(path)


def _write_saved_model(base: LoadedBase, folder: Path) -> bool:
    """A SavedModel of batch 1 whose weights are constants; returns whether its graph loops.

    Frozen here once, it spares every later conversion the restoring and freezing of variables, and the converters whose
    own freezing of Keras 3 graphs goes wrong.
    """
    import tensorflow as tf

    from converters.export.keras_base import frozen

    serve, operations = frozen(base, batch=1)
    # Gradients of swish and the like are Python closures over the unfrozen graph; inference needs none.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve}, options=options)
    return bool(operations & _LOOPS)
