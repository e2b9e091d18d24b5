"""How each kind of Keras layer and operation treats channels: one rule per kind, for `converters.compress.channels.follow`.

A rule reads the labels of a call's inputs, says which weights the channels belong to, and gives the labels of its outputs. Only exact
types have rules: a subclass may do anything. What has no rule here is fenced by the caller and listed.
Layers that only move or merge values are in `converters.compress.channel_rules_shape`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from converters.compress.channel_rules_shape import SHAPE_RULES, same
from converters.compress.channels import Label, Product, Rule, Trace
from converters.compress.graph import Call
from converters.compress.transform_layers import FIXED, is_transform

# Activations that treat every value alone. The others (softmax and its like, glu) mix channels.
_ELEMENTWISE = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "tanh",
    "sigmoid",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "exponential",
    "softplus",
    "softsign",
    "log_sigmoid",
    "squareplus",
    "soft_shrink",
    "hard_shrink",
    "tanh_shrink",
    "threshold",
    "sparse_plus",
    "sparse_sigmoid",
)
_ELEMENTWISE_LAYERS = ("ReLU", "LeakyReLU", "ELU", "Activation")
MIXES = "mixes channels in its activation"


@functools.cache
def _elementwise() -> tuple[Any, ...]:
    import keras

    return tuple(getattr(keras.activations, name) for name in _ELEMENTWISE if hasattr(keras.activations, name))


def _apart(activation: Any) -> bool:
    """Whether an activation treats every value alone."""
    import keras

    if activation is None or any(activation is known for known in _elementwise()):
        return True
    if type(activation) is keras.layers.Activation:
        return _apart(activation.activation)
    return type(activation) in {getattr(keras.layers, name) for name in _ELEMENTWISE_LAYERS}


def _plain(layer: Any) -> bool:
    """Whether a layer's weights are what their names say: no adapters, no integers."""
    return not getattr(layer, "lora_enabled", False) and not getattr(layer, "quantization_mode", None)


def channel_axis(layer: Any, rank: int) -> int:
    """The axis of the channels in a tensor of that rank."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _positions(shape: tuple[int | None, ...], axis: int) -> int | None:
    """How many values a row has per channel; None where the shape is free."""
    rest = [dim for index, dim in enumerate(shape) if index not in (0, axis)]
    return None if None in rest else math.prod(dim for dim in rest if dim is not None)


def _product(trace: Trace, call: Call, variable: str, tensor: int, axis: int, label: Label) -> None:
    """Note the multiply-accumulates of a weight that is used once per position of `tensor`."""
    shape = list(trace.graph.shape(tensor))
    spread = tuple(ids for index, ids in enumerate(label) if ids is not None and index != axis)
    for index, ids in enumerate(label):
        if ids is not None and index != axis:
            shape[index] = 1
    trace.products.append(Product(call.operation, variable, _positions(tuple(shape), axis), spread))


def _activated(trace: Trace, call: Call, label: Label) -> list[Label]:
    """The label after the layer's own activation; one that mixes channels fences those of the last axis."""
    if not _apart(getattr(call.operation, "activation", None)) and label[-1] is not None:
        trace.channels.fence(label[-1], f"{call.name} {MIXES}")
    return [label]


def dense(trace: Trace, call: Call) -> list[Label]:
    """Takes the last axis and makes a new one; other axes pass."""
    layer, label = call.operation, trace.label(call.inputs[0])
    if not _plain(layer):
        return trace.unmoved(call, "holds adapters or quantized weights")
    last = len(label) - 1
    trace.takes(call, "kernel", 0, label[-1], last)
    made = trace.makes(call, "kernel", 1, layer.units)
    trace.also_makes(call, "bias", made)
    trace.counts(call, "units", made)
    out: Label = [*label[:-1], made]
    _product(trace, call, "kernel", call.outputs[0], last, out)
    return _activated(trace, call, out)


def convolution(trace: Trace, call: Call) -> list[Label]:
    """Takes the channels and makes others; grouped ones stay as they are."""
    layer, label = call.operation, trace.label(call.inputs[0])
    axis = channel_axis(layer, len(label))
    if is_transform(layer):
        found = trace.unmoved(call, FIXED)
        _product(trace, call, "kernel", call.outputs[0], axis, found[0])
        return found
    if layer.groups > 1:
        return trace.unmoved(call, "is a grouped convolution")
    if not _plain(layer):
        return trace.unmoved(call, "holds adapters or quantized weights")
    return _convolved(trace, call, axis, taken=layer.kernel.ndim - 2, made=layer.kernel.ndim - 1)


