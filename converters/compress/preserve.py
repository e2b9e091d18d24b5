"""Keeps what pruning and weight sharing made through a later training: zeros stay zero, shared values stay shared.

What is to be kept is read from the weights themselves, so it survives saving, loading and a step that rebuilds the model.
The training loop calls `projection` once before it begins, and what that returns after every update. Projecting the shared
weights onto their mean gives each centroid the mean of its weights' steps: the gradient summed per centroid of Han et al.,
arXiv:1510.00149, section 3.3, divided by their number, and the same for any optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from converters.compress.context import CLUSTERS, ZEROS, Array
from converters.compress.kernels import may_be_kept

# The most values that the step `cluster` gives a tensor. More distinct ones than that, or more than half as many as there are
# weights, are no sharing: equal weights happen by chance too.
MAX_SHARED_VALUES = 4096
_Keep = Callable[[], None]


def projection(model: Any, kinds: Iterable[str]) -> Callable[[], None]:
    """What puts the kernels of a Keras model back in order after an update of its weights.

    `kinds`: of ZEROS (weights that are exactly 0 now stay so) and CLUSTERS (weights of one tensor that are equal now stay equal
    to each other; with ZEROS, those at 0 stay there). A tensor that is wholly zero, or that shares no values, is left free.
    The same updates give the same bytes: sums run in the order of the weights, in float64.
    """
    wanted = frozenset(kinds)
    keepers = [keep for variable in model.trainable_variables if (keep := _keeper(variable, wanted)) is not None]

    def keep_all() -> None:
        for keep in keepers:
            keep()

    return keep_all


def zeros(values: Array) -> Array | None:
    """The mask [shape of values] of exact zeros, or None where there are none, or nothing else."""
    mask = np.asarray(values == 0)
    return mask if mask.any() and not mask.all() else None


def shared(values: Array, *, pin_zero: bool = True) -> tuple[Array, Array] | None:
    """The distinct values [k] and the index of each weight's own [n] when the weights share values, else None.

    `pin_zero`: zeros do not count, neither as weights nor as a value.
    """
    flat = np.asarray(values).reshape(-1).astype(np.float32)
    counted = flat[flat != 0] if pin_zero else flat
    # A look at a few weights tells most tensors that share nothing, without sorting all of them.
    few = counted[: 4 * MAX_SHARED_VALUES]
    if len(np.unique(few)) > min(MAX_SHARED_VALUES, len(counted) // 2) or not len(counted):
        return None
    distinct, index = np.unique(flat, return_inverse=True)
    found = len(distinct) - (1 if pin_zero and (distinct == 0).any() else 0)
    if found > min(MAX_SHARED_VALUES, len(counted) // 2):
        return None
    return distinct, np.asarray(index.reshape(-1))


def _keeper(variable: Any, kinds: frozenset[str]) -> _Keep | None:
    if not may_be_kept(variable):
        return None
    values = np.asarray(variable.value)
    pin_zero = ZEROS in kinds
    groups = shared(values, pin_zero=pin_zero) if CLUSTERS in kinds else None
    if groups is not None:
        return _cluster_keeper(variable, *groups, pin_zero=pin_zero)
    mask = zeros(values) if pin_zero else None
    return None if mask is None else _zero_keeper(variable, mask)


def _zero_keeper(variable: Any, mask: Array) -> _Keep:
    from keras import ops

    zeroed, nothing = ops.convert_to_tensor(mask), ops.zeros((), dtype=variable.dtype)

    def keep() -> None:
        # A product with 0 would leave -0, and NaN of a step that overflowed.
        variable.assign(ops.where(zeroed, nothing, variable.value))

    return keep


def _cluster_keeper(variable: Any, distinct: Array, index: Array, *, pin_zero: bool) -> _Keep:
    counts = np.bincount(index, minlength=len(distinct))
    at_zero = np.flatnonzero(distinct == 0) if pin_zero else np.empty(0, np.int64)
    shape = tuple(variable.shape)

    def keep() -> None:
        values = np.asarray(variable.value)
        sums = np.bincount(index, weights=values.reshape(-1).astype(np.float64), minlength=len(distinct))
        centroids = sums / counts
        centroids[at_zero] = 0
        variable.assign(centroids.astype(values.dtype)[index].reshape(shape))

    return keep
