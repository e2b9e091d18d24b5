"""Read and reshape OpenVINO models: a free batch for a model traced with batch 1, what constants hold, the signature.

First step of the OpenVINO toolchain: the source's SavedModel in, one float32 `ov.Model` out. It was traced with batch 1,
so freeing the batch means mending what the trace has fixed (targets of Reshape, initial states of loops) and proving on
the check rows that the freed model still computes what the base does: OpenVINO runs a loop whose states have the wrong
batch without a word, and its numbers are wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from converters.check import compare
from converters.errors import ToolError
from converters.export.base import Source
from converters.export.tool_words import one_line
from converters.support import FACT_TRAINED_RANGES
from converters.variant import Signature, TensorSpec

# Agreement that a model with a free batch must keep with the base, relative to the output's spread.
TOLERANCE = 1e-4
# The same where activations are rounded to 256 levels: sums in another order round to another level now and then.
TRAINED_TOLERANCE = 0.02
_STATE_RANK = 2
_LOOPS = ("Loop", "TensorIterator")
_BITS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64", "boolean": "bool"} | {
    f"{letter}{bits}": f"{name}{bits}"
    for letter, name in (("i", "int"), ("u", "uint"))
    for bits in (2, 3, 4, 6, 8, 16, 32, 64)
}


def read_base(source: Source) -> tuple[Any, list[str]]:
    """The base as a float32 `ov.Model` with a free batch where that holds, and notes. Raises ToolError."""
    from openvino.tools.ovc import convert_model  # `openvino` itself has it only where it could import it

    try:
        fixed = convert_model(str(source.saved_model))
    except Exception as error:
        raise ToolError(f"OpenVINO could not convert the SavedModel: {one_line(error)}") from error
    _keep_mean_dimensions(fixed)
    if all(port.get_partial_shape()[0].is_dynamic for port in fixed.inputs):
        return fixed, []
    free = fixed.clone()
    reason = _free_batch(free) or _disagreement(free, source)
    if reason is None:
        return free, []
    return fixed, [f"the batch is fixed at 1: with a free one, {reason}"]


def _free_batch(model: Any) -> str | None:
    """Free the leading dimension of all inputs of `model`, in place. Returns why it cannot be done, or None."""
    try:
        for graph in (model, *_bodies(model)):
            _mend_reshapes(graph)
            _mend_squeezes(graph)
        _mend_states(model)
        model.reshape({port: [-1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    except Exception as error:  # noqa: BLE001 - whatever OpenVINO says, the model with batch 1 remains
        return f"OpenVINO says: {one_line(error, 200)}"
    for port in model.outputs:
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic or not shape[0].is_dynamic:
            return f"output {port.any_name} would not follow it"
    return None


def _disagreement(model: Any, source: Source) -> str | None:
    """How `model` disagrees with the base on the check rows taken as one batch, or None."""
    rows, expected = source.check_rows()
    try:
        outputs = run(model, rows)
        agreement = compare({name: outputs[name] for name in expected}, expected)
    except Exception as error:  # noqa: BLE001 - whatever OpenVINO says, the model with batch 1 remains
        return f"OpenVINO says: {one_line(error, 200)}"
    if agreement.relative_error <= (TRAINED_TOLERANCE if FACT_TRAINED_RANGES in source.facts else TOLERANCE):
        return None
    return f"outputs are off by {agreement.relative_error:.1e} of their spread"


def run(model: Any, rows: dict[str, Any]) -> dict[str, Any]:
    """Outputs of an `ov.Model` by name, on all rows as one batch, computed in float32 on one thread."""
    compiled = compile_exactly(model)
    results = compiled({port.any_name: rows[port.any_name] for port in compiled.inputs})
    return {port.any_name: np.array(results[index]) for index, port in enumerate(compiled.outputs)}


def compile_exactly(model: Any) -> Any:
    """Compile for the CPU in float32 (some CPUs would compute in bf16) on one thread."""
    import openvino as ov

    return ov.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    )


def _keep_mean_dimensions(model: Any) -> None:
    """A spatial mean followed by a Reshape to [batch, channels, 1, 1] keeps its dimensions instead.

    OpenVINO 2026.4 takes such a Reshape before a 1×1 convolution with compressed weights for a change of layout, and then
    cannot compile the model.
    """
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        mean = node.input_value(0).get_node() if node.get_type_name() == "Reshape" else None
        if mean is None or mean.get_type_name() != "ReduceMean" or mean.get_attributes()["keep_dims"]:
            continue
        source, axes = mean.input_value(0), mean.input_value(1)
        shape, target = source.get_partial_shape(), node.get_output_partial_shape(0)
        if shape.rank.is_dynamic or target.rank.is_dynamic or axes.get_node().get_type_name() != "Constant":
            continue
        kept = [1 if axis in _axes(axes, len(shape)) else dim for axis, dim in enumerate(shape)]
        if len(target) == len(kept) and all(
            found == wanted for found, wanted in zip(list(target)[1:], kept[1:], strict=True)
        ):
            node.output(0).replace(ops.reduce_mean(source, axes, keep_dims=True).output(0))


def _axes(constant: Any, rank: int) -> set[int]:
    return {int(axis) % rank for axis in np.ravel(constant.get_node().data)}


def _mend_reshapes(model: Any) -> None:
    """Targets [1, …] of Reshape become [−1, …] (or [0, …], "as the input", where another −1 stands)."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape" or _is_constant(node.input_value(0)):
            continue
        target = node.input_value(1).get_node()
        shape = node.get_output_partial_shape(0)
        if target.get_type_name() != "Constant" or shape.rank.is_dynamic or len(shape) == 0 or shape[0] != 1:
            continue
        sizes = np.array(target.data, dtype=np.int64).ravel()
        if sizes[0] != 1:
            continue
        if -1 in sizes:
            if not node.get_attributes()["special_zero"]:
                continue
            sizes[0] = 0
        else:
            sizes[0] = -1
        node.input(1).replace_source_output(ops.constant(sizes).output(0))


