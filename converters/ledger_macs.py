"""Counts the multiply-accumulates (MACs) of a Keras model for one row, and those that are left when zero weights are skipped.

Used by `converters.ledger_model`. The model runs once on a row of zeros while each layer that multiplies notes the shapes it
sees: so nested models, wrappers and layers that are called twice count as often as they run. Counted are products that are
summed: kernels of all kinds, and the products of attention. Biases, norms, activations, pooling and element-wise products (the gates
of a recurrent cell) are not, as is the custom; taps that fall on padding are. *Effective* MACs are those with a weight that is not
zero: what an engine that skipped all zeros would be left with. Keras at call time only.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Operations of keras.ops in a graph that multiply and sum, beside layers.
_PRODUCTS = ("Matmul", "Dot", "Tensordot", "Inner", "Outer", "Vdot")
_UNCOUNTED_OPERATIONS = ("Conv", "DepthwiseConv", "SeparableConv", "ConvTranspose", "STFT", "ISTFT", "FFT", "RFFT")
# Layers of Keras that hold another program, or transform signals.
_UNCOUNTED_LAYERS = ("TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper", "STFTSpectrogram", "MelSpectrogram")
_CELLS = ("LSTMCell", "GRUCell", "SimpleRNNCell")
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_OWN_PACKAGE = "converters."


@dataclass(slots=True)
class Macs:
    """MACs for one row. `by_layer`: path → (MACs, effective MACs), of layers that have any. `uncounted`: path → reason, of layers that
    may multiply and were counted as 0."""

    by_layer: dict[str, tuple[int, int]] = field(default_factory=dict)
    uncounted: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """MACs of all layers."""
        return sum(all_ for all_, _ in self.by_layer.values())

    @property
    def effective(self) -> int:
        """MACs with a weight that is not zero; products of activations count fully."""
        return sum(left for _, left in self.by_layer.values())

    def add(self, path: str, macs: int, effective: int) -> None:
        """Another call of a layer."""
        before = self.by_layer.get(path, (0, 0))
        self.by_layer[path] = (before[0] + macs, before[1] + effective)


def count_macs(model: Any, shapes: Sequence[tuple[int | None, ...]] | None = None) -> Macs:
    """The MACs of a Keras model with fixed inputs, for one row.

    `shapes`: of a row of each input, in their order, where the model leaves sides free. Raises ValueError when sides stay free.
    """
    import keras

    # A Sequential, or a model that takes dictionaries, seen as one that takes a list; its layers are the same.
    flat = keras.Model(list(model.inputs), list(model.outputs))
    feed = _zeros(flat, shapes)
    macs = Macs()
    batch = int(feed[0].shape[0])
    with _watched(flat, macs):
        flat(feed, training=False)
    macs.by_layer = {path: (all_ // batch, left // batch) for path, (all_, left) in macs.by_layer.items() if all_}
    return macs


def _zeros(model: Any, shapes: Sequence[tuple[int | None, ...]] | None) -> list[Any]:
    feed = []
    for index, tensor in enumerate(model.inputs):
        row = list(tensor.shape[1:])
        if shapes is not None and len(shapes[index]) == len(row):
            row = [given if side is None else side for side, given in zip(row, shapes[index], strict=True)]
        if None in row:
            raise ValueError(f"input {tensor.name} leaves the sides {tuple(tensor.shape[1:])} free")
        feed.append(np.zeros((tensor.shape[0] or 1, *row), tensor.dtype))
    return feed


@contextlib.contextmanager
def _watched(model: Any, macs: Macs) -> Iterator[None]:
    """While this lasts, calls of the model's layers and operations are counted."""
    watched: list[Any] = []
    try:
        for operation in _operations(model):
            counter = _counter(operation, macs)
            if counter is not None:
                # An attribute of the instance stands before the class's method; written past Keras, which would track it.
                operation.__dict__["call"] = _counting(operation.call, counter)
                watched.append(operation)
        yield
    finally:
        for operation in watched:
            del operation.__dict__["call"]


def _counting(call: Callable[..., Any], counter: Callable[[dict[str, Any], Any], None]) -> Callable[..., Any]:
    signature = inspect.signature(call)

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        counter(dict(signature.bind(*args, **kwargs).arguments), result)
        return result

    return counted


