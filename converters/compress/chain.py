"""One step of a chain, in the compression worker: load the model, let the step do its work, judge, save, write it down.

The pipeline (`converters.compression`) asks for the steps of a chain one after the other, so each has its own limits, its own
place in the cache and its own folder, in which it finds its checkpoints again when it was killed.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.context import Context, Fit, Rows, StepResult, TrainingData
from converters.compress.loading import load_step_model, save_step_model
from converters.compress.record import KEEP, MODEL, RECORD, WORK, StepRecord, plain, read_record
from converters.dataset import Dataset, check_labels
from converters.errors import ToolError
from converters.export.base import write_whole
from converters.ledger_model import model_ledger
from converters.steps import Step, make_step
from converters.transfer import read_dataset
from converters.variant import TensorSpec

METRICS = {"classification": "accuracy", "regression": "minus_mean_squared_error"}
NO_ROWS = "the data hold no labelled training rows to validate by"


@dataclass(frozen=True, slots=True)
class StepJob:
    """What the worker is told. Paths are absolute.

    `base`: the base model's file. `paths`: where the files lie that the step's parameters name. `before`: folder of the step before, None for the first. `earlier`: names of the steps
    before. `unrounded`: the model's file before the first step that rounds, None when none has. `folder`: of this step; results are written there, its `work` folder outlives a kill. `data`: a folder of
    `converters.transfer`. `function`: the user's own training function, `file.py:name`. `policy`: Keras's dtype policy
    for training.
    """

    base: str
    step: dict[str, Any]
    paths: dict[str, str]
    before: str | None
    earlier: tuple[str, ...]
    folder: str
    seed: int
    data: str | None = None
    function: str | None = None
    policy: str | None = None
    unrounded: str | None = None


def run_step(request: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Do one step as told by the fields of a `StepJob`. Raises ToolError, RefusedError, BaseModelError, DatasetError."""
    job = StepJob(**request)
    given = {key: value for key, value in job.step.items() if key != "step"}
    _Running(job, make_step(job.step["step"], given), say).run()


