"""Reads what a .tflite file holds: its signature with quantization, and how many elements of which dtype are constants.

Used by both TFLite toolchains. Needs only the flatbuffer schema that ships with ai-edge-litert, no TensorFlow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converters.errors import ToolError
from converters.export.base import Exported, Source
from converters.variant import Quantization, Signature, TensorSpec

_RENAMED = {"INT4": "int4", "INT2": "int2", "BOOL": "bool"}


def read_model(data: bytes) -> Any:
    """The flatbuffer as the schema's object tree."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(data, 0)


def describe(path: Path, source: Source, notes: Iterable[str] = ()) -> Exported:
    """The Exported of a .tflite file made from `source`. Raises ToolError when its tensors are not the base's."""
    model = read_model(path.read_bytes())
    return Exported(
        artifact=path.name,
        files=(path.name,),
        signature=_signature(model, source),
        weight_dtypes=weight_dtypes(model),
        notes=tuple(notes),
    )


def _dtype_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {
        value: _RENAMED.get(name, name.lower())
        for name, value in vars(schema.TensorType).items()
        if not name.startswith("_")
    }


def _signature(model: Any, source: Source) -> Signature:
    graph = model.subgraphs[0]
    if not model.signatureDefs:
        raise ToolError("the converter wrote a file without a signature")
    named = model.signatureDefs[0]
    sources = {tensor.tensorIndex: tensor.name.decode() for tensor in (*named.inputs, *named.outputs)}
    dtypes = _dtype_names()
    inputs = tuple(_spec(graph.tensors[index], sources.get(index), dtypes, source.inputs) for index in graph.inputs)
    outputs = tuple(_spec(graph.tensors[index], sources.get(index), dtypes, source.outputs) for index in graph.outputs)
    return Signature(inputs, outputs)


def _spec(tensor: Any, name: str | None, dtypes: dict[int, str], known: tuple[TensorSpec, ...]) -> TensorSpec:
    base = next((spec for spec in known if spec.name == name), None)
    if base is None:
        raise ToolError(f"the converter wrote the tensor {tensor.name.decode()!r}, which the base model does not have")
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    return TensorSpec(
        name=tensor.name.decode(),
        shape=tuple(None if dim < 0 else int(dim) for dim in shape),
        dtype=dtypes[tensor.type],
        source=base.name,
        layout=base.layout,
        quantization=_quantization(tensor.quantization),
    )


def _quantization(quantization: Any) -> Quantization | None:
    if quantization is None or quantization.scale is None or len(quantization.scale) == 0:
        return None
    scales = tuple(float(value) for value in quantization.scale)
    zeros = tuple(int(value) for value in quantization.zeroPoint)
    return Quantization(scales, zeros, int(quantization.quantizedDimension) if len(scales) > 1 else None)


def weight_dtypes(model: Any) -> dict[str, int]:
    """Elements of constant tensors by dtype, over all subgraphs; a buffer that two tensors share counts once."""
    dtypes = _dtype_names()
    counted: set[int] = set()
    elements: Counter[str] = Counter()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or len(data) == 0 or tensor.buffer in counted:
                continue
            counted.add(tensor.buffer)
            elements[dtypes[tensor.type]] += (
                math.prod(int(dim) for dim in tensor.shape) if tensor.shape is not None else 1
            )
    return dict(sorted(elements.items()))


def float_operators(model: Any) -> list[str]:
    """Names of operators that still give float activations between the outer quantize and dequantize steps."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    found = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM")
            gives_float = any(graph.tensors[index].type == schema.TensorType.FLOAT32 for index in operator.outputs)
            if gives_float and name not in ("DEQUANTIZE", "QUANTIZE"):
                found.add(name)
    return sorted(found)
