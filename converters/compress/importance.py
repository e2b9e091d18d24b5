"""How much each unit of channels matters: by the size of its weights, its batch norm's scale, its effect on the loss, or its activity.

Used by `converters.compress.prune_structured`; works on what `converters.compress.groups` found. All criteria are taken per
weight and divided by that weight's mean, so that layers of different sizes can be ranked together, but for `taylor`, whose values are
changes of one loss and compare as they are.

l1, l2: norm of a filter (Li et al., arXiv:1608.08710). batch_norm: |γ| (Liu et al., arXiv:1708.06519). taylor: the loss that a
filter's removal would cost to first order, |Σ g·w| (Molchanov et al., arXiv:1906.10771). activation: mean |a| over
rows and positions (after Hu et al., arXiv:1607.03250, which counts zeros).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from converters.compress.channels import TAKES, Site
from converters.compress.context import Array, Context, Rows
from converters.compress.groups import Structure
from converters.compress.objective import Predictor, fixed_batch, task_loss
from converters.compress.rebuild import values
from converters.compress.removal import Scores

BATCH_ROWS = 64
TAYLOR_ROWS, ACTIVATION_ROWS = 1024, 512


def unit_scores(model: Any, structure: Structure, by: str, context: Context) -> Scores:
    """The importance of each unit, float64 [units], higher matters more. `by`: "l1", "l2", "batch_norm", "taylor" or
    "activation"; the last two need training rows, "taylor" with labels. `structure`: of `model` itself.

    With batch_norm, units without such a layer are scored by l2. Raises ToolError when rows are needed and missing.
    """
    if by == "taylor":
        return _taylor(model, structure, context)
    if by == "activation":
        return _activation(model, structure, context)
    sizes = _mean_per_unit(structure, _filters(structure), _norm_of(by))
    if by != "batch_norm":
        return np.nan_to_num(sizes, nan=0.0)
    scales = [site for site in structure.sites if site.variable == "gamma" and _is_batch_norm(site)]
    found = _mean_per_unit(structure, scales, _norm_of("l1"))
    return np.nan_to_num(np.where(np.isnan(found), sizes, found), nan=0.0)


def _is_batch_norm(site: Site) -> bool:
    return type(site.operation).__name__ == "BatchNormalization"


def _filters(structure: Structure) -> list[Site]:
    return [site for site in structure.sites if site.filter]


def _norm_of(by: str) -> Callable[[Site], Array]:
    def norm(site: Site) -> Array:
        weight = np.abs(values(getattr(site.operation, site.variable)).astype(np.float64))
        rest = tuple(axis for axis in range(weight.ndim) if axis != site.axis)
        found: Array = weight.sum(rest) if by == "l1" else np.sqrt((weight**2).sum(rest))
        return found

    return norm


def _mean_per_unit(structure: Structure, sites: list[Site], measure: Callable[[Site], Array]) -> Scores:
    """Mean over a unit's slices in these weights of their measure, each weight's mean set to 1; NaN for units without any."""
    total, number = np.zeros(structure.unit_count + 1), np.zeros(structure.unit_count + 1)
    for site in sites:
        found = measure(site)
        mean = float(found.mean())
        units = structure.unit_of[site.ids]
        np.add.at(total, units, found / mean if mean > 0 else found)
        np.add.at(number, units, 1)
    result: Scores = np.full(structure.unit_count, np.nan)
    np.divide(total[:-1], number[:-1], out=result, where=number[:-1] > 0)
    return result


def _spread_rows(rows: Rows, limit: int) -> Rows:
    """At most so many rows, evenly from all."""
    if rows.count <= limit:
        return rows
    return rows.take(np.linspace(0, rows.count - 1, limit).astype(np.int64))


def _taylor(model: Any, structure: Structure, context: Context) -> Scores:
    """|Σ g·w| over each slice that makes or treats a channel, added up over a unit's slices, mean over batches."""
    import tensorflow as tf

    data = context.needs_data("importance by taylor")
    rows = _spread_rows(data.train, TAYLOR_ROWS)
    loss = task_loss(model, rows, data.task)
    sites = [site for site in structure.sites if site.role != TAKES and "moving" not in site.variable]
    weights = list({id(found): found for found in (_variable(site) for site in sites)}.values())
    place = {id(weight): index for index, weight in enumerate(weights)}

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def changes(inputs: Any, labels: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([weight.value for weight in weights])
            outputs = model(inputs, training=False)
            value = loss(labels, tf.cast(_first(outputs), tf.float32))
        gradients = tape.gradient(value, [weight.value for weight in weights], unconnected_gradients="zero")
        return [tf.cast(g, tf.float32) * tf.cast(w.value, tf.float32) for g, w in zip(gradients, weights, strict=True)]

    total, batches = np.zeros(structure.unit_count + 1), 0
    for inputs, labels in _batches(model, rows):
        found = [np.asarray(change, dtype=np.float64) for change in changes(inputs, labels)]
        batches += 1
        for site in sites:
            change = found[place[id(_variable(site))]]
            rest = tuple(axis for axis in range(change.ndim) if axis != site.axis)
            np.add.at(total, structure.unit_of[site.ids], np.abs(change.sum(rest)))
    return total[:-1] / max(batches, 1)


def _variable(site: Site) -> Any:
    return getattr(site.operation, site.variable)


def _first(outputs: Any) -> Any:
    import keras

    return keras.tree.flatten(outputs)[0]


def _batches(model: Any, rows: Rows) -> list[tuple[Any, Any]]:
    """Inputs in the model's own structure, and labels, batch by batch; a last incomplete one is left out where others are."""
    import keras
    import tensorflow as tf

    size = fixed_batch(model) or min(BATCH_ROWS, rows.count)
    found = []
    for start in range(0, rows.count - size + 1, size):
        which = slice(start, start + size)
        tensors = [tf.constant(x[which], t.dtype) for x, t in zip(rows.inputs, model.inputs, strict=True)]
        labels = None if rows.labels is None else tf.constant(rows.labels[which])
        found.append((keras.tree.pack_sequence_as(model.input, tensors), labels))
    return found


def _activation(model: Any, structure: Structure, context: Context) -> Scores:
    """Mean |activation| of a channel where other layers take it, each tensor's mean set to 1."""
    import keras

    rows = _spread_rows(context.needs_data("importance by activation").train, ACTIVATION_ROWS)
    sites = [site for site in structure.sites if site.role == TAKES and site.tensor is not None]
    means: dict[tuple[int, int], Any] = {}
    for site in sites:
        key = (site.tensor or 0, site.tensor_axis or 0)
        if key not in means:
            tensor = structure.graph.tensors[key[0]]
            rest = [axis for axis in range(1, len(tensor.shape)) if axis != key[1]]
            size = keras.ops.abs(keras.ops.cast(tensor, "float32"))
            means[key] = keras.ops.mean(size, axis=rest) if rest else size
    if not means:
        return np.zeros(structure.unit_count)
    outputs = Predictor(keras.Model(list(model.inputs), list(means.values())))(rows.inputs)
    found = {key: y.astype(np.float64).mean(0) for key, y in zip(means, outputs, strict=True)}
    per_unit = _mean_per_unit(structure, sites, lambda site: found[site.tensor or 0, site.tensor_axis or 0])
    return np.nan_to_num(per_unit, nan=0.0)
