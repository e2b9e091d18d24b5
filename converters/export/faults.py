"""Fault drills: a workshop whose toolchains crash, hang, eat memory or babble on command, and otherwise do almost nothing.

It serves the tests of the pipeline, and anyone who wants to see what a failed conversion looks like, without TensorFlow::

    base = write_drill(folder / "drill.keras", {"static_wi8_ai8": "sigkill"})
    convert(ConversionRequest(base, recipes, out), workshop=drill_workshop())

A drill's base is a .keras archive whose config.json maps recipe names (or parts such as "model.onnx", or compression steps such
as "prune(0.5)") to faults.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.record import KEEP, MODEL, RECORD, StepRecord
from converters.errors import BaseModelError, ToolError
from converters.export.base import (
    CALIBRATION,
    CHECK,
    ONNX_MODEL,
    REFERENCE,
    SAVED_MODEL,
    TFLITE_MODEL,
    TOOLCHAINS,
    Exported,
    Source,
    ToolchainInfo,
    Workshop,
)
from converters.recipe import Recipe
from converters.steps import make_step
from converters.variant import Agreement, Signature, TensorSpec

HANG_S = 3600.0
_CHUNK_BYTES = 16 * 2**20


def write_drill(path: Path, faults: Mapping[str, str]) -> Path:
    """Write a drill's base model; `faults` maps recipe or part names to names in `FAULTS`."""
    unknown = set(faults.values()) - set(FAULTS)
    if unknown:
        raise ValueError(f"unknown fault {min(unknown)!r}; there are {', '.join(FAULTS)}")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("config.json"), json.dumps({"faults": dict(faults)}, sort_keys=True))
        archive.writestr(zipfile.ZipInfo("metadata.json"), "{}")
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), b"")
    return path


def drill_workshop() -> Workshop:
    """The usual toolchains' names and needs, with this module's doings; only numpy must be installed."""
    here = __name__
    toolchains = {
        name: ToolchainInfo(name, f"{here}:FaultyToolchain", info.needs, (), ("numpy",))
        for name, info in TOOLCHAINS.items()
    }
    return Workshop(
        toolchains,
        f"{here}:FaultyPreparation",
        f"{here}:no_agreement",
        "tflite",
        ("numpy",),
        ledger=f"{here}:no_ledger",
        compressor=f"{here}:drill_step",
        compressor_preimports=(),
        compression_packages=("numpy",),
    )


def _sigkill() -> None:
    print("drill: about to be killed", file=sys.stderr, flush=True)  # noqa: T201  stands for a tool's chatter
    os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    time.sleep(HANG_S)