def training_data(
    stored: Dataset | None, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> TrainingData | None:
    """The rows under the model's names, in the order of its inputs; None without training rows. Raises DatasetError."""
    if stored is None or stored.training is None:
        return None
    matched = stored.matched_to(inputs)
    check_labels(matched, outputs)
    training = matched.training
    assert training is not None  # noqa: S101  it was there before
    names = [spec.name for spec in inputs]

    def rows(arrays: Mapping[str, Any], labels: Any) -> Rows:
        return Rows(tuple(arrays[name] for name in names), labels)

    return TrainingData(
        train=rows(training.inputs, training.labels),
        validation=rows(training.validation, training.validation_labels),
        calibration=rows(matched.calibration, matched.calibration_labels),
        task=matched.task,
        sha256=training.sha256,
    )


def calibration_rows(stored: Dataset | None, inputs: tuple[TensorSpec, ...]) -> Rows | None:
    """The rows to calibrate by, likewise; None when there are none. They may have no labels."""
    if stored is None or not stored.calibration_rows:
        return None
    matched = stored.matched_to(inputs)
    return Rows(tuple(matched.calibration[spec.name] for spec in inputs), matched.calibration_labels)


class _Running:
    """One step at work."""

    def __init__(self, job: StepJob, step: Step, say: Callable[[str], None]) -> None:
        self._job, self._step, self._say = job, step, say
        self._folder = Path(job.folder)
        self._before = None if job.before is None else read_record(Path(job.before))

    def run(self) -> None:
        """Everything, from the model before to the record."""
        import keras
        import tensorflow as tf

        from converters.export.keras_base import keras_tensors

        # Names that Keras makes up and what random layers draw must not depend on what this process did before.
        keras.backend.clear_session()
        keras.utils.set_random_seed(self._job.seed % 2**32)
        tf.config.experimental.enable_op_determinism()
        base = self._load_base()
        inputs, outputs = keras_tensors(Path(self._job.base), base, self._dims())
        data = self._data(inputs, outputs)
        model = base if self._job.before is None else load_step_model(Path(self._job.before) / MODEL)
        before = self._score(model, data) if self._before is None else self._before.score_after
        context = self._context(data, calibration_rows(self._stored(), inputs))
        started = time.monotonic()
        result = self._apply(model, context)
        seconds = time.monotonic() - started
        self._check(base, result.model)
        save_step_model(result.model, self._folder / MODEL)
        # From here on the model is what was saved: that is what will be exported.
        saved = load_step_model(self._folder / MODEL)
        self._keep(context, result)
        after = self._score(saved, data)
        record = StepRecord(
            step=self._step.name,
            text=self._step.text,
            parameters=self._step.values,
            figures=plain(dict(result.figures)),
            left_alone={str(name): str(why) for name, why in result.left_alone.items()},
            seconds=seconds,
            metric=None if after is None or data is None else METRICS[data.task],
            score_before=before,
            score_after=after,
            score_missing=NO_ROWS if after is None else None,
            ledger=plain(model_ledger(saved, [spec.shape[1:] for spec in inputs])),
            seed=self._job.seed,
            preserve=tuple(sorted(context.preserve | result.preserve)),
            files=tuple(result.files),
            inputs=tuple(spec.name for spec in inputs),
            outputs=tuple(spec.name for spec in outputs),
        )
        write_whole(self._folder / RECORD, record.to_json().encode())

    def _load_base(self) -> Any:
        from converters.export.keras_base import load_keras

        return load_keras(Path(self._job.base))

    def _stored(self) -> Dataset | None:
        return None if self._job.data is None else read_dataset(Path(self._job.data))

    def _dims(self) -> dict[str, tuple[int, ...]]:
        stored = self._stored()
        return {} if stored is None else {name: x.shape[1:] for name, x in stored.inputs.items()}

    def _data(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> TrainingData | None:
        return training_data(self._stored(), inputs, outputs)

    def _score(self, model: Any, data: TrainingData | None) -> float | None:
        from converters.compress.objective import score

        return None if data is None else float(score(model, data.validation, data.task))

    def _unrounded(self) -> Any:
        path = self._job.unrounded
        return self._load_base() if path is None or path == self._job.base else load_step_model(Path(path))

    def _context(self, data: TrainingData | None, calibration: Rows | None) -> Context:
        def base() -> Any:
            model = self._load_base()
            model.trainable = False
            return model

        work = self._folder / WORK
        work.mkdir(exist_ok=True)
        return Context(
            data=data,
            fit=self._fit(),
            base=base,
            folder=work,
            seed=self._job.seed,
            preserve=frozenset() if self._before is None else frozenset(self._before.preserve),
            earlier=self._job.earlier,
            say=self._say,
            calibration=calibration,
            unrounded=None if self._job.unrounded is None else self._unrounded,
        )

    def _fit(self) -> Fit:
        if self._job.function is not None:
            from converters.compress.own_training import own_fit

            # What the user's module imports from beside it. This process lives for compression alone.
            beside = str(Path(self._job.function.rpartition(":")[0]).parent)
            if beside not in sys.path:
                sys.path.append(beside)
            return own_fit(self._job.function)
        from converters.compress.training import fit

        if self._job.policy is None:
            return fit
        from converters.compress.precision import under_policy

        return under_policy(fit, self._job.policy)

    def _apply(self, model: Any, context: Context) -> StepResult:
        module, _, name = self._step.info.target.partition(":")
        apply = getattr(importlib.import_module(module), name)
        result = apply(model, self._step.values | self._job.paths, context)
        if not isinstance(result, StepResult):
            raise ToolError(f"{self._step.name} gave {type(result).__name__} instead of a result")
        return result

    def _check(self, base: Any, model: Any) -> None:
        """A step may change everything but what goes in and comes out. Raises ToolError."""
        for what, old, new in (("inputs", base.inputs, model.inputs), ("outputs", base.outputs, model.outputs)):
            shapes = [[(tuple(tensor.shape), _kind(tensor.dtype)) for tensor in tensors] for tensors in (old, new)]
            if shapes[0] != shapes[1]:
                raise ToolError(f"{self._step.name} changed the model's {what} from {shapes[0]} to {shapes[1]}")
        for variable in model.variables:
            # numpy counts bfloat16 among the kinds it does not know.
            values = np.asarray(variable.value)
            if _kind(variable.dtype) == "float" and not np.isfinite(values.astype(np.float32)).all():
                raise ToolError(
                    f"{self._step.text}: the weights {variable.path} are NaN or infinite afterwards",
                    remedy="train with a smaller learning_rate",
                )

    def _keep(self, context: Context, result: StepResult) -> None:
        """Bring the files that are shipped to their place. Raises ToolError when one is missing."""
        target = self._folder / KEEP
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name in result.files:
            source = context.folder / KEEP / name
            if Path(name).name != name or not source.is_file():
                raise ToolError(f"{self._step.name} ships {name!r}, which is no file in its {KEEP} folder")
            shutil.copyfile(source, target / name)


def _kind(dtype: str) -> str:
    """A dtype, with all real numbers as one: in which precision a model computes is a step's to change."""
    return "float" if "float" in dtype else dtype