def transposed(trace: Trace, call: Call) -> list[Label]:
    """A transposed convolution: its kernel has the filters before the channels that it takes."""
    layer = call.operation
    axis = channel_axis(layer, len(trace.label(call.inputs[0])))
    return _convolved(trace, call, axis, taken=layer.kernel.ndim - 1, made=layer.kernel.ndim - 2, backwards=True)


def _convolved(trace: Trace, call: Call, axis: int, *, taken: int, made: int, backwards: bool = False) -> list[Label]:
    layer, label = call.operation, trace.label(call.inputs[0])
    trace.fence(label, f"{call.name} slides over this axis", besides=axis)
    trace.takes(call, "kernel", taken, label[axis], axis)
    filters = trace.makes(call, "kernel", made, layer.filters)
    trace.also_makes(call, "bias", filters)
    trace.counts(call, "filters", filters)
    out: Label = [None] * len(label)
    out[axis] = filters
    _product(trace, call, "kernel", call.inputs[0] if backwards else call.outputs[0], axis, out)
    return _activated_at(trace, call, out, axis)


def _activated_at(trace: Trace, call: Call, label: Label, axis: int) -> list[Label]:
    found = label[axis]
    if found is not None and not _apart(call.operation.activation):
        trace.channels.fence(found, f"{call.name} {MIXES}")
    return [label]


def depthwise(trace: Trace, call: Call) -> list[Label]:
    """Every channel has filters of its own and goes with them."""
    layer, label = call.operation, trace.label(call.inputs[0])
    axis = channel_axis(layer, len(label))
    trace.fence(label, f"{call.name} slides over this axis", besides=axis)
    ids = label[axis]
    trace.treats(call, "kernel", layer.kernel.ndim - 2, ids, filters=True)
    wide = None if ids is None else np.repeat(ids, layer.depth_multiplier)
    trace.treats(call, "bias", 0, wide)
    out: Label = [None] * len(label)
    out[axis] = wide
    _product(trace, call, "kernel", call.outputs[0], axis, out)
    return _activated_at(trace, call, out, axis)


def separable(trace: Trace, call: Call) -> list[Label]:
    """A depthwise convolution and one of size 1 in one layer."""
    layer, label = call.operation, trace.label(call.inputs[0])
    axis = channel_axis(layer, len(label))
    trace.fence(label, f"{call.name} slides over this axis", besides=axis)
    ids, rank = label[axis], layer.depthwise_kernel.ndim
    trace.takes(call, "depthwise_kernel", rank - 2, ids, axis)
    trace.takes(
        call, "pointwise_kernel", rank - 2, None if ids is None else np.repeat(ids, layer.depth_multiplier), axis
    )
    filters = trace.makes(call, "pointwise_kernel", rank - 1, layer.filters)
    trace.also_makes(call, "bias", filters)
    trace.counts(call, "filters", filters)
    out: Label = [None] * len(label)
    out[axis] = filters
    for variable in ("depthwise_kernel", "pointwise_kernel"):
        _product(trace, call, variable, call.outputs[0], axis, out)
    return _activated_at(trace, call, out, axis)


def embedding(trace: Trace, call: Call) -> list[Label]:
    """Makes the channels of its vectors."""
    layer = call.operation
    if not _plain(layer):
        return trace.unmoved(call, "holds adapters or quantized weights")
    made = trace.makes(call, "embeddings", 1, layer.output_dim)
    trace.counts(call, "output_dim", made)
    return [[*trace.label(call.inputs[0]), made]]


def _axes(layer: Any, rank: int) -> list[int]:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return [axis % rank for axis in axes]


def batch_normalization(trace: Trace, call: Call) -> list[Label]:
    """A scale, a shift, a mean and a variance for each channel."""
    label = trace.label(call.inputs[0])
    ids = label[_axes(call.operation, len(label))[0]]
    for variable in ("gamma", "beta", "moving_mean", "moving_variance"):
        trace.treats(call, variable, 0, ids)
    return [list(label)]


def layer_normalization(trace: Trace, call: Call) -> list[Label]:
    """Mean and variance over the channels that are there: those left are normalized otherwise when some go."""
    layer, label = call.operation, trace.label(call.inputs[0])
    axes = _axes(layer, len(label))
    if any(label[axis] is not None for axis in axes):
        trace.renormalised.add(call.name)
    for variable in ("gamma", "beta", "scale"):
        weight = getattr(layer, variable, None)
        for index, axis in enumerate(axes if hasattr(weight, "shape") else []):
            trace.treats(call, variable, index, label[axis])
    return [list(label)]


