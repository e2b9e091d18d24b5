"""Measures the statistics of batch norms anew on training rows, for steps that change a model and do not train it.

A batch norm divides by the mean and variance that its inputs had in the base. Once weights are zeroed, shared, split or removed, they have
others; training would find them, and where there is none they are measured: Li et al., arXiv:2007.02491 (EagleEye, section 3.3:
adaptive batch normalization of pruned networks). No weight is trained, labels are not read. Keras at call time only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from converters.compress.context import Array, Context, Rows
from converters.compress.objective import every_layer, fixed_batch, flat_view

MOST_ROWS = 4096
BATCH_ROWS = 256
# Fewer rows say too little of a mean, let alone of a variance.
LEAST_ROWS = 128
_Moments = dict[int, list[tuple[Array, Array]]]


def measured_again(model: Any, context: Context) -> int:
    """Give the batch norms of `model` the mean and variance of their inputs on up to 4,096 training rows, all of them at once
    for the whole model: each sees what the norms before it make of a batch by its own statistics, as in training.

    Returns how many norms were measured: none without rows (at least 128), or where nothing is normalized. Frozen norms, those with
    batch renormalization and subclasses stay as they are. The same rows give the same bytes.
    """
    rows = None if context.data is None else context.data.train
    norms = [layer for layer in every_layer(model) if _is_plain(layer)]
    if rows is None or rows.count < LEAST_ROWS or not norms:
        return 0
    chosen = np.random.default_rng([context.seed, 2]).permutation(rows.count)[:MOST_ROWS]
    with _watched(norms) as moments:
        _run(model, rows, chosen)
    for norm in norms:
        # One that is called several times (a shared one) has the moments of all that it sees.
        seen = moments[id(norm)]
        mean = np.mean([mean for mean, _ in seen], axis=0)
        square = np.mean([variance + mean**2 for mean, variance in seen], axis=0)
        if seen:
            norm.moving_mean.assign(mean.astype(np.float32))
            norm.moving_variance.assign(np.maximum(square - mean**2, 0).astype(np.float32))
    return len(norms)


def _is_plain(layer: Any) -> bool:
    import keras

    return type(layer) is keras.layers.BatchNormalization and layer.trainable and not getattr(layer, "renorm", False)


def _run(model: Any, rows: Rows, chosen: Array) -> None:
    """Pass the rows through the model in batches of one size; what is over is left out."""
    import tensorflow as tf

    view, dtypes = flat_view(model), [tensor.dtype for tensor in model.inputs]
    batch = fixed_batch(model) or min(BATCH_ROWS, len(chosen))
    for start in range(0, len(chosen) - batch + 1, batch):
        which = chosen[start : start + batch]
        view([tf.constant(x[which], dtype) for x, dtype in zip(rows.inputs, dtypes, strict=True)], training=False)


@contextlib.contextmanager
def _watched(norms: list[Any]) -> Iterator[_Moments]:
    """While this lasts, these layers normalize by the batch, and the moments of every call are noted; no other layer trains."""
    moments: _Moments = {id(norm): [] for norm in norms}

    def watching(norm: Any) -> Any:
        inner, found = norm.call, moments[id(norm)]

        def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: ARG001  Keras gives it
            outputs = inner(inputs, training=True, mask=mask)
            found.append((np.asarray(norm.moving_mean.value, float), np.asarray(norm.moving_variance.value, float)))
            return outputs

        return call

    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # the moving averages are then the batch's own
            # An attribute of the instance stands before the class's method; written past Keras, which would track it.
            norm.__dict__["call"] = watching(norm)
        yield moments
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.__dict__.pop("call", None)
