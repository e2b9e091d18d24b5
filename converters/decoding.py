"""The model that entropy-coded weights decode to, as a file: finds the two files, checks them, and asks a worker process for the model.

Called by `harness decode`; `converters.compress.entropy` wrote the files and is the other end. Nothing in them is trusted: the weights are
read and checked here, without any toolchain, and what they take in memory bounds what the worker may take for the model.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import entropy_file
from converters.compress.entropy import ARCHITECTURE, WEIGHTS
from converters.errors import ConversionInputError, ToolError
from converters.variant import MANIFEST_NAME, load_variant
from converters.worker_process import Limits, WorkerLostError, WorkerProcess

MAX_ARCHITECTURE_BYTES = 64 << 20
TIMEOUT_S = 900.0
# Of the worker: TensorFlow alone, and how often the weights may be in memory while a model is built and saved.
_TOOLCHAIN_BYTES, _COPIES = 2 << 30, 8
_SUFFIX = ".keras"
_WEIGHTS_NAME = re.compile(rf"(?:(\d+)_)?{re.escape(WEIGHTS)}")


@dataclass(frozen=True, slots=True)
class CodedModel:
    """The two files that make a model. `variant`: the name of the variant that they lie beside, None for files alone."""

    weights: Path
    architecture: Path
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """What was made of what. `weights_bytes`: of all tensors; `size_entropy_bytes`: of the file that they came from;
    `decode_seconds`: of reading and checking that; `size_bytes`: of the model's file at `path`."""

    path: str
    weights: str
    architecture: str
    variant: str | None
    tensors: int
    parameters: int
    weights_bytes: int
    size_entropy_bytes: int
    ratio: float
    decode_seconds: float
    size_bytes: int


def find_coded(source: Path, architecture: Path | None = None) -> CodedModel:
    """The files that `source` stands for: a variant's folder, a folder with both files, or the weights with the architecture beside
    them (or at `architecture`). Of several codings in one variant, the last.

    Raises ConversionInputError when there are none, ManifestError when a variant's files are not what its manifest says.
    """
    if not source.exists():
        raise ConversionInputError(
            f"{source}: no such file or folder", remedy="give a variant's folder or its weights.huf"
        )
    if source.is_dir() and (source / MANIFEST_NAME).is_file():
        variant = load_variant(source)
        found = [match for match in map(_WEIGHTS_NAME.fullmatch, variant.manifest.extras) if match]
        if not found:
            raise ConversionInputError(
                f"{source}: this variant has no entropy-coded weights",
                remedy="convert with the step entropy at the end of the chain, e.g. 'prune(0.9) > cluster(16) > entropy'",
            )
        weights = source / max(found, key=lambda match: int(match[1] or 0))[0]
        coded = CodedModel(weights, architecture or _beside(weights), variant.name)
    else:
        weights = source / WEIGHTS if source.is_dir() else source
        coded = CodedModel(weights, architecture or _beside(weights))
    if not coded.weights.is_file():
        raise ConversionInputError(f"{source}: there is no {WEIGHTS} in it{_near(source)}")
    if not coded.architecture.is_file():
        raise ConversionInputError(
            f"{coded.architecture}: no such file", remedy=f"give the {ARCHITECTURE} that was written with the weights"
        )
    return coded


def _beside(weights: Path) -> Path:
    """The architecture that the step wrote with these weights: a number before the name stands before both."""
    match = _WEIGHTS_NAME.fullmatch(weights.name)
    number = match[1] if match else None
    return weights.with_name(ARCHITECTURE if number is None else f"{number}_{ARCHITECTURE}")


def _near(folder: Path) -> str:
    """Where in the folder there are some."""
    names = sorted({path.parent.name for path in folder.glob(f"*/*{WEIGHTS}")}) if folder.is_dir() else []
    return f"; there is in {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" if names else ""  # noqa: PLR2004


def decode(coded: CodedModel, out: Path, *, limit_bytes: int = entropy_file.LIMIT_BYTES) -> DecodeReport:
    """Write the .keras model that the files decode to, whole or not at all; a file at `out` is replaced. The same files give the same bytes.

    `limit_bytes`: most that the weights may unfold to. Raises ConversionInputError for files that are damaged, hostile, or do not
    belong together, and where `out` cannot be written; ToolError when the worker fails.
    """
    target = out.expanduser().resolve()
    if target.suffix != _SUFFIX:
        raise ConversionInputError(f"{out}: a model is saved as a {_SUFFIX} file")
    if target.is_dir():
        raise ConversionInputError(f"{out}: there is a folder of that name")
    try:
        began = time.perf_counter()
        arrays = entropy_file.read(coded.weights, limit_bytes=limit_bytes)
        seconds = time.perf_counter() - began
        _check_architecture(coded.architecture)
    except OSError as error:
        raise ConversionInputError(f"{error.filename}: {error.strerror}") from error
    except ConversionInputError as error:
        remedy = f"copy both files anew from where they were made; weights of more than {limit_bytes} bytes want a higher --limit"
        raise ConversionInputError(error.message, remedy=remedy) from error
    weights_bytes = sum(array.nbytes for array in arrays.values())
    parameters = sum(math.prod(array.shape) for array in arrays.values())
    tensors = len(arrays)
    del arrays  # the worker reads them again
    _make(coded, target, weights_bytes)
    size = coded.weights.stat().st_size
    return DecodeReport(
        path=str(out),
        weights=str(coded.weights),
        architecture=str(coded.architecture),
        variant=coded.variant,
        tensors=tensors,
        parameters=parameters,
        weights_bytes=weights_bytes,
        size_entropy_bytes=size,
        ratio=weights_bytes / size,
        decode_seconds=seconds,
        size_bytes=target.stat().st_size,
    )


def _check_architecture(path: Path) -> None:
    """Raises ConversionInputError for what no step wrote, before a toolchain sees it."""
    if path.stat().st_size > MAX_ARCHITECTURE_BYTES:
        raise ConversionInputError(f"{path}: larger than {MAX_ARCHITECTURE_BYTES >> 20} MiB: no architecture is")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConversionInputError(f"{path}: not JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(told, dict):
        raise ConversionInputError(f"{path}: not a model's architecture")


def _make(coded: CodedModel, out: Path, weights_bytes: int) -> None:
    """Let a worker build the model and save it, in a folder of its own beside `out`."""
    from converters.export.base import WORKSHOP

    folder = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConversionInputError(f"{out}: cannot be written: {error.strerror}") from error
    draft = folder / "model.keras"
    request = {"weights": coded.weights, "architecture": coded.architecture, "out": draft}
    config = {"compressor": "converters.compress.entropy:run", "preimports": list(WORKSHOP.compressor_preimports)}
    limits = Limits(TIMEOUT_S, _TOOLCHAIN_BYTES + _COPIES * weights_bytes)
    worker = WorkerProcess("decode", config, folder, limits, os.cpu_count() or 1, threading.Event())
    try:
        _confirmed(
            worker.ask({"do": "compress", "request": {key: str(path.resolve()) for key, path in request.items()}})
        )
        worker.close()
        draft.replace(out)
    except WorkerLostError as error:
        if error.cause != "OutOfMemory":
            raise
        raise ConversionInputError(
            f"{coded.architecture}: the model that it describes takes more memory than its {weights_bytes} bytes of weights explain"
        ) from error
    finally:
        worker.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _confirmed(answer: Mapping[str, Any]) -> None:
    if not answer["ok"]:
        kind = ConversionInputError if answer["kind"] == "input" else ToolError
        raise kind(answer["message"], remedy=answer["remedy"])