def _operations(model: Any) -> list[Any]:
    """All layers, however deep, and the operations in the graphs of all models among them, each once."""
    layers = model._flatten_layers(include_self=True)  # noqa: SLF001  the one list that knows all sublayers
    found = {id(layer): layer for layer in layers}
    for layer in layers:
        found |= {id(operation): operation for operation in getattr(layer, "operations", ())}
    return list(found.values())


def _counter(operation: Any, macs: Macs) -> Callable[[dict[str, Any], Any], None] | None:
    """What notes one call of this layer or operation; None for one that multiplies nothing."""
    kind, path = _kind(operation), getattr(operation, "path", None) or operation.name
    if kind is None:
        macs.uncounted[path] = f"{type(operation).__name__} is a layer of your own: its products are not known"
        return None
    if kind in _UNCOUNTED_OPERATIONS or kind in _UNCOUNTED_LAYERS:
        macs.uncounted[path] = f"products of a {kind} are not counted"
        return None
    if getattr(operation, "quantization_mode", None) is not None:
        macs.uncounted[path] = "products of a layer that Keras has quantized are not counted"
        return None
    if kind in _WEIGHTED:
        return _weighted(operation, path, _WEIGHTED[kind], macs)
    if kind in _RECURRENT:
        return _recurrent(operation, path, macs)
    products = _ACTIVATIONS.get(kind) or (_plain_product if kind in _PRODUCTS else None)
    if kind == "Dot" and hasattr(operation, "axes"):
        products = _dot_layer  # the layer of that name
    if products is None:
        return None

    def count(given: dict[str, Any], result: Any) -> None:
        number = products(operation, given, result)
        if number is None:
            macs.uncounted[path] = f"products of this {kind} are not counted"
        else:
            macs.add(path, number, number)

    return count


def _kind(operation: Any) -> str | None:
    """The class of Keras whose `call` it runs, None for a class of the user's own."""
    for kind in type(operation).__mro__:
        if kind.__module__.startswith("keras."):
            return str(kind.__name__)
        if "call" in vars(kind) and not kind.__module__.startswith(_OWN_PACKAGE):
            return None
    return None


def _size(tensor: Any) -> int:
    return math.prod(int(side) for side in tensor.shape)


def _weights(variable: Any) -> tuple[int, int]:
    """Weights, and those that are not zero."""
    values = np.asarray(variable)
    return int(values.size), int(np.count_nonzero(values))


def _weighted(layer: Any, path: str, rule: Any, macs: Macs) -> Callable[[dict[str, Any], Any], None]:
    names, uses = rule

    def count(given: dict[str, Any], result: Any) -> None:
        times = uses(layer, next(iter(given.values())), result)
        for name in names:
            weights, left = _weights(getattr(layer, name))
            macs.add(path, times * weights, times * left)

    return count


def _per_output(layer: Any, _given: Any, result: Any) -> int:
    """Each weight of a convolution is used at each position of its output."""
    return _size(result) // int(layer.filters)


def _depthwise_uses(layer: Any, _given: Any, result: Any) -> int:
    return _size(result) // math.prod(int(side) for side in layer.kernel.shape[-2:])


def _per_input(layer: Any, given: Any, _result: Any) -> int:
    """Each weight is used with each position of the input: dense layers and transposed convolutions."""
    channels = layer.kernel.shape[0 if _kind(layer) == "Dense" else -1]
    return _size(given) // int(channels)


def _einsum_uses(layer: Any, _given: Any, result: Any) -> int:
    kernel, output = layer.equation.replace(" ", "").split(",")[1].split("->")
    kept = math.prod(int(side) for letter, side in zip(kernel, layer.kernel.shape, strict=True) if letter in output)
    return _size(result) // kept


