"""The ledger of an exported file: its weights, counted in the file itself, and the arena of TFLite.

What a toolchain made of zeros and shared values shows here: whether they survived, and in which dtype. Each format's reader imports its
own toolchain at call time; `converters.ledger_model` counts what they find.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.context import Array
from converters.errors import ToolError
from converters.ledger_model import tensors_ledger

TFLITE, ONNX, OPENVINO = "tflite", "onnx", "openvino"
# The planner aligns tensors to 64 bytes: what lies farther apart belongs to another area.
_ARENA_GAP_BYTES = 128
_NIBBLE_ZERO = 8  # of ONNX's MatMulNBits, where nothing else is said
_NF4_ZERO = 7
# OpenVINO's integers of less than a byte that it unpacks itself.
_UNPACKED = ("u2", "u3", "u6")
_FLOATS = ("float16", "float32", "float64", "bfloat16")
# Inputs of ONNX operators: quantized weights, and the zero point that belongs to them.
_ONNX_QUANTIZED = {"DequantizeLinear": (0, 2), "ConvInteger": (1, 3), "MatMulInteger": (1, 3), "QLinearConv": (3, 5)}
_ONNX_QUANTIZED |= {"QLinearMatMul": (3, 5)}
_ONNX_SCALES = {"DequantizeLinear": (1,), "QuantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6)}
_Found = tuple[dict[str, Array], dict[str, Array]]


def artifact_ledger(path: Path, format_name: str) -> dict[str, Any]:
    """The weights of a .tflite, .onnx or OpenVINO .xml file, as JSON types: `parameters`, `non_zeros`, `unique_values`,
    `weights_bytes`, `size_entropy_bytes` (see `tensors_ledger`; scales and zero points of quantization left out, weights of less than
    8 bits counted as a byte each in `weights_bytes`), and `arena_bytes` with `arena_missing`, the reason when it is None.

    Raises ToolError for another format, and what the toolchains raise for a file that is none.
    """
    readers = {TFLITE: _tflite, ONNX: _onnx, OPENVINO: _openvino}
    if format_name not in readers:
        raise ToolError(f"the ledger cannot read {format_name} files")
    arrays, zero_points = readers[format_name](path)
    arena, missing = (
        tflite_arena_bytes(path) if format_name == TFLITE else (None, f"{format_name} has no arena to tell")
    )
    return tensors_ledger(arrays, zero_points) | {"arena_bytes": arena, "arena_missing": missing}


def tflite_arena_bytes(path: Path) -> tuple[int | None, str | None]:
    """How much memory the interpreter plans for activations and scratch tensors, without delegates (which keep their own): read from
    the addresses of its tensors. None, and why, where it does not tell."""
    from ai_edge_litert import interpreter as litert

    from converters.export.tflite_file import read_model

    interpreter = litert.Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    model = read_model(path.read_bytes())
    if len(model.subgraphs) > 1:
        return None, "its loops have arenas of their own, which the interpreter does not tell"
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        return None, f"the interpreter cannot plan it: {' '.join(str(error).split())[:200]}"
    constant = {
        index for index, tensor in enumerate(model.subgraphs[0].tensors) if _has_data(model.buffers[tensor.buffer])
    }
    areas: list[tuple[int, int]] = []
    for detail in interpreter.get_tensor_details():
        if detail["index"] in constant:
            continue
        try:
            view = interpreter.tensor(detail["index"])()
        except ValueError:
            continue  # nothing is planned for it: it is empty, or sized when it runs
        begin = view.__array_interface__["data"][0]
        areas.append((begin, begin + view.nbytes))
    return _covered(areas), None


def _covered(areas: list[tuple[int, int]]) -> int:
    """Bytes of the areas of memory that these pieces fill: pieces that overlap, or all but touch, make one."""
    total, end = 0, None
    for begin, stop in sorted(areas):
        if end is None or begin > end + _ARENA_GAP_BYTES:
            total, end = total + stop - begin, stop
        elif stop > end:
            total, end = total + stop - end, stop
    return total


def _has_data(buffer: Any) -> bool:
    return buffer.data is not None and len(buffer.data) > 0


def _nibbles(packed: Array, count: int, *, signed: bool) -> Array:
    """4-bit integers, the low half of each byte first: int8 or uint8 [count]."""
    raw = np.asarray(packed).reshape(-1).view(np.uint8)
    values = np.stack([raw & 0xF, raw >> 4], axis=-1).reshape(-1)[:count]
    return np.asarray(((values ^ 8).astype(np.int8) - 8).astype(np.int8) if signed else values)


def _tflite(path: Path) -> _Found:
    from ai_edge_litert import schema_py_generated as schema

    from converters.export.tflite_file import read_model

    kinds = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    model = read_model(path.read_bytes())
    arrays: dict[str, Array] = {}
    zero_points: dict[str, Array] = {}
    seen: set[int] = set()
    for number, graph in enumerate(model.subgraphs):
        for tensor in graph.tensors:
            buffer, kind = model.buffers[tensor.buffer], kinds[tensor.type]
            quantization = tensor.quantization
            quantized = quantization is not None and quantization.scale is not None and len(quantization.scale) > 0
            if not _has_data(buffer) or tensor.buffer in seen or not (kind.startswith("FLOAT") or quantized):
                continue
            seen.add(tensor.buffer)
            shape = () if tensor.shape is None else tuple(int(side) for side in tensor.shape)
            data = np.asarray(buffer.data, np.uint8)
            name = f"{number}/{tensor.name.decode()}/{tensor.buffer}"
            if kind == "INT4":
                arrays[name] = _nibbles(data, int(np.prod(shape)), signed=True).reshape(shape)
            else:
                arrays[name] = data.view(kind.lower()).reshape(shape)
            if quantized and np.any(quantization.zeroPoint):
                zero_points[name] = _along(quantization.zeroPoint, len(shape), int(quantization.quantizedDimension))
    return arrays, zero_points


def _along(values: Any, rank: int, axis: int) -> Array:
    """One value for all, or one per index of an axis, in a shape that broadcasts."""
    flat: Array = np.asarray(values).reshape(-1)
    if flat.size == 1 or rank == 0:
        return np.asarray(flat.reshape(()) if flat.size == 1 else flat)
    shape = [1] * rank
    shape[axis] = flat.size
    return np.asarray(flat.reshape(shape))


def _onnx(path: Path) -> _Found:
    import onnx
    from onnx import numpy_helper

    from converters.export.onnx_graph import constant_tensors, nodes

    model = onnx.load(str(path))
    zero_names: dict[str, tuple[str, int]] = {}
    left_out: set[str] = set()
    packed: dict[str, dict[str, Any]] = {}
    widened = {node.output[0]: node.input[0] for node in nodes(model.graph) if node.op_type == "Cast"}
    for node in nodes(model.graph):
        inputs, attributes = list(node.input), {item.name: item.i for item in node.attribute}
        left_out |= {inputs[at] for at in _ONNX_SCALES.get(node.op_type, ()) if at < len(inputs)}
        if node.op_type == "QuantizeLinear":
            left_out |= set(inputs[2:3])
        if node.op_type in _ONNX_QUANTIZED:
            weights, zero = _ONNX_QUANTIZED[node.op_type]
            # Kernels of less than a byte are widened before (`converters.export.onnx_trained`).
            stored = widened.get(inputs[weights], inputs[weights])
            zero_names[stored] = (inputs[zero] if zero < len(inputs) else "", attributes.get("axis", 1))
        if node.op_type == "MatMulNBits":
            packed[inputs[1]] = attributes | {"zero": inputs[3] if len(inputs) > 3 else ""}  # noqa: PLR2004
            left_out |= set(inputs[2:4])
    left_out |= {zero for zero, _ in zero_names.values() if zero}
    constants = {tensor.name: _widened(numpy_helper.to_array(tensor)) for tensor in constant_tensors(model.graph)}
    arrays: dict[str, Array] = {}
    zero_points: dict[str, Array] = {}
    for name, array in constants.items():
        if name in left_out:
            continue
        if name in packed and packed[name].get("bits", 4) == 4:  # noqa: PLR2004
            arrays[name] = _nibbles(array, array.size * 2, signed=False)
            if not packed[name]["zero"]:
                zero_points[name] = np.asarray(_NIBBLE_ZERO)
        elif array.dtype.name in _FLOATS:
            arrays[name] = array
        elif name in zero_names:
            arrays[name] = array
            of_zero, axis = zero_names[name]
            if of_zero in constants and np.any(constants[of_zero]):
                zero_points[name] = _along(constants[of_zero], array.ndim, axis)
    return arrays, zero_points


def _widened(array: Array) -> Array:
    """Integers of 4 and 2 bits, which numpy does not know, as bytes."""
    bytes_of = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}
    return array.astype(bytes_of.get(array.dtype.name, array.dtype), copy=False)


def _openvino(path: Path) -> _Found:
    import openvino as ov

    arrays: dict[str, Array] = {}
    zero_points: dict[str, Array] = {}
    every = list(_openvino_nodes(ov.Core().read_model(path)))
    helpers = _openvino_helpers(every)
    for number, node in enumerate(every):
        if node.get_type_name() != "Constant" or node.get_friendly_name() in helpers:
            continue
        kind = node.get_element_type().get_type_name()
        name, shape = f"{number}/{node.get_friendly_name()}", tuple(node.get_output_shape(0))
        if kind in ("i4", "u4", "nf4"):
            values = _nibbles(node.data, int(np.prod(shape, dtype=np.int64)), signed=kind == "i4")
            arrays[name] = values.reshape(shape)
            if kind == "nf4":
                zero_points[name] = np.asarray(_NF4_ZERO)
        elif kind in _UNPACKED:
            # It unpacks only into another dtype than that of its bytes.
            arrays[name] = np.array(node.get_data(dtype=np.int8)).astype(np.uint8)
        elif kind in ("f16", "f32", "f64", "i8", "u8", "i16"):
            arrays[name] = np.array(node.data)
        else:
            continue
        zero = _openvino_zero(node)
        if zero is not None:
            zero_points[name] = zero
    return arrays, zero_points


def _openvino_nodes(model: Any) -> Iterator[Any]:
    for node in model.get_ops():
        yield node
        if node.get_type_name() in ("TensorIterator", "Loop"):
            yield from _openvino_nodes(node.get_function())


def _openvino_helpers(every: list[Any]) -> set[str]:
    """Names of the constants that are ranges, scales and zero points of quantization."""
    found = set()
    for node in every:
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            found |= {name for at in range(1, 5) if (name := _constant_name(node.input_value(at)))}
        elif kind in ("Subtract", "Multiply") and _from_integers(node.input_value(0)):
            name = _constant_name(node.input_value(1))
            found |= {name} if name else set()
    return found


def _constant_name(output: Any) -> str | None:
    node = output.get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    return str(node.get_friendly_name()) if node.get_type_name() == "Constant" else None


def _from_integers(output: Any) -> bool:
    """Whether this comes from a constant of few bits, by way of a conversion and perhaps a zero point."""
    node = output.get_node()
    while node.get_type_name() in ("Convert", "Subtract"):
        node = node.input_value(0).get_node()
    few = ("i4", "u4", "nf4", "i8", "u8", "i16", *_UNPACKED)
    return bool(node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in few)


def _openvino_zero(node: Any) -> Array | None:
    """The zero point that is subtracted from a constant, or None."""
    for target in node.output(0).get_target_inputs():
        user = target.get_node()
        if user.get_type_name() != "Convert":
            continue
        for next_target in user.output(0).get_target_inputs():
            after = next_target.get_node()
            if after.get_type_name() == "Subtract":
                zero = after.input_value(1).get_node()
                while zero.get_type_name() in ("Convert", "Reshape"):
                    zero = zero.input_value(0).get_node()
                kind = zero.get_element_type().get_type_name()
                if kind in ("i4", "u4"):
                    shape = tuple(zero.get_output_shape(0))
                    return _nibbles(zero.data, int(np.prod(shape)), signed=kind == "i4").reshape(shape)
                return np.array(zero.data)
    return None
