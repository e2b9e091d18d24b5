"""Prepare the base model's ONNX graph once, for all ONNX variants: optimised, free of needless Transposes, batch free.

Second step of the ONNX toolchain: `model.onnx` of the source in, one float32 graph out from which every precision is made.
ONNX Runtime's offline optimizer (basic level: hardware-independent, standard operators only) folds batch norms and moves
most Transposes away; onnxslim folds the shape arithmetic; `converters.export.onnx_rewrites` removes what both leave behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.errors import ToolError
from converters.export.base import NHWC_TO_NCHW, Source
from converters.export.onnx_rewrites import remove_transposes, shorten_names
from converters.export.tool_words import one_line
from converters.variant import Signature, TensorSpec

Axes = tuple[int, ...]
_DISTURBING = ["WeightBiasQuantization", "QDQPropagationTransformer"]
# Largest finite float16, and a value just above the smallest positive one.
F16_MAX, F16_MIN = 65504.0, 6e-8


@dataclass(frozen=True, slots=True)
class Prepared:
    """The float32 graph of a base model, and how its tensors lie with respect to the base model's.

    `model` is an onnx.ModelProto and must not be changed (copy it). `input_axes`, `output_axes`: `TensorSpec.axes` by
    tensor name, where the layout differs from the base model's. `transposes_before`: Transpose nodes of the file read.
    """

    model: Any
    input_axes: dict[str, Axes]
    output_axes: dict[str, Axes]
    transposes_before: int
    transposes: int
    notes: tuple[str, ...] = ()


def prepare(source: Source, scratch: Path) -> Prepared:
    """Optimise `source.onnx` in the folder `scratch` (nothing is written elsewhere). Raises ToolError."""
    import onnx

    try:
        raw = onnx.load(source.onnx)
    except Exception as error:
        raise ToolError(f"onnx could not read {source.onnx.name}: {one_line(error)}") from error
    _check_tensors(raw, source)
    before = count_ops(raw)["Transpose"]
    model, notes = _slimmed(_ort_optimized(source.onnx, scratch))
    model, stripped_inputs, stripped_outputs = remove_transposes(_inferred(model))
    shorten_names(model)
    _name_batch(model)
    model = _inferred(model)
    _keep_used_opsets(model)
    input_axes = {
        spec.name: axes
        for spec in source.inputs
        if (axes := _composed(spec, source.nchw_inputs, stripped_inputs.get(spec.name))) is not None
    }
    after = count_ops(model)["Transpose"]
    return Prepared(model, input_axes, dict(stripped_outputs), before, after, tuple(notes))


def _check_tensors(model: Any, source: Source) -> None:
    """The graph's inputs and outputs are the base model's, by name."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for kind, found, wanted in (
        ("inputs", [i.name for i in model.graph.input if i.name not in constants], [s.name for s in source.inputs]),
        ("outputs", [o.name for o in model.graph.output], [s.name for s in source.outputs]),
    ):
        if sorted(found) != sorted(wanted):
            raise ToolError(f"{source.onnx.name} has the {kind} {found}, but the base model has {wanted}")


def _ort_optimized(path: Path, scratch: Path) -> Any:
    """The graph after ONNX Runtime's basic optimizations, which use standard operators only."""
    import onnx
    import onnxruntime as ort

    scratch.mkdir(parents=True, exist_ok=True)
    target = scratch / "optimized.onnx"
    options = session_options()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        # In a graph that was trained with rounding the first would choose scales for the kernels anew, and the second lets
        # pairs of QuantizeLinear and DequantizeLinear stand in the way of Transposes.
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISTURBING)
        return onnx.load(target)
    except Exception as error:
        raise ToolError(f"ONNX Runtime could not load {path.name}: {one_line(error)}") from error


