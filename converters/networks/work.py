"""Builds, trains and saves one compact network, in a worker process: the other end of `converters.networks.making`.

Trained like any compression step, by `converters.compress.training`: stopped by the validation rows, resumed after a kill.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from converters.compress.chain import METRICS, training_data
from converters.compress.context import Context, TrainingData
from converters.compress.loading import save_step_model
from converters.errors import ToolError
from converters.export.base import write_whole
from converters.networks.building import build
from converters.networks.making import CHECKPOINTS, NetworkJob, NetworkReport, report_to_json


def run(request: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Make the network told by the fields of a `NetworkJob`. Raises ConversionInputError, DatasetError, ToolError, OSError."""
    import keras
    import tensorflow as tf

    job = NetworkJob(**request)
    keras.backend.clear_session()
    tf.config.experimental.enable_op_determinism()
    model = build(job.name, job.input_shape, job.classes, job.width, job.resolution, seed=job.seed)
    report = _described(model, job)
    if job.epochs:
        report = _trained(model, job, report, say)
    # Whole or not at all, in the place that the user named.
    draft = Path(job.folder) / "model.keras"
    save_step_model(model, draft)
    draft.replace(job.out)
    report = dataclasses.replace(report, size_bytes=Path(job.out).stat().st_size)
    write_whole(Path(job.report), report_to_json(report).encode())


def _described(model: Any, job: NetworkJob) -> NetworkReport:
    from converters.ledger_macs import count_macs

    return NetworkReport(
        name=job.name,
        path=job.out,
        input_shape=tuple(job.input_shape),
        classes=job.classes,
        width=job.width,
        resolution=job.resolution,
        parameters=int(model.count_params()),
        macs=count_macs(model).total,
        last_map=last_map(model),
        size_bytes=0,
    )


def last_map(model: Any) -> tuple[int, int]:
    """Height and width of the feature map that the last pooling takes its mean of."""
    from keras import layers

    pools = [layer for layer in model.layers if type(layer) is layers.GlobalAveragePooling2D and not layer.keepdims]
    height, breadth = pools[-1].input.shape[1:3]
    return int(height), int(breadth)


def _trained(model: Any, job: NetworkJob, report: NetworkReport, say: Callable[[str], None]) -> NetworkReport:
    """The model trained in place, and what became of it."""
    from converters.compress.distill import FRESH_LEARNING_RATE
    from converters.compress.training import fit

    folder = Path(job.folder) / CHECKPOINTS
    folder.mkdir(exist_ok=True)
    data = _data(model, job)
    context = Context(data, fit, lambda: model, folder, job.seed, say=say)
    rate = FRESH_LEARNING_RATE if job.learning_rate is None else job.learning_rate
    if job.precision_policy is None:
        history = fit(model, context, epochs=job.epochs, learning_rate=rate)
    else:
        from converters.compress.precision import under_policy

        history = under_policy(fit, job.precision_policy)(model, context, epochs=job.epochs, learning_rate=rate)
    return dataclasses.replace(
        report,
        epochs=history.epochs,
        stopped_early=history.stopped_early,
        resumed=history.resumed,
        metric=METRICS[data.task],
        validation_score=max(history.scores, default=None),
        train_rows=data.train.count,
        validation_rows=data.validation.count,
        seconds=history.seconds,
    )


def _data(model: Any, job: NetworkJob) -> TrainingData:
    from converters.export.keras_base import keras_tensors
    from converters.transfer import read_dataset

    stored = None if job.data is None else read_dataset(Path(job.data))
    data = training_data(stored, *keras_tensors(Path(job.out), model, {}))
    if data is None:
        raise ToolError("there are no labelled rows to train on", remedy="add x_train and y_train to the data")
    return data
