"""Gives the kernels of a .tflite file the scales that they were trained for.

TensorFlow Lite's converter takes the trained ranges of activations from the graph, but it chooses the scales of constant kernels
itself, from their largest values, and fails on dense kernels whose scales stand in the graph (TensorFlow 2.21). Here the integers
and scales of each kernel are written anew, with 8 bits or packed into 4, and proven to be the trained values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.errors import ToolError
from converters.export.tflite_file import read_model
from converters.export.trained import EIGHT, Array, Trained, TrainedKernel, key_of, packed_bytes

_IDENTIFIER = b"TFL3"
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_SAME = 1e-5
FOUR = 4
# Widths of the integers that kernels of these operators may have beside 8-bit activations.
WIDTHS = (FOUR, EIGHT)
WIDTHS_WHY = (
    "TensorFlow Lite's integer kernels take weights of 4 and 8 bits; 16 bits it has for the activations of a whole "
    "model only"
)


def with_trained_scales(data: bytes, trained: Trained, *, four_bits: bool) -> tuple[bytes, int]:
    """The file with the trained scales, and how many kernels have them. Raises ToolError when one is not found, or is not what was
    trained. `four_bits`: store all kernels with two values to a byte, not only those that are to be packed."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    model = read_model(data)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    done: set[tuple[int, int]] = set()
    found: set[str] = set()
    for number, graph in enumerate(model.subgraphs):
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            weight = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
            if names.get(max(code.builtinCode, code.deprecatedBuiltinCode)) not in _WEIGHTED or weight is None:
                continue
            if weight.type != schema.TensorType.INT8 or (number, int(operator.inputs[1])) in done:
                continue
            kernel = _kernel_of(weight, model, trained)
            if kernel is None:
                continue
            done.add((number, int(operator.inputs[1])))
            found.add(kernel.name)
            if kernel.bits > EIGHT:
                continue  # what the converter made of it are its 8 bits
            before = np.asarray(weight.quantization.scale, np.float32)
            _rewrite(weight, model, kernel)
            bias = operator.inputs[2] if len(operator.inputs) > 2 else -1  # noqa: PLR2004
            if bias >= 0:
                _rewrite_bias(graph.tensors[bias], model, before, kernel)
            if four_bits or kernel.container(WIDTHS) == FOUR:
                _pack(weight, model, schema.TensorType.INT4)
    missing = [kernel.name for kernel in trained.kernels if kernel.name not in found]
    if missing:
        raise ToolError(f"the converter wrote no integer kernel for {missing[0]}, which was trained for integers")
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output()), len(found)


def _integers(weight: Any, model: Any) -> Array:
    return np.frombuffer(bytes(model.buffers[weight.buffer].data), np.int8).reshape([int(dim) for dim in weight.shape])


def _shaped(scales: Array, weight: Any) -> Array:
    shape = [1] * len(weight.shape)
    if scales.size > 1:
        shape[int(weight.quantization.quantizedDimension)] = scales.size
    return scales.reshape(shape)


def _kernel_of(weight: Any, model: Any, trained: Trained) -> TrainedKernel | None:
    """The trained kernel behind a tensor whose scales the converter chose: with those scales, and with the very same values."""
    chosen = np.asarray(weight.quantization.scale, np.float32)
    top = np.iinfo(np.int8).max
    integers = _integers(weight, model)
    for kernel in trained.kernels:
        largest = kernel.largest if chosen.size > 1 else kernel.largest.max(keepdims=True)
        # A channel of zeros has a scale of the converter's own making.
        fits = (
            (np.abs(chosen * top - largest) <= _SAME * largest) | (largest == 0)
            if chosen.size == largest.size
            else [False]
        )
        if not np.all(fits):
            continue
        if kernel.bits > EIGHT:
            if kernel.size == integers.size:
                return kernel
            continue
        real = integers.astype(np.float64) * _shaped(chosen, weight)
        if chosen.size > 1:
            real = np.where((largest == 0).reshape(_shaped(largest, weight).shape), 0, real)
        steps = np.round(real / _shaped(kernel.scales, weight)).astype(np.float32)
        if key_of(steps * _shaped(kernel.scales, weight)) == kernel.key:
            return kernel
    return None


def _rewrite(weight: Any, model: Any, kernel: TrainedKernel) -> None:
    """The kernel's own integers and scales."""
    chosen = np.asarray(weight.quantization.scale, np.float64)
    real = _integers(weight, model) * _shaped(chosen, weight)
    steps = np.round(real / _shaped(kernel.scales, weight))
    if chosen.size > 1:
        steps = np.where(_shaped(kernel.largest, weight) == 0, 0, steps)
    model.buffers[weight.buffer].data = np.frombuffer(steps.astype(np.int8).tobytes(), np.uint8)
    weight.quantization.scale = kernel.scales.astype(np.float32)
    weight.quantization.zeroPoint = np.zeros(kernel.scales.size, np.int64)


def _rewrite_bias(bias: Any, model: Any, before: Array, kernel: TrainedKernel) -> None:
    """A bias counts in steps of input scale × kernel scale."""
    old = np.asarray(bias.quantization.scale, np.float64)
    values = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32)
    of_input = (old / before.astype(np.float64))[:1]
    new = (of_input * kernel.scales.astype(np.float64)).astype(np.float32)
    counts = np.round(values * old / new)
    limit = np.iinfo(np.int32).max
    model.buffers[bias.buffer].data = np.frombuffer(np.clip(counts, -limit, limit).astype(np.int32).tobytes(), np.uint8)
    bias.quantization.scale = new
    bias.quantization.zeroPoint = np.zeros(new.size, np.int64)


def _pack(weight: Any, model: Any, int4: int) -> None:
    """Two values to a byte, the first in the lower half."""
    model.buffers[weight.buffer].data = np.frombuffer(packed_bytes(_integers(weight, model), FOUR), np.uint8)
    weight.type = int4
