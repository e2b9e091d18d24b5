"""Rows of the dataset → the arrays a model wants, and back: transpose, quantize, cast; random input where there is no data.

Everything here is plain numpy in a fixed order of operations, so that two devices feed and read the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import AgentError
from .protocol import Data, Tensor

Array = NDArray[Any]


def open_data(data: Data) -> dict[str, Array]:
    """Map the dataset's .npy files into memory: input name -> array [rows, …].

    Raises AgentError (kind "data") for a file that is missing, damaged, or too short.
    """
    arrays: dict[str, Array] = {}
    for name, path in data.inputs.items():
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise AgentError.wrap("data", error, f"input {name!r} is read from {path}") from error
        if not isinstance(array, np.ndarray) or array.ndim == 0 or array.shape[0] < max(data.rows, 1):
            raise AgentError("data", f"input {name!r}: {path} does not hold {data.rows} rows")
        arrays[name] = array
    return arrays


def _affine(tensor: Tensor, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and zero point, shaped so that they broadcast along the quantized axis of an array of `rank`."""
    scale = np.asarray(tensor.scale, np.float64)
    zero = np.asarray(tensor.zero_point or (0,), np.float64)
    if tensor.quantized_axis is None or scale.size == 1:
        return scale.reshape(-1)[:1].reshape(()), zero.reshape(-1)[:1].reshape(())
    shape = [1] * rank
    shape[tensor.quantized_axis] = scale.size
    return scale.reshape(shape), np.broadcast_to(zero, scale.shape).reshape(shape)


def _to_integer(values: NDArray[np.float64], dtype: np.dtype[Any]) -> Array:
    """Round half to even, clip to the type's range, cast."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def quantize(values: Array, tensor: Tensor) -> Array:
    """Real values → what the tensor holds: q = clip(round(x / scale) + zero_point), or a plain cast without a scale.

    A cast from float to integer rounds and clips likewise; integers are clipped to the type's range.
    """
    dtype = np.dtype(tensor.dtype)
    if tensor.scale:
        scale, zero = _affine(tensor, values.ndim)
        return _to_integer(np.rint(values.astype(np.float64) / scale) + zero, dtype)
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu" and values.dtype.kind == "f":
        return _to_integer(values.astype(np.float64), dtype)
    if dtype.kind in "iu" and values.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(values, limits.min, limits.max).astype(dtype)
    return values.astype(dtype)


def dequantize(values: Array, tensor: Tensor) -> NDArray[np.float32]:
    """What the tensor holds → real values in float32, in the base model's layout."""
    if tensor.scale:
        scale, zero = _affine(tensor, values.ndim)
        real = ((values.astype(np.float64) - zero) * scale).astype(np.float32)
    else:
        real = values.astype(np.float32)
    if tensor.axes is not None:
        real = np.transpose(real, tensor.axes)
    return np.ascontiguousarray(real)


def random_input(tensor: Tensor, shape: tuple[int, ...], seed: Sequence[int]) -> Array:
    """Seeded random input. Floats are normal; quantized tensors hold quantized normals; 8-bit integers without a scale
    take their whole range; wider integers and booleans are 0 or 1, which every table and mask accepts.

    Raises AgentError for a type that numbers cannot fill.
    """
    generator = np.random.default_rng(list(seed))
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError as error:
        raise AgentError.wrap("data", error, f"no random input can be made for {tensor.name!r}") from error
    if dtype.kind == "f" or (tensor.scale and dtype.kind in "iu"):
        return quantize(generator.standard_normal(shape).astype(np.float32), tensor)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = (limits.min, limits.max) if dtype.itemsize == 1 else (0, 1)
        return generator.integers(low, high, shape, endpoint=True).astype(dtype)
    raise AgentError("data", f"no random input of type {tensor.dtype} can be made for {tensor.name!r}")


def aligned(values: Array, boundary: int = 64) -> Array:
    """A contiguous copy of its own that starts at a multiple of `boundary` bytes, so that no run is slower by luck."""
    memory = np.empty(values.nbytes + boundary, np.uint8)
    start = -memory.ctypes.data % boundary
    copy: Array = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def match(specs: Sequence[Tensor], reported: Sequence[Tensor], what: str) -> list[Tensor | None]:
    """The job's spec for each tensor the engine reports: by name where all names agree, else by position.

    No specs (an artifact made elsewhere) give None for each. Raises AgentError when they cannot be matched.
    """
    if not specs:
        return [None] * len(reported)
    by_name = {spec.name: spec for spec in specs}
    if set(by_name) == {tensor.name for tensor in reported}:
        matched = [by_name[tensor.name] for tensor in reported]
    elif len(specs) == len(reported):
        matched = list(specs)
    else:
        names = f"{[s.name for s in specs]} in the manifest, {[t.name for t in reported]} in the artifact"
        raise AgentError("data", f"the {what}s do not agree: {names}", remedy="convert the model again")
    for spec, tensor in zip(matched, reported, strict=True):
        if spec.dtype != tensor.dtype:
            message = f"{what} {tensor.name!r} is {tensor.dtype} in the artifact, {spec.dtype} in the manifest"
            raise AgentError("data", message, remedy="convert the model again")
    return [*matched]


