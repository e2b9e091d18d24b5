"""Decides where a network rounds once its integers run: which calls compute in integers, and which tensors share a range.

First stage of quantization-aware training, on the graph of `converters.compress.graph`; `converters.compress.quantize_build`
carries the plan out. A tensor is rounded where an integer kernel requantizes: after a convolution or product with its batch
norm and ReLU, after additions and means; not between layers that an engine fuses, nor after those that only pass integers on
(pooling by maximum, reshaping), whose input and output share one range, as all parts of a concatenation do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.compress.graph import Call, Graph

WEIGHTED = frozenset({"Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "Dense"})
# Give values of their input, or zeros, and nothing else.
PASSING = frozenset(
    {
        *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "Flatten", "Reshape", "Permute"),
        *("ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling1D", "RepeatVector", "Identity"),
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
        "ActivityRegularization",
    }
)
# Engines give their integer form the scale of its input.
AVERAGING = frozenset({"AveragePooling1D", "AveragePooling2D"})
MEANS = frozenset({"GlobalAveragePooling1D", "GlobalAveragePooling2D"})
JOINING = frozenset({"Add", "Multiply", "Subtract"})
FUSED = frozenset({"relu", "relu6"})
# TensorFlow Lite's kernels of these have ranges of their own, whatever was seen: 1/256 from 0, and 1/128 around 0.
PROBABILITY = (0.0, 255 / 256)
FIXED_RANGES = {"sigmoid": PROBABILITY, "softmax": PROBABILITY, "tanh": (-1.0, 127 / 128)}
GATED = frozenset({"silu", "swish"})
RELU6 = 6.0
FLOAT, PASS, AVERAGE, CONCAT, COMPUTE = "float", "pass", "average", "concat", "compute"


@dataclass(slots=True)
class Plan:
    """What becomes of each call, by `id`. `kinds`: one of the words above. `folded`: the batch norm that a weighted call takes
    in. `activations`: what a weighted call ends with (relu or relu6) or any other call computes. `ends`: the tensor that a weighted
    or joining call ends with, after what was fused. `skipped`: calls that another one takes in. `ranges`: the range's number by
    tensor, for tensors that are rounded. `fixed`: range by its number. `left_alone`: name → reason."""

    kinds: dict[int, str] = field(default_factory=dict)
    folded: dict[int, Call] = field(default_factory=dict)
    activations: dict[int, str] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    ranges: dict[int, int] = field(default_factory=dict)
    fixed: dict[int, tuple[float, float]] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)


def make_plan(graph: Graph) -> Plan:
    """The plan for a graph."""
    plan = Plan(left_alone=dict(graph.unopened))
    uses = Counter(id(call.operation) for call in graph.calls)
    consumers = graph.consumers()
    for call in graph.calls:
        if id(call) not in plan.skipped:
            _decide(call, graph, plan, uses, consumers)
    _share_ranges(graph, plan)
    return plan


def activation_of(call: Call) -> str | None:
    """What an activation layer or operation computes: relu, relu6, linear, sigmoid …; None when the call is no activation."""
    operation, kind = call.operation, type(call.operation).__name__
    if kind == "ReLU":
        plain = not operation.negative_slope and not operation.threshold
        cap = operation.max_value
        return "other" if not plain else "relu" if cap is None else "relu6" if cap == RELU6 else "other"
    if kind == "Softmax":
        return "softmax" if getattr(operation, "axis", -1) == -1 else "other"
    if kind == "Activation":
        return own_activation(operation)
    if type(operation).__module__.startswith("keras.src.ops") and kind in ("Relu", "Relu6", "Sigmoid", "Tanh", "Silu"):
        return kind.lower()
    return None


def own_activation(layer: Any) -> str:
    """Name of a layer's own activation; "linear" when it has none."""
    activation = getattr(layer, "activation", None)
    return "linear" if activation is None else str(getattr(activation, "__name__", "other"))


def _decide(call: Call, graph: Graph, plan: Plan, uses: Counter[int], consumers: dict[int, list[Call]]) -> None:
    reason = _unfit(call, graph, uses)
    kind = type(call.operation).__name__
    activation = activation_of(call)
    if reason is None and kind in WEIGHTED:
        plan.kinds[id(call)] = COMPUTE
        _fuse(call, graph, plan, uses, consumers)
    elif reason is None and kind in JOINING:
        plan.kinds[id(call)] = COMPUTE
        _take_activation(call, call.outputs[0], graph, plan, uses, consumers)
    elif reason is None and (kind in MEANS or kind == "Rescaling"):
        plan.kinds[id(call)] = COMPUTE
        plan.ends[id(call)] = call.outputs[0]
    elif reason is None and activation is not None:
        plan.kinds[id(call)] = PASS if activation == "linear" else COMPUTE
        plan.activations[id(call)] = activation
        plan.ends[id(call)] = call.outputs[0]
    elif reason is None:
        plan.kinds[id(call)] = CONCAT if kind == "Concatenate" else AVERAGE if kind in AVERAGING else PASS
    else:
        plan.kinds[id(call)] = FLOAT
        plan.left_alone[call.name] = reason


