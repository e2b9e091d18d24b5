"""An engine that misbehaves on purpose, for testing whatever stands around the agent; a job must name it: engine "fault".

The artifact is a small JSON file (or the job's `options`, which it overrides), so that one run may mix good and bad models:

    mode        "null"    every invocation returns at once (the default)
                "slow"    burns `seconds` of CPU per invocation (`sleep` instead of burning waits off the CPU)
                "error"   raises;  "crash"  dies by SIGSEGV;  "hang"  never returns and, like native code, ignores SIGTERM
                "memory"  touches `bytes` and gives them back at once: a spike
    at          "load", "first", "invoke" (the default): when the fault strikes
    after       with "invoke": how many invocations go well before (default 0)
    seconds, growth   per invocation; after i invocations it takes seconds * (1 + growth * i)
    sleep       seconds of waiting added to each invocation
    noise       text written to file descriptor 1 while loading, as native code does
    bytes       for "memory"; `keep` (default false) holds them until the process ends
    mixes_rows  (default false): in a batch, the outputs stand in the wrong order
    shape       of the one float32 input "x" (default [null, 4]); the one output "y" is its rows flattened

Outputs are right in every mode but that, so accuracy can be checked against the data itself.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..protocol import Tensor
from .base import LoadOptions


def _strike(mode: str, settings: dict[str, Any], kept: list[mmap.mmap]) -> None:
    """Do the harm that `mode` names."""
    if mode == "error":
        raise RuntimeError(str(settings.get("message", "injected error")))
    if mode == "crash":
        signal.raise_signal(signal.SIGSEGV)
    if mode == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        while True:
            time.sleep(3600)
    if mode == "memory":
        size = int(settings["bytes"])
        memory = mmap.mmap(-1, size)
        for place in range(0, size, mmap.PAGESIZE):
            memory[place] = 1
        if settings.get("keep", False):
            kept.append(memory)
        else:
            memory.close()


class FaultSession:
    """A model that copies its input to its output, and strikes when told to."""

    def __init__(self, settings: dict[str, Any], options: LoadOptions) -> None:
        self._settings = settings
        self._mode = str(settings.get("mode", "null"))
        at = str(settings.get("at", "invoke"))
        self._strikes_after = int(settings.get("after", 0)) if at == "invoke" else 0
        self._harmful = self._mode in ("error", "crash", "hang", "memory") and at in ("invoke", "first")
        self._once = at == "first"
        self._count = 0
        self._kept: list[mmap.mmap] = []
        shape = tuple(settings.get("shape", (None, 4)))
        free = Tensor("x", shape, "float32")
        self._input = Tensor("x", options.shapes([free])[0], "float32")
        self._values: NDArray[Any] = np.zeros(1, np.float32)
        self.cpu_clock = "thread"
        self.invoke = [].clear if self._mode == "null" else self._invoke
        os.write(1, str(settings.get("noise", "")).encode())
        if at == "load":
            _strike(self._mode, settings, self._kept)

    def _invoke(self) -> None:
        index = self._count
        self._count += 1
        settings = self._settings
        seconds = float(settings.get("seconds", 0.0)) * (1 + float(settings.get("growth", 0.0)) * index)
        stop = time.perf_counter_ns() + int(seconds * 1e9)
        while time.perf_counter_ns() < stop:
            pass
        if "sleep" in settings:
            time.sleep(float(settings["sleep"]))
        if self._harmful and (index == 0 if self._once else index >= self._strikes_after):
            _strike(self._mode, settings, self._kept)

    def tensors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """See base.Session."""
        shape = tuple(int(size or 1) for size in self._input.shape)
        return (self._input,), (Tensor("y", (shape[0], math.prod(shape[1:])), "float32"),)

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Session."""
        self._values = inputs[0]

    def outputs(self) -> list[NDArray[Any]]:
        """See base.Session."""
        values = self._values[::-1] if self._settings.get("mixes_rows", False) else self._values
        return [np.array(values.reshape(values.shape[0], -1), np.float32)]

    def facts(self, *, deep: bool) -> dict[str, Any]:
        """See base.Session."""
        return {"threads": 1, "precision": "f32", "precision_how": "injected", "mode": self._mode, "deep": deep}


class FaultEngine:
    """The engine that fails."""

    name = "fault"
    version = "1"

    def load(self, path: str, options: LoadOptions) -> FaultSession:
        """See base.Engine."""
        settings = {**options.extra, **json.loads(Path(path).read_text(encoding="utf-8"))}
        return FaultSession(settings, options)


def create() -> FaultEngine:
    """See base.py: nothing to import."""
    return FaultEngine()
