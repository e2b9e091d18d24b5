"""Keras to ONNX: one trace with a free batch through tf2onnx, in the same process that loaded the base.

Runs in the TensorFlow worker. The result is float32 and plain; the ONNX toolchain simplifies and quantizes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.errors import ToolError
from converters.export.keras_base import LoadedBase, frozen

BATCH = "batch"


def to_onnx(base: LoadedBase, nchw_inputs: Sequence[str], opset: int) -> Any:
    """An `onnx.ModelProto` with the base's names, images in NCHW. Raises ToolError with the tool's words."""
    import onnx
    import tf2onnx

    names = [spec.name for spec in base.outputs]
    serve, _ = frozen(base, base.fixed_batch)
    try:
        model, _ = tf2onnx.convert.from_function(
            serve,
            input_signature=serve.input_signature,
            opset=opset,
            inputs_as_nchw=[f"{name}:0" for name in nchw_inputs] or None,
        )
        _replace_erfc(model.graph)
        _name_batch(model.graph, base.fixed_batch)
        _order_outputs(model.graph, names)
        onnx.checker.check_model(model)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, onnx.checker.ValidationError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ToolError(f"tf2onnx: {' '.join(lines)[:300] or type(error).__name__}") from error
    return model


def _replace_erfc(graph: Any) -> None:
    """A gelu becomes `Erfc`, which ONNX does not have: erfc(x) = 1 − erf(x)."""
    import numpy as np
    from onnx import helper, numpy_helper

    nodes = []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        erf, one = f"{node.output[0]}_erf", f"{node.output[0]}_one"
        graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), one))
        nodes.append(helper.make_node("Erf", [node.input[0]], [erf], name=f"{node.name}_erf"))
        nodes.append(helper.make_node("Sub", [one, erf], [node.output[0]], name=f"{node.name}_sub"))
    if len(nodes) != len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)


def _name_batch(graph: Any, fixed_batch: int | None) -> None:
    """One name for the free batch of all inputs and outputs, instead of a different unknown for each."""
    if fixed_batch is not None:
        return
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value:
            dims[0].dim_param = BATCH


def _order_outputs(graph: Any, names: Sequence[str]) -> None:
    """Outputs in the base's order; tf2onnx sorts them by name."""
    by_name = {value.name: value for value in graph.output}
    ordered = [by_name[name] for name in names]
    del graph.output[:]
    graph.output.extend(ordered)


def constant_matmuls(graph: Any, outer: frozenset[str] = frozenset()) -> int:
    """MatMul and Gemm nodes with a constant weight, in this graph and in the bodies of its loops."""
    constants = outer | {tensor.name for tensor in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    count = 0
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants:
            count += 1
        count += sum(
            constant_matmuls(attribute.g, constants) for attribute in node.attribute if attribute.HasField("g")
        )
    return count
