"""Rules for what holds no weights: merging tensors, moving values about, pooling, and bare operations (`ops.` in the table).

Used by `converters.compress.channel_rules`; see there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from converters.compress.channels import Ids, Label, Rule, Trace
from converters.compress.context import Array
from converters.compress.graph import Call, Ref


def same(trace: Trace, call: Call) -> list[Label]:
    """Every value is treated alone."""
    return [list(trace.label(call.inputs[0]))]


def spatial(trace: Trace, call: Call) -> list[Label]:
    """Pooling, padding, cropping, enlarging: channels pass, other axes change."""
    label = trace.label(call.inputs[0])
    first = getattr(call.operation, "data_format", None) == "channels_first"
    axis = 1 if first else len(label) - 1
    trace.fence(label, f"{call.name} works along this axis", besides=axis)
    rank = len(trace.graph.shape(call.outputs[0]))
    out: Label = [None] * rank
    # Global pooling may leave out the axes that it pooled.
    out[1 if first else rank - 1] = label[axis]
    return [out]


def merge(trace: Trace, call: Call) -> list[Label]:
    """Values at the same place come together, so their channels are one. Ranks may differ in layers only, which fill up after
    the batch; a tensor with one channel is spread over all."""
    import keras

    labels = [trace.label(tensor) for tensor in call.inputs]
    shapes = [trace.graph.shape(tensor) for tensor in call.inputs]
    rank = len(trace.graph.shape(call.outputs[0]))
    if not isinstance(call.operation, keras.layers.Layer) and any(len(label) != rank for label in labels):
        return trace.unmoved(call, "merges tensors of different ranks")
    if not _only_numbers(call):
        return trace.unmoved(call, "holds a constant tensor")
    out: Label = [None]
    for axis in range(1, rank):
        parts: list[tuple[Ids | None, int | None]] = []
        for label, shape in zip(labels, shapes, strict=True):
            place = axis - rank + len(label)
            parts.append((label[place], shape[place]) if place > 0 else (None, 1))
        out.append(_merged_axis(trace, call, parts))
    return [out]


def _merged_axis(trace: Trace, call: Call, parts: Sequence[tuple[Ids | None, int | None]]) -> Ids | None:
    live = [ids for ids, _ in parts if ids is not None]
    if not live:
        return None
    widest = max(len(ids) for ids in live)
    whole = [ids for ids in live if len(ids) == widest]
    if any(dim is None or dim not in (1, widest) or (ids is None and dim == widest) for ids, dim in parts):
        for ids in live:
            trace.channels.fence(ids, f"{call.name} merges them with a tensor that keeps all its channels")
        return None
    for ids in live:
        if len(ids) < widest:
            trace.channels.fence(ids, f"{call.name} spreads this one channel over others")
    for ids in whole[1:]:
        trace.channels.unite(whole[0], ids)
    return whole[0]


def _only_numbers(call: Call) -> bool:
    """Whether a call is given tensors of the graph and plain numbers only."""
    import keras

    leaves = keras.tree.flatten((call.args, call.kwargs))
    return all(leaf is None or isinstance(leaf, Ref | bool | int | float | str) for leaf in leaves)


def concatenate(trace: Trace, call: Call) -> list[Label]:
    """Channels stand one after the other along the axis; along the others they are one."""
    labels = [trace.label(tensor) for tensor in call.inputs]
    shapes = [trace.graph.shape(tensor) for tensor in call.inputs]
    rank = len(labels[0])
    joined = call.operation.axis % rank if call.operation.axis is not None else None
    if joined is None or joined == 0 or not _only_numbers(call):
        return trace.unmoved(call, "joins rows, or constants")
    out: Label = [None]
    for axis in range(1, rank):
        parts = [(label[axis], shape[axis]) for label, shape in zip(labels, shapes, strict=True)]
        out.append((_joined_axis if axis == joined else _merged_axis)(trace, call, parts))
    return [out]


def _joined_axis(trace: Trace, call: Call, parts: Sequence[tuple[Ids | None, int | None]]) -> Ids | None:
    live = [part for part, _ in parts if part is not None]
    if not live:
        return None
    if any(dim is None for _, dim in parts):
        for part in live:
            trace.channels.fence(part, f"{call.name} joins them with a tensor of free size")
        return None
    found: list[Ids] = []
    for ids, dim in parts:
        # What is no layer's channels (the model's own input, say) gets numbers too, and stays.
        found.append(trace.channels.new(dim or 0) if ids is None else ids)
        if ids is None:
            trace.channels.fence(found[-1], "these are no layer's channels")
    return np.concatenate(found)


def reduce(trace: Trace, call: Call) -> list[Label]:
    """A mean, sum or maximum over axes that hold no channels."""
    label = trace.label(call.inputs[0])
    given = call.operation.axis
    axes = (
        {axis % len(label) for axis in (given if isinstance(given, list | tuple) else [given])}
        if given is not None
        else None
    )
    if axes is None or any(label[axis] is not None for axis in axes):
        return trace.unmoved(call, "reduces over channels")
    if call.operation.keepdims:
        return [list(label)]
    return [[ids for axis, ids in enumerate(label) if axis not in axes]]


def rearrange(trace: Trace, call: Call, transform: Callable[[Array], Array], out_shape: Sequence[int | None]) -> Label:
    """The label after values were moved: one axis of the result must hold the channels by itself, with all values of a channel
    in its slices; else they stay. `transform`: what happens to one row."""
    label, shape = trace.label(call.inputs[0]), trace.graph.shape(call.inputs[0])
    live = [axis for axis, ids in enumerate(label) if ids is not None]
    dead: Label = [None] * (len(out_shape) + 1)
    if not live:
        return dead
    sizes = [dim for dim in shape[1:] if dim is not None]
    if len(live) > 1 or len(sizes) < len(shape) - 1 or None in out_shape:
        trace.fence(label, f"{call.name} moves values in a way that is not followed")
        return dead
    axis, ids = live[0], label[live[0]]
    row = np.ones(len(sizes), dtype=int)
    row[axis - 1] = -1
    moved = transform(np.broadcast_to(np.reshape(ids, row), sizes))  # type: ignore[arg-type]
    for place in range(moved.ndim):
        slices = np.moveaxis(moved, place, 0).reshape(moved.shape[place], -1)
        if moved.shape[place] > 1 and (slices == slices[:, :1]).all():
            dead[place + 1] = np.ascontiguousarray(slices[:, 0])
            return dead
    trace.fence(label, f"{call.name} divides channels among several axes")
    return dead


def flatten(trace: Trace, call: Call) -> list[Label]:
    """All values of a row in one axis, channels last."""
    first = call.operation.data_format == "channels_first"

    def flat(row: Array) -> Array:
        return (np.moveaxis(row, 0, -1) if first and row.ndim else row).reshape(-1)

    return [rearrange(trace, call, flat, trace.graph.shape(call.outputs[0])[1:])]


def reshape(trace: Trace, call: Call) -> list[Label]:
    """Values in their order, in another shape; the shape that the layer was given follows the channels."""
    shape = trace.graph.shape(call.outputs[0])[1:]
    sizes = [-1 if dim is None else dim for dim in shape]
    label = rearrange(trace, call, lambda row: row.reshape(sizes), shape)
    if any(ids is not None for ids in label) or (id(call.operation), "target_shape") in trace.settings:
        sought: list[int | Ids] = [size if ids is None else ids for size, ids in zip(sizes, label[1:], strict=True)]
        trace.shapes(call, "target_shape", sought)
    return [label]


def permute(trace: Trace, call: Call) -> list[Label]:
    """Axes change places, and their channels with them."""
    label = trace.label(call.inputs[0])
    return [[None, *(label[axis] for axis in call.operation.dims)]]


def repeat(trace: Trace, call: Call) -> list[Label]:
    """One vector over and over."""
    return [[None, None, trace.label(call.inputs[0])[1]]]


def by_number(trace: Trace, call: Call) -> list[Label]:
    """Value by value with a number: a quotient of two tensors could not stand for a channel that is gone."""
    alone = len(call.inputs) == 1 and _only_numbers(call)
    return same(trace, call) if alone else trace.unmoved(call, "is not with a plain number")


def _named(rule: Rule, names: str, before: str = "", after: Sequence[str] = ("",)) -> dict[str, Rule]:
    return {f"{before}{name}{end}": rule for name in names.split() for end in after}


_D: Any = ("1D", "2D", "3D")
SHAPE_RULES: dict[str, Rule] = {
    **_named(same, "ReLU LeakyReLU ELU Identity ActivityRegularization GaussianDropout GaussianNoise"),
    **_named(same, "SpatialDropout", after=_D),
    **_named(spatial, "MaxPooling AveragePooling GlobalMaxPooling GlobalAveragePooling", after=_D),
    **_named(spatial, "AdaptiveMaxPooling AdaptiveAveragePooling ZeroPadding Cropping UpSampling", after=_D),
    **_named(merge, "Add Subtract Multiply Average Maximum Minimum"),
    "Concatenate": concatenate,
    "Flatten": flatten,
    "Reshape": reshape,
    "Permute": permute,
    "RepeatVector": repeat,
    **_named(merge, "Add Subtract Multiply Maximum Minimum", before="ops."),
    **_named(
        same,
        "Relu Relu6 Sigmoid Softplus Softsign Silu LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu",
        before="ops.",
    ),
    **_named(same, "Celu Mish Tanh TanhShrink HardTanh Negative Square Sqrt Exp Absolute Abs Identity", before="ops."),
    **_named(by_number, "Power Divide TrueDivide", before="ops."),
    **_named(reduce, "Mean Sum Max Min", before="ops."),
    "ops.Concatenate": concatenate,
}

__all__ = ["SHAPE_RULES", "same"]
