"""LiteRT's own profiler, reached through the C interface of the library that comes with the Python package.

The Python classes have no way to it: `Interpreter` makes no profiler, and `CompiledModel` cannot ask for one. The same package's
libLiteRt.so exports LiteRT's C functions, so a compiled model with profiling on is made with ctypes. Whatever is missing or
answers with an error raises UnreachableError; then the model is profiled by ablation (tflite_cut.py) instead. Names, order of
arguments and the layout of an event are LiteRT's (litert/c/*.h, 2.x); the option's text is TOML.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .litert_profile import Event, UnreachableError

_CPU = 1  # kLiteRtHwAcceleratorCpu
_WRITE = 1  # kLiteRtTensorBufferLockModeWrite
_LARGEST_TENSOR_TYPE = 512
_OPTIONS = (
    (b"runtime_options_string", "enable_profiling = true\n"),
    (b"cpu_options_string", "num_threads = {threads}\n"),
)
# Nothing is to be freed: the text lives as long as the model.
_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_keep = _Deleter(lambda _pointer: None)


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_size_t), ("in_use", ctypes.c_size_t), ("private", ctypes.c_size_t))


class _Event(ctypes.Structure):
    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("begin", _Memory),
        ("end", _Memory),
        ("metadata1", ctypes.c_uint64),
        ("metadata2", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class NativeModel:
    """A compiled model on the CPU, with its profiler and its input and output buffers."""

    def __init__(self, package: str, path: str, threads: int) -> None:
        library = Path(package) / "libLiteRt.so"
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise UnreachableError(f"{library.name} does not load: {error}") from error
        self._kept: list[Any] = []
        environment = self._made("LiteRtCreateEnvironment", 0, None)
        model = self._made("LiteRtCreateModelFromFile", environment, path.encode())
        options = self._made("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
        for name, text in _OPTIONS:
            payload = ctypes.create_string_buffer(text.format(threads=threads).encode())
            self._kept.append(payload)
            opaque = self._made("LiteRtCreateOpaqueOptions", name, ctypes.cast(payload, ctypes.c_void_p), _keep)
            self._call("LiteRtAddOpaqueOptions", options, opaque)
        self._model = self._made("LiteRtCreateCompiledModel", environment, model, options)
        self._profiler = self._made("LiteRtCompiledModelGetProfiler", self._model)
        if not self._profiler:
            raise UnreachableError("this LiteRT made no profiler although it was asked for one")
        signature = self._made("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self._names: list[str] = []
        self._inputs = self._buffers(environment, signature, "Input")
        self._outputs = self._buffers(environment, signature, "Output")
        self._run = self._library.LiteRtRunCompiledModel
        self._arguments = (self._model, ctypes.c_size_t(0), *self._inputs, *self._outputs)

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            status = getattr(self._library, name)(*arguments)
        except AttributeError as error:
            raise UnreachableError(f"libLiteRt.so has no {name}") from error
        if status != 0:
            raise UnreachableError(f"{name} answered with status {status}")

    def _made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """What a function gives back through its last argument."""
        made = ctypes.c_void_p()
        self._call(name, *arguments, ctypes.byref(made))
        return made

    def _buffers(self, environment: Any, signature: Any, kind: str) -> tuple[ctypes.c_size_t, Any]:
        """How many inputs or outputs the first signature has, and buffers for them."""
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{kind}s", signature, ctypes.byref(count))
        buffers = (ctypes.c_void_p * count.value)()
        for index in range(count.value):
            place = ctypes.c_size_t(index)
            tensor = self._made(f"LiteRtGetSignature{kind}TensorByIndex", signature, place)
            if kind == "Input":
                name = ctypes.cast(self._made("LiteRtGetTensorName", tensor), ctypes.c_char_p)
                self._names.append((name.value or b"").decode("utf-8", "replace"))
            # Passed on as it is: its layout is nobody's business here.
            tensor_type = ctypes.create_string_buffer(_LARGEST_TENSOR_TYPE)
            self._call("LiteRtGetRankedTensorType", tensor, tensor_type)
            wanted = self._made(
                f"LiteRtGetCompiledModel{kind}BufferRequirements", self._model, ctypes.c_size_t(0), place
            )
            make = "LiteRtCreateManagedTensorBufferFromRequirements"
            buffers[index] = self._made(make, environment, tensor_type, wanted)
        return count, buffers

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise UnreachableError unless the inputs have these names and sizes in bytes."""
        own = {}
        for name, buffer in zip(self._names, self._inputs[1], strict=True):
            size = ctypes.c_size_t()
            self._call("LiteRtGetTensorBufferPackedSize", ctypes.c_void_p(buffer), ctypes.byref(size))
            own[name] = size.value
        if own != dict(sizes):
            raise UnreachableError(f"the compiled model's inputs are {own}, the interpreter's {dict(sizes)}")

    def bind(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy the inputs, by the names of their tensors (a signature has an order of its own). `check` comes first."""
        for name, buffer in zip(self._names, self._inputs[1], strict=True):
            handle, address = ctypes.c_void_p(buffer), ctypes.c_void_p()
            data = np.ascontiguousarray(arrays[name])
            self._call("LiteRtLockTensorBuffer", handle, ctypes.byref(address), _WRITE)
            ctypes.memmove(address, data.ctypes.data, data.nbytes)
            self._call("LiteRtUnlockTensorBuffer", handle)

    def invoke(self) -> None:
        """One inference. Raises RuntimeError."""
        status = self._run(*self._arguments)
        if status != 0:
            raise RuntimeError(f"LiteRtRunCompiledModel answered with status {status}")

    def start(self) -> None:
        """Profile from now on; what was profiled before is forgotten."""
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)

    def stop(self) -> None:
        """Profile no longer."""
        self._call("LiteRtStopProfiler", self._profiler)

    def events(self) -> list[Event]:
        """Events since `start`, in time order."""
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        if count.value <= 0:
            return []
        events = (_Event * count.value)()
        self._call("LiteRtGetProfilerEvents", self._profiler, count, events)
        return [
            Event((event.tag or b"").decode("utf-8", "replace"), event.type, event.elapsed_us * 1000, event.metadata1)
            for event in events
        ]