def session_options() -> Any:
    """One thread and only errors logged: workers of several toolchains share the machine."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _slimmed(model: Any) -> tuple[Any, list[str]]:
    """Fold constants and shape arithmetic with onnxslim. Should it fail, the graph is right as it is, and a note says so."""
    import copy

    import onnxslim

    try:
        slim = onnxslim.slim(copy.deepcopy(model))
    except Exception as error:  # noqa: BLE001 - an optional optimizer may raise anything; the note carries its words
        return model, [f"onnxslim could not simplify the graph: {one_line(error)}"]
    return slim, []


def _inferred(model: Any) -> Any:
    """Shapes inferred afresh; old ones go first, since rewrites made some of them wrong."""
    import onnx

    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _name_batch(model: Any) -> None:
    """Call the free leading dimension of every input and output `batch`."""
    free = [i.type.tensor_type.shape.dim for i in model.graph.input]
    if not all(dims and not dims[0].HasField("dim_value") for dims in free):
        return
    for tensor in (*model.graph.input, *model.graph.output):
        dims = tensor.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"


def _keep_used_opsets(model: Any) -> None:
    """ONNX Runtime declares every operator domain it knows; keep those that nodes use."""
    used = {"" if node.domain == "ai.onnx" else node.domain for node in nodes(model.graph)} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _composed(spec: TensorSpec, nchw_inputs: tuple[str, ...], stripped: Axes | None) -> Axes | None:
    """Axes from the base model's layout to the graph's: what the exporter moved, then what the rewrites moved."""
    rank = len(spec.shape)
    exported = NHWC_TO_NCHW if spec.name in nchw_inputs and rank == len(NHWC_TO_NCHW) else tuple(range(rank))
    axes = exported if stripped is None else tuple(exported[i] for i in stripped)
    return None if axes == tuple(range(rank)) else axes


def nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of subgraphs (loop bodies, branches) included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from nodes(subgraph)


def count_ops(model: Any) -> Counter[str]:
    """How many nodes of each operator type there are, subgraphs included."""
    return Counter(node.op_type for node in nodes(model.graph))


def constant_tensors(graph: Any) -> Iterator[Any]:
    """All constant tensors: initializers and the values of Constant nodes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield attribute.t
            if attribute.HasField("g"):
                yield from constant_tensors(attribute.g)


def weight_dtypes(model: Any) -> dict[str, int]:
    """What the constant tensors hold: dtype name -> elements. Packed 4-bit blocks count as `int4` weights, not as bytes."""
    packed = {
        node.input[1]: {a.name: a.i for a in node.attribute}
        for node in nodes(model.graph)
        if node.op_type == "MatMulNBits"
    }
    counts: Counter[str] = Counter()
    for tensor in constant_tensors(model.graph):
        if (block := packed.get(tensor.name)) is not None:
            counts[f"int{block['bits']}"] += block["K"] * block["N"]
        else:
            counts[dtype_name(tensor.data_type)] += int(np.prod(list(tensor.dims), dtype=np.int64))
    return dict(counts)


def values_outside_float16(model: Any) -> int:
    """How many float32 constants are too large for float16."""
    from onnx import TensorProto, numpy_helper

    floats = (tensor for tensor in constant_tensors(model.graph) if tensor.data_type == TensorProto.FLOAT)
    return sum(int(np.count_nonzero(np.abs(numpy_helper.to_array(tensor)) > F16_MAX)) for tensor in floats)


def dtype_name(elem_type: int) -> str:
    """Name that numpy has for an ONNX element type."""
    import onnx

    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)).name)


def signature(model: Any, source: Source, prepared: Prepared) -> Signature:
    """Read the artifact's inputs and outputs from itself, and link each to the base model's tensor."""
    inputs = {spec.name: spec for spec in source.inputs}
    outputs = {spec.name: spec for spec in source.outputs}
    constants = {tensor.name for tensor in model.graph.initializer}
    return Signature(
        tuple(
            _spec(info, inputs[info.name], prepared.input_axes.get(info.name), forward=True)
            for info in model.graph.input
            if info.name not in constants
        ),
        tuple(
            _spec(info, outputs[info.name], prepared.output_axes.get(info.name), forward=False)
            for info in model.graph.output
        ),
    )


def _spec(info: Any, base: TensorSpec, axes: Axes | None, *, forward: bool) -> TensorSpec:
    tensor = info.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    layout = base.layout
    if layout is not None and axes is not None:
        order = axes if forward else tuple(int(i) for i in np.argsort(axes))
        layout = "".join(layout[i] for i in order)
    return TensorSpec(
        name=info.name,
        shape=shape,
        dtype=dtype_name(tensor.elem_type),
        source=base.name,
        layout=layout,
        axes=axes,
    )