def merged(spec: Tensor | None, reported: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """What the job knows (source, axes, quantization) joined to what the engine reports (name, shape, type)."""
    known = reported if spec is None else spec
    quantized = known if known.scale else reported
    return Tensor(
        name=reported.name,
        shape=reported.shape if shape is None else shape,
        dtype=reported.dtype,
        source=known.source,
        axes=known.axes,
        scale=quantized.scale,
        zero_point=quantized.zero_point,
        quantized_axis=quantized.quantized_axis,
    )


def _transposed(shape: tuple[int, ...], tensor: Tensor) -> tuple[int, ...]:
    """The shape after the tensor's transposition. Raises AgentError when its axes do not fit."""
    if tensor.axes is None:
        return shape
    if sorted(tensor.axes) != list(range(len(shape))):
        raise AgentError("data", f"input {tensor.name!r}: axes {tensor.axes} do not fit data of rank {len(shape)}")
    return tuple(shape[axis] for axis in tensor.axes)


class Feeder:
    """Makes the input arrays of one model, in the engine's order.

    First `shapes` resolves the free dimensions of the inputs an engine reports (the batch becomes 1; the engine may have
    to be reshaped before it compiles), then `prepare` fixes the concrete tensors, then `batch` makes arrays.
    """

    def __init__(self, specs: tuple[Tensor, ...], data: dict[str, Array], *, rows: int, seed: int) -> None:
        self.specs = specs
        self.data = data
        self.rows = rows
        self.seed = seed
        self.tensors: tuple[Tensor, ...] = ()

    def _array(self, tensor: Tensor, source: str | None, count: int) -> Array | None:
        """The dataset's array for an input; None when there is no data at all."""
        if not self.data:
            return None
        if source is None and len(self.data) == 1 and count == 1:
            return next(iter(self.data.values()))
        name = tensor.name if source is None else source
        if name not in self.data:
            raise AgentError("data", f"no data for input {name!r}; there is {', '.join(sorted(self.data))}")
        return self.data[name]

    def shapes(self, reported: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
        """Concrete shapes of the inputs an engine reports: free dimensions from the data, else 1; the batch is 1."""
        result = []
        for spec, tensor in zip(match(self.specs, reported, "input"), reported, strict=True):
            known = merged(spec, tensor)
            array = self._array(known, known.source, len(reported))
            row: tuple[int, ...] | None = None
            if array is not None:
                row = _transposed((1, *array.shape[1:]), known)
            if row is not None and len(row) == len(tensor.shape):
                result.append(tuple(r if d is None else d for r, d in zip(row, tensor.shape, strict=True)))
            else:
                result.append(tuple(1 if d is None else d for d in tensor.shape))
        return tuple(result)

    def prepare(self, reported: Sequence[Tensor]) -> None:
        """Fix the concrete tensors of a loaded model. Raises AgentError when data and model do not fit."""
        shapes = self.shapes(reported)
        matched = match(self.specs, reported, "input")
        triples = zip(matched, reported, shapes, strict=True)
        self.tensors = tuple(merged(spec, tensor, shape) for spec, tensor, shape in triples)
        if self.data:
            self.batch(0)

    @property
    def batch_size(self) -> int:
        """Rows per inference: 1, unless the artifact has a larger fixed batch."""
        first = self.tensors[0].shape if self.tensors else ()
        return int(first[0] or 1) if first and self.data else 1

    def batch(self, start: int) -> list[Array]:
        """Input arrays for the rows from `start` on (one batch; the last row is repeated to fill it), or random ones."""
        arrays = []
        for index, tensor in enumerate(self.tensors):
            shape = tuple(int(d or 1) for d in tensor.shape)
            source = self._array(tensor, tensor.source, len(self.tensors))
            if source is None:
                arrays.append(aligned(random_input(tensor, shape, (self.seed, index))))
                continue
            stop = min(start + self.batch_size, max(self.rows, 1))
            rows = np.asarray(source[start:stop])
            if rows.shape[0] < self.batch_size:
                rows = np.concatenate([rows, np.repeat(rows[-1:], self.batch_size - rows.shape[0], axis=0)])
            arrays.append(self._adapt(rows, tensor, shape))
        return arrays

    def _adapt(self, rows: Array, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        if tensor.axes is not None:
            _transposed(rows.shape, tensor)
            rows = np.transpose(rows, tensor.axes)
        if rows.shape != shape:
            message = f"input {tensor.name!r} wants shape {shape}, a row of the data has {rows.shape}"
            raise AgentError("data", message, remedy="give data of the model's shape, or declare its layout")
        return aligned(quantize(rows, tensor))