_KERNEL = ("kernel",)
_WEIGHTED: dict[str, tuple[tuple[str, ...], Callable[[Any, Any, Any], int]]] = {
    "Dense": (_KERNEL, _per_input),
    "EinsumDense": (_KERNEL, _einsum_uses),
    **{f"Conv{rank}D": (_KERNEL, _per_output) for rank in (1, 2, 3)},
    **{f"Conv{rank}DTranspose": (_KERNEL, _per_input) for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": (_KERNEL, _depthwise_uses) for rank in (1, 2)},
    **{f"SeparableConv{rank}D": (("depthwise_kernel", "pointwise_kernel"), _per_output) for rank in (1, 2)},
}


def _recurrent(layer: Any, path: str, macs: Macs) -> Callable[[dict[str, Any], Any], None]:
    def count(given: dict[str, Any], result: Any) -> None:
        sequence = next(iter(given.values()))
        steps = int(sequence.shape[0]) * int(sequence.shape[1])
        for cell in getattr(layer.cell, "cells", None) or [layer.cell]:
            kind = _kind(cell)
            if kind not in (*_CELLS, "ConvLSTMCell"):
                macs.uncounted[getattr(cell, "path", path)] = f"products of a {type(cell).__name__} are not known"
                continue
            times = steps
            if kind == "ConvLSTMCell":
                output = result[0] if isinstance(result, list | tuple) else result
                positions = _size(output) // int(cell.filters) // int(output.shape[0])
                times *= positions // (int(sequence.shape[1]) if layer.return_sequences else 1)
            for kernel in (cell.kernel, cell.recurrent_kernel):
                weights, left = _weights(kernel)
                macs.add(path, times * weights, times * left)

    return count


def _attention_heads(layer: Any, given: dict[str, Any], _result: Any) -> int:
    """Scores and weighted sums of multi-head attention: products of activations, for each head."""
    query, value = given["query"], given["value"]
    config = layer.get_config()
    axes = config.get("attention_axes")
    rank = len(query.shape)
    axes = range(1, rank - 1) if axes is None else [axes] if isinstance(axes, int) else axes
    axes = [axis % rank for axis in axes]
    queries = math.prod(int(query.shape[axis]) for axis in axes)
    keys = math.prod(int(value.shape[axis]) for axis in axes)
    apart = math.prod(int(query.shape[axis]) for axis in range(rank - 1) if axis not in axes)
    heads = config.get("num_heads", config.get("num_query_heads"))
    widths = (
        2 * config["head_dim"]
        if "head_dim" in config
        else config["key_dim"] + (config["value_dim"] or config["key_dim"])
    )
    return apart * queries * keys * int(heads) * int(widths)


def _attention(layer: Any, given: dict[str, Any], _result: Any) -> int:
    query, value = given["inputs"][0], given["inputs"][1]
    pairs = math.prod(int(side) for side in query.shape[:-1]) * int(value.shape[-2])
    # Scores by addition are not products, unless a scale per channel is learnt.
    dot = getattr(layer, "score_mode", None) == "dot" or (
        _kind(layer) == "AdditiveAttention" and getattr(layer, "scale", None) is not None
    )
    return pairs * ((int(query.shape[-1]) if dot else 0) + int(value.shape[-1]))


def _dot_product_attention(_operation: Any, given: dict[str, Any], _result: Any) -> int:
    query, value = given["query"], given["value"]
    return _size(query) * int(value.shape[1]) * 2


def _summed(left: Any, right: Any, result: Any, batch: int) -> int:
    """MACs of a product of two tensors: each element of the result sums over what the two share and the result does not."""
    length = math.isqrt(_size(left) * _size(right) // max(_size(result) * batch, 1))
    return _size(result) * length


def _dot_layer(_layer: Any, given: dict[str, Any], result: Any) -> int:
    left, right = given["inputs"]
    return _summed(left, right, result, int(left.shape[0]))


def _plain_product(operation: Any, given: dict[str, Any], result: Any) -> int:
    left, right = given["x1"], given["x2"]
    if _kind(operation) == "Matmul":
        return _size(result) * int(left.shape[-1])
    return _summed(left, right, result, 1)


def _einsum(operation: Any, given: dict[str, Any], _result: Any) -> int | None:
    """The product of the lengths of all letters; with `...`, or more than two operands, it is not counted."""
    terms = operation.subscripts.replace(" ", "").split("->")[0].split(",")
    operands = given["operands"]
    if len(terms) != len(operands) or len(terms) != 2 or "." in operation.subscripts:  # noqa: PLR2004
        return None
    lengths: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        lengths |= {letter: int(side) for letter, side in zip(term, operand.shape, strict=True)}
    return math.prod(lengths.values())


_ACTIVATIONS: dict[str, Callable[[Any, dict[str, Any], Any], int | None]] = {
    "MultiHeadAttention": _attention_heads,
    "GroupedQueryAttention": _attention_heads,
    "Attention": _attention,
    "AdditiveAttention": _attention,
    "DotProductAttention": _dot_product_attention,
    "Einsum": _einsum,
}
