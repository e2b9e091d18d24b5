"""A compact network as a file: asks a worker process to build it and, where data are given, to train it.

Called by `harness networks`; `converters.networks.work` is the other end. No toolchain is imported here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.dataset import Dataset
from converters.errors import ConversionInputError, ToolError
from converters.networks.catalogue import network
from converters.worker_process import Limits, WorkerProcess

CHECKPOINTS = "checkpoints"
_REPORT = "report.json"
_SUFFIX = ".keras"
_IMAGE_RANKS = (2, 3)
DEFAULT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """A network of the catalogue into the file `out` (.keras). `input_shape` (height, width, channels) and `classes`: None for what
    the data have. `epochs` 0: the weights stay as they begin. `learning_rate`: the first one, None for 3e-3. `timeout_s`: of it all."""

    name: str
    out: Path
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None
    width: float = 1.0
    resolution: float = 1.0
    dataset: Dataset | None = None
    epochs: int = 0
    learning_rate: float | None = None
    precision_policy: str | None = None
    seed: int = 0
    timeout_s: float = DEFAULT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class NetworkJob:
    """What the worker is told. Paths are absolute. `folder`: outlives a kill. `report`: where a `NetworkReport` is written."""

    name: str
    out: str
    input_shape: list[int]
    classes: int
    width: float
    resolution: float
    epochs: int
    learning_rate: float | None
    precision_policy: str | None
    seed: int
    data: str | None
    folder: str
    report: str


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """What was made. `macs`: products for one row. `last_map`: height and width of the last feature map. The rest is None without a
    training: `validation_score` is the best on the validation rows, of `metric`; `resumed`: the epoch after which a killed training went on."""

    name: str
    path: str
    input_shape: tuple[int, ...]
    classes: int
    width: float
    resolution: float
    parameters: int
    macs: int | None
    last_map: tuple[int, int]
    size_bytes: int
    epochs: int = 0
    stopped_early: bool = False
    resumed: int | None = None
    metric: str | None = None
    validation_score: float | None = None
    train_rows: int | None = None
    validation_rows: int | None = None
    seconds: float | None = None


def report_to_json(report: NetworkReport) -> str:
    """As the worker writes it."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def make_network(request: NetworkRequest, say: Callable[[str], None]) -> NetworkReport:
    """Build, train and save. A training that was killed goes on when the same is asked again.

    Raises ConversionInputError when a name, a number or the data are wrong, ToolError when the worker fails, OSError when `out`
    cannot be written, KeyboardInterrupt after the worker is gone.
    """
    from converters.export.base import WORKSHOP

    job = _job(request)
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if request.dataset is not None and job.data is not None:
            from converters.transfer import write_dataset

            write_dataset(request.dataset, Path(job.data), training=True)
        config = {"compressor": "converters.networks.work:run", "preimports": list(WORKSHOP.compressor_preimports)}
        limits, threads = Limits(request.timeout_s, None), os.cpu_count() or 1
        worker = WorkerProcess("network", config, folder, limits, threads, threading.Event(), say)
        try:
            answer = worker.ask({"do": "compress", "request": dataclasses.asdict(job)})
        except BaseException:
            # Left to itself it would train on, and write a model that nobody waits for.
            worker.kill()
            raise
        worker.close()
        if not answer["ok"]:
            raise _error(answer)
        values = json.loads(Path(job.report).read_text(encoding="utf-8"))
    finally:
        if job.data is not None:
            shutil.rmtree(job.data, ignore_errors=True)
    shutil.rmtree(folder)
    tuples = {key: tuple(values[key]) for key in ("input_shape", "last_map")}
    return NetworkReport(**values | tuples)


def _job(request: NetworkRequest) -> NetworkJob:
    """The request, checked, with what the data say filled in."""
    network(request.name)
    out = request.out.expanduser().resolve()
    if out.suffix != _SUFFIX:
        raise ConversionInputError(f"{request.out}: a network is saved as a {_SUFFIX} file")
    if request.epochs < 0:
        raise ConversionInputError(f"epochs is {request.epochs}, but must be 0 or more")
    if request.epochs and (request.dataset is None or request.dataset.training is None):
        raise ConversionInputError(
            "training needs labelled rows", remedy="give data with x_train and y_train, or leave out the epochs"
        )
    shape, classes = request.input_shape, request.classes
    if request.dataset is not None:
        shape = _image_shape(request.dataset) if shape is None else shape
        classes = _classes(request.dataset) if classes is None else classes
    if shape is None or classes is None:
        raise ConversionInputError(
            "the size of the images and the number of classes are not known",
            remedy="give them, for example --input 28x28x1 --classes 10, or data that have both",
        )
    folder = out.parent / f".{out.name}.{_digest(request)}"
    return NetworkJob(
        name=request.name,
        out=str(out),
        input_shape=list(shape),
        classes=classes,
        width=request.width,
        resolution=request.resolution,
        epochs=request.epochs,
        learning_rate=request.learning_rate,
        precision_policy=request.precision_policy,
        seed=request.seed,
        data=str(folder / f"data-{uuid.uuid4().hex}") if request.epochs else None,
        folder=str(folder),
        report=str(folder / _REPORT),
    )


def _digest(request: NetworkRequest) -> str:
    """Of all that decides a training, so that only the same one goes on where another was cut off."""
    values = [getattr(request, field.name) for field in dataclasses.fields(request) if field.name != "dataset"]
    data = None if request.dataset is None or request.dataset.training is None else request.dataset.training.sha256
    return hashlib.sha256(repr([*values, data]).encode()).hexdigest()[:8]


def _image_shape(data: Dataset) -> tuple[int, ...]:
    shape = tuple(int(side) for side in next(iter(data.inputs.values())).shape[1:])
    if len(data.inputs) > 1 or len(shape) not in _IMAGE_RANKS:
        raise ConversionInputError(f"the rows of the data, {shape}, are no images", remedy="give --input")
    return shape if len(shape) == max(_IMAGE_RANKS) else (*shape, 1)


def _classes(data: Dataset) -> int:
    if data.task != "classification" or data.labels is None:
        raise ConversionInputError("the labels of the data are no classes", remedy="give --classes")
    training = () if data.training is None else data.training.labels
    return max(len(data.class_names), *(int(max(labels)) + 1 for labels in (data.labels, training) if len(labels)))


def _error(answer: dict[str, Any]) -> Exception:
    """The worker's answer as the error that it stands for."""
    kind = ConversionInputError if answer["kind"] == "input" else ToolError
    return kind(answer["message"], remedy=answer["remedy"])