def _is_constant(output: Any) -> bool:
    """Whether the value comes from constants alone (directly or through conversions)."""
    node = output.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _mend_squeezes(model: Any) -> None:
    """Squeeze of [1, n] to [n] before an addition, right for batch 1 only, goes: broadcasting does not need it."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Squeeze" or _is_constant(node.input_value(0)):
            continue
        before, after = node.input_value(0), node.output(0)
        shape = before.get_partial_shape()
        readers = [port.get_node().get_type_name() for port in after.get_target_inputs()]
        if shape.rank.is_static and len(shape) == _STATE_RANK and shape[0] == 1 and set(readers) == {"Add"}:
            for port in after.get_target_inputs():
                port.replace_source_output(before)


def _bodies(model: Any) -> Iterator[Any]:
    """Bodies of loops and branches, those inside others too."""
    for node in model.get_ops():
        kind = node.get_type_name()
        count = 1 if kind in _LOOPS else 2 if kind == "If" else 0
        for index in range(count):
            body = node.get_function(index) if kind == "If" else node.get_function()
            yield body
            yield from _bodies(body)


def _mend_states(model: Any) -> None:
    """Initial states [1, units] of loops become [batch, units]."""
    from openvino import opset13 as ops

    batch = None
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _LOOPS:
            continue
        for port in node.inputs():
            state = port.get_source_output().get_node()
            shape = list(state.get_output_shape(0)) if state.get_type_name() == "Constant" else []
            if len(shape) != _STATE_RANK or shape[0] != 1 or "f" not in state.get_element_type().get_type_name():
                continue
            if batch is None:
                sizes = ops.shape_of(model.inputs[0], output_type="i64")
                batch = ops.gather(sizes, ops.constant([0], dtype=np.int64), ops.constant(0, dtype=np.int64))
            target = ops.concat([batch, ops.constant([shape[1]], dtype=np.int64)], 0)
            port.replace_source_output(ops.broadcast(state, target).output(0))


def weight_dtypes(model: Any) -> dict[str, int]:
    """What the constant tensors hold: dtype name -> elements."""
    counts: Counter[str] = Counter()
    every = [node for graph in (model, *_bodies(model)) for node in graph.get_ops()]
    for node in every:
        if node.get_type_name() != "Constant":
            continue
        kind = node.get_element_type().get_type_name()
        counts[_BITS.get(kind, kind)] += int(np.prod(list(node.get_output_shape(0)), dtype=np.int64))
    return dict(counts)


def count_types(model: Any) -> Counter[str]:
    """How many nodes of each type there are at the top level."""
    return Counter(node.get_type_name() for node in model.get_ops())


def has_attention(model: Any) -> bool:
    """Whether the model multiplies two computed tensors and takes a softmax: what NNCF calls a transformer."""
    types = count_types(model)
    if types["ScaledDotProductAttention"]:
        return True
    products = (node for node in model.get_ops() if node.get_type_name() in ("MatMul", "Einsum"))
    return types["Softmax"] > 0 and any(not any(map(_is_weight, node.input_values())) for node in products)


def _is_weight(output: Any) -> bool:
    node = output.get_node()
    while node.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize", "Transpose"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def signature(path: Path, source: Source) -> tuple[Signature, Any]:
    """The artifact's signature, read back from its file, and the model read. Raises ToolError for an unknown tensor."""
    import openvino as ov

    model = ov.Core().read_model(path)
    inputs = tuple(_spec(port, source.inputs) for port in model.inputs)
    return Signature(inputs, tuple(_spec(port, source.outputs) for port in model.outputs)), model


def _spec(port: Any, known: tuple[TensorSpec, ...]) -> TensorSpec:
    base = next((spec for spec in known if spec.name in port.get_names()), None)
    if base is None:
        raise ToolError(
            f"OpenVINO names a tensor {sorted(port.get_names())}, the base model's are {[s.name for s in known]}"
        )
    shape = tuple(None if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    return TensorSpec(base.name, shape, _BITS.get(kind, kind), source=base.name, layout=base.layout)