def _unfit(call: Call, graph: Graph, uses: Counter[int]) -> str | None:
    """Why a call stays in float; None when it does not."""
    operation, kind = call.operation, type(call.operation).__name__
    activation = activation_of(call)
    if not type(operation).__module__.startswith("keras."):
        return f"{kind} is a layer of your own"
    if getattr(operation, "weights", None) and uses[id(operation)] > 1:
        return "it is shared: called more than once, with one set of weights for inputs of different ranges"
    if any(not str(graph.tensors[tensor].dtype).startswith(("float", "bfloat")) for tensor in call.inputs):
        return "its input is not of real numbers"
    if kind in WEIGHTED:
        return _unfit_weighted(operation)
    if kind in JOINING:
        two = len(call.inputs) == len(set(call.inputs)) == 2  # noqa: PLR2004
        return None if two else "it joins other than two different tensors"
    if kind == "Rescaling":
        return None if np.ndim(operation.scale) == np.ndim(operation.offset) == 0 else "it scales by channel"
    if activation is not None:
        known = activation in {"linear", *FUSED, *GATED, *FIXED_RANGES}
        return None if known else f"the activation {activation} has no integer form that all engines share"
    if kind in PASSING | AVERAGING | MEANS | {"Concatenate"}:
        return None
    if kind == "BatchNormalization":
        return "a batch norm that does not follow a convolution or product of its own"
    return f"{kind} is computed in float"


def _unfit_weighted(layer: Any) -> str | None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "its channels come first"
    if getattr(layer, "groups", 1) != 1:
        return "its channels are grouped"
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None) is not None:
        return "it holds adapters or is quantized already"
    return None


def _sole_reader(tensor: int, graph: Graph, consumers: dict[int, list[Call]]) -> Call | None:
    readers = consumers.get(tensor, [])
    return readers[0] if len(readers) == 1 and tensor not in graph.outputs else None


def _fuse(call: Call, graph: Graph, plan: Plan, uses: Counter[int], consumers: dict[int, list[Call]]) -> None:
    """Take in the batch norm and the activation that follow a weighted call."""
    end = call.outputs[0]
    own = own_activation(call.operation)
    if own == "linear":
        follower = _sole_reader(end, graph, consumers)
        if follower is not None and _foldable(follower, graph, uses):
            plan.folded[id(call)] = follower
            plan.skipped.add(id(follower))
            end = follower.outputs[0]
        _take_activation(call, end, graph, plan, uses, consumers)
        return
    plan.activations[id(call)] = own
    plan.ends[id(call)] = end
    if own not in FUSED | GATED | set(FIXED_RANGES):
        plan.left_alone[f"{call.name}:{own}"] = "the activation has no integer form that all engines share"


def _foldable(call: Call, graph: Graph, uses: Counter[int]) -> bool:
    if type(call.operation).__name__ != "BatchNormalization" or not type(call.operation).__module__.startswith(
        "keras."
    ):
        return False
    rank = len(graph.shape(call.inputs[0]))
    axis = call.operation.axis
    last = (axis if isinstance(axis, int) else axis[0]) % rank == rank - 1
    # `training=True` would make it use the batch's own statistics, and a mask leave rows out.
    plain = not call.kwargs.get("training") and call.kwargs.get("mask") is None
    return last and plain and uses[id(call.operation)] == 1


def _take_activation(
    call: Call, end: int, graph: Graph, plan: Plan, uses: Counter[int], consumers: dict[int, list[Call]]
) -> None:
    follower = _sole_reader(end, graph, consumers)
    if follower is not None and activation_of(follower) in FUSED and _unfit(follower, graph, uses) is None:
        plan.activations[id(call)] = str(activation_of(follower))
        plan.skipped.add(id(follower))
        end = follower.outputs[0]
    plan.ends[id(call)] = end


def _share_ranges(graph: Graph, plan: Plan) -> None:
    """Number the ranges: tensors of one number have one range."""
    parent = list(range(len(graph.tensors)))

    def root(tensor: int) -> int:
        while parent[tensor] != tensor:
            tensor = parent[tensor]
        return tensor

    touched: set[int] = set()
    for call in graph.calls:
        kind = plan.kinds.get(id(call))
        if kind in (PASS, AVERAGE, CONCAT):
            for tensor in call.inputs:
                parent[root(tensor)] = root(call.outputs[0])
        elif kind == COMPUTE:
            touched.update((*call.inputs, plan.ends[id(call)]))
    numbers = {root(tensor) for tensor in touched}
    plan.ranges = {tensor: root(tensor) for tensor in range(len(parent)) if root(tensor) in numbers}
    makers = Counter(plan.ranges[tensor] for tensor in _makers(graph, plan) if tensor in plan.ranges)
    for call in graph.calls:
        own = FIXED_RANGES.get(plan.activations.get(id(call), ""))
        if plan.kinds.get(id(call)) == COMPUTE and own is not None:
            number = plan.ranges[plan.ends[id(call)]]
            if makers[number] == 1:
                plan.fixed[number] = own


def _makers(graph: Graph, plan: Plan) -> list[int]:
    """Tensors that are new: inputs, and what calls compute rather than pass on."""
    made = list(graph.inputs)
    for call in graph.calls:
        kind = plan.kinds.get(id(call))
        if kind == COMPUTE:
            made.append(plan.ends[id(call)])
        elif kind == FLOAT:
            made.extend(call.outputs)
    return made