def _eat_memory() -> None:
    """Take and touch memory until somebody stops it; bounded all the same."""
    hoard = []
    for _ in range(256):
        hoard.append(np.ones(_CHUNK_BYTES // 8))
        time.sleep(0.01)
    raise ToolError(f"nobody stopped the drill at {len(hoard) * _CHUNK_BYTES / 2**20:.0f} MiB")


def _garbage() -> None:
    """Write nonsense where answers go, as a tool that closes and reuses descriptors might."""
    result_fd = json.loads(sys.argv[1])["result_fd"]
    os.write(result_fd, b"\x00\xffnot an answer\n")
    time.sleep(HANG_S)


def _noise() -> None:
    """Chatter on stdout and stderr must not disturb anything."""
    print('{"ok": false}\n' * 50, flush=True)  # noqa: T201
    print("error: only noise\n" * 50, file=sys.stderr, flush=True)  # noqa: T201


def _fail() -> None:
    raise ToolError("drill: the tool refuses\nthis model", remedy="run no drill")


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.tflite")


def _exit() -> None:
    os._exit(7)


def _wrong_input() -> None:
    raise BaseModelError("drill: the base model is of no use", remedy="run no drill")


# "once": is killed the first time, and goes well when it is begun again (compression steps only).
FAULTS: dict[str, Callable[[], None]] = {
    "sigkill": _sigkill,
    "segfault": _segfault,
    "hang": _hang,
    "eat_memory": _eat_memory,
    "garbage": _garbage,
    "noise": _noise,
    "fail": _fail,
    "disk_full": _disk_full,
    "exit": _exit,
    "wrong_input": _wrong_input,
    "once": _sigkill,
}


class FaultyPreparation:
    """Stands for `converters.export.prepare.Preparation`: writes a source of empty parts, or fails as told."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._request = request
        self._folder = Path(request["folder"])
        with zipfile.ZipFile(request["base"]) as archive:
            self._faults: dict[str, str] = json.loads(archive.read("config.json"))["faults"]

    def make(self, part: str) -> None:
        """Write one part."""
        if part in self._faults:
            FAULTS[self._faults[part]]()
        if part == SAVED_MODEL:
            self._make_source()
        elif part == REFERENCE:
            _save(Path(self._request["reference"]), {"out:y": np.zeros((2, 1), np.float32)})
        elif part in (ONNX_MODEL, TFLITE_MODEL):
            (self._folder / part).write_bytes(b"drill")

    def _make_source(self) -> None:
        (self._folder / SAVED_MODEL).mkdir(exist_ok=True)
        (self._folder / SAVED_MODEL / "saved_model.pb").write_bytes(b"drill")
        x = np.zeros((2, 1), np.float32)
        _save(self._folder / CHECK, {"in:x": x, "out:y": x})
        _save(self._folder / CALIBRATION, {"in:x": x})
        Source(
            folder=self._folder,
            name=self._request["name"],
            base_sha256=self._request["sha256"],
            parameters=1,
            inputs=(TensorSpec("x", (None, 1), "float32", "x"),),
            outputs=(TensorSpec("y", (None, 1), "float32", "y"),),
            facts={"faults": self._faults},
        ).save()


def drill_step(request: dict[str, Any], say: Callable[[str], None]) -> None:
    """Stands for `converters.compress.chain.run_step`: the model stays as it is, or the step fails as told.

    Its `work` folder counts how often the step was begun; it ships a file `NAME.txt` that says so.
    """
    given = {key: value for key, value in request["step"].items() if key != "step"}
    step = make_step(request["step"]["step"], given)
    folder, before = Path(request["folder"]), request["before"]
    model = Path(request["base"]) if before is None else Path(before) / MODEL
    begun = folder / "work" / "begun"
    begun.parent.mkdir(exist_ok=True)
    count = int(begun.read_text(encoding="utf-8")) + 1 if begun.exists() else 1
    begun.write_text(str(count), encoding="utf-8")
    say(f"begun {count} times")
    with zipfile.ZipFile(model) as archive:
        fault = json.loads(archive.read("config.json"))["faults"].get(step.text)
    if fault is not None and (fault != "once" or count == 1):
        FAULTS[fault]()
    shutil.copyfile(model, folder / MODEL)
    (folder / KEEP).mkdir(exist_ok=True)
    (folder / KEEP / f"{step.name}.txt").write_text(f"{count} {os.getpid()}", encoding="utf-8")
    record = StepRecord(
        step.name,
        step.text,
        step.values,
        figures={"begun": count},
        files=(f"{step.name}.txt",),
        seed=request["seed"],
        inputs=("x",),
        outputs=("y",),
    )
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")


def _save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


class FaultyToolchain:
    """Stands for a toolchain: writes a few bytes, or fails as the source's facts tell."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._seed = seed

    def versions(self) -> dict[str, str]:
        """No real tool is at work."""
        return {"drill": "1"}

    def export(self, recipe: Recipe, folder: Path) -> Exported:
        """Write `model.bin` holding the recipe's name and the number of the process."""
        fault = self._source.facts["faults"].get(recipe.name)
        (folder / "model.bin").write_text(f"{recipe.key} {os.getpid()}", encoding="utf-8")
        if fault is not None:
            FAULTS[fault]()
        return Exported(
            "model.bin", ("model.bin",), Signature(self._source.inputs, self._source.outputs), {"float32": 1}
        )


def no_ledger(artifact: Path, _format: str) -> dict[str, Any]:
    """Stands for the counting of an artifact's weights."""
    return {"parameters": 1, "size_entropy_bytes": artifact.stat().st_size}


def no_agreement(_artifact: Path, _format: str, _signature: Signature, _source: Source) -> Agreement:
    """Stands for the numeric check."""
    return Agreement(
        rows=2, max_abs_error=0.0, mean_abs_error=0.0, spread=0.0, relative_error=0.0, argmax_agreement=None
    )