def group_normalization(trace: Trace, call: Call) -> list[Label]:
    """Channels of one group go together, so that the other groups are normalized as before."""
    layer, label = call.operation, trace.label(call.inputs[0])
    axis = _axes(layer, len(label))[0]
    trace.fence(label, f"{call.name} takes its mean over this axis", besides=axis)
    ids = label[axis]
    if ids is not None and layer.groups == 1:
        trace.renormalised.add(call.name)
    elif ids is not None:
        grouped = ids.reshape(layer.groups, -1)
        for column in range(1, grouped.shape[1]):
            trace.channels.unite(grouped[:, 0], grouped[:, column])
        trace.counts(call, "groups", ids, per=grouped.shape[1])
    for variable in ("gamma", "beta"):
        trace.treats(call, variable, 0, ids)
    return [list(label)]


def prelu(trace: Trace, call: Call) -> list[Label]:
    """A slope for each channel (and for each position, unless shared)."""
    label, shape = trace.label(call.inputs[0]), call.operation.alpha.shape
    for axis in range(1, len(label)):
        if shape[axis - 1] > 1:
            trace.treats(call, "alpha", axis - 1, label[axis])
    return [list(label)]


def activation(trace: Trace, call: Call) -> list[Label]:
    """An activation as a layer."""
    return _activated(trace, call, list(trace.label(call.inputs[0])))


def softmax(trace: Trace, call: Call) -> list[Label]:
    """Shares among the channels of its axis, which therefore stay."""
    label = list(trace.label(call.inputs[0]))
    for axis in _axes(call.operation, len(label)):
        if (ids := label[axis]) is not None:
            trace.channels.fence(ids, f"{call.name} shares among channels")
    return [label]


def dropout(trace: Trace, call: Call) -> list[Label]:
    """Passes, unless the shape of its noise is given with numbers where channels are."""
    label, noise = trace.label(call.inputs[0]), getattr(call.operation, "noise_shape", None)
    if noise is not None and any(
        ids is not None and size not in (None, 1) for ids, size in zip(label, noise, strict=True)
    ):
        return trace.unmoved(call, "has noise of a given shape")
    return same(trace, call)


def normalization(trace: Trace, call: Call) -> list[Label]:
    """Prepares the model's input with constants, which no layer's channels should meet."""
    if any(ids is not None for ids in trace.label(call.inputs[0])):
        return trace.unmoved(call, "scales channel by channel with numbers that are no weights")
    return same(trace, call)


def rescaling(trace: Trace, call: Call) -> list[Label]:
    """Passes when its factors are single numbers."""
    if np.size(call.operation.scale) > 1 or np.size(call.operation.offset) > 1:
        return trace.unmoved(call, "scales channel by channel with numbers that are no weights")
    return same(trace, call)


_DIMENSIONS = ("1D", "2D", "3D")
LAYER_RULES: dict[str, Rule] = {
    "Dense": dense,
    **{f"Conv{d}": convolution for d in _DIMENSIONS},
    **{f"Conv{d}Transpose": transposed for d in _DIMENSIONS},
    **{f"DepthwiseConv{d}": depthwise for d in _DIMENSIONS[:2]},
    **{f"SeparableConv{d}": separable for d in _DIMENSIONS[:2]},
    "Embedding": embedding,
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": layer_normalization,
    "GroupNormalization": group_normalization,
    "PReLU": prelu,
    "Activation": activation,
    "Softmax": softmax,
    "Rescaling": rescaling,
    "Normalization": normalization,
    **dict.fromkeys(("Dropout", "AlphaDropout"), dropout),
}


@functools.cache
def _layer_table() -> dict[Any, Rule]:
    import keras

    rules = LAYER_RULES | {name: rule for name, rule in SHAPE_RULES.items() if not name.startswith("ops.")}
    return {getattr(keras.layers, name): rule for name, rule in rules.items() if hasattr(keras.layers, name)}


def rule_of(operation: Any) -> Rule | None:
    """How an operation treats channels, or None when that is not known."""
    import keras

    if isinstance(operation, keras.layers.Layer):
        return _layer_table().get(type(operation))
    if type(operation).__module__.startswith("keras."):
        return SHAPE_RULES.get(f"ops.{type(operation).__name__}")
    return None


__all__ = ["rule_of"]
