"""What a training minimises and what a model is judged by: the task's loss and score, for any Keras model.

Used by `converters.compress.training` and by steps that compare models. The labels belong to the first output; what a
model gives there, logits or probabilities, is read from its graph, and where that does not tell, from its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from converters.compress.context import Array, Rows
from converters.errors import ToolError

CLASSIFICATION = "classification"
CHUNK_ROWS = 256
_PROBABILITIES = ("softmax", "sigmoid")
_SCORES_RANK = 2
# Probabilities that went through 8 bits need not add up to one exactly.
_SUM_TOLERANCE = 0.05


def every_layer(model: Any) -> Iterator[Any]:
    """All layers of a model, those inside nested models and wrappers too, each once."""
    seen: set[int] = set()

    def walk(owner: Any) -> Iterator[Any]:
        wrapped = [getattr(owner, name, None) for name in ("layer", "forward_layer", "backward_layer", "cell")]
        for layer in (*getattr(owner, "layers", ()), *(item for item in wrapped if item is not None)):
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer
                yield from walk(layer)

    return walk(model)


def flat_view(model: Any) -> Any:
    """The same layers as a model that takes and gives plain lists (a Sequential, or one with dictionaries, does not)."""
    import keras

    return keras.Model(list(model.inputs), list(model.outputs))


def fixed_batch(model: Any) -> int | None:
    """The batch that a model insists on, or None when it is free."""
    return next((tensor.shape[0] for tensor in model.inputs if tensor.shape[0] is not None), None)


class Predictor:
    """A model's outputs on rows, traced once: for a model that is asked again and again while it changes."""

    def __init__(self, model: Any) -> None:
        import tensorflow as tf

        view = flat_view(model)
        self._dtypes = [tensor.dtype for tensor in model.inputs]
        self._batch = fixed_batch(model)
        self._call = tf.function(lambda *tensors: _listed(view(list(tensors), training=False)), reduce_retracing=True)

    def __call__(self, inputs: tuple[Array, ...]) -> list[Array]:
        """One array [n, …] per output, float32 or integer, from one array [n, …] per input."""
        import tensorflow as tf

        count, chunk = len(inputs[0]), self._batch or CHUNK_ROWS
        parts: list[list[Array]] = []
        for start in range(0, count, chunk):
            which = np.arange(start, start + chunk) if self._batch else np.arange(start, min(start + chunk, count))
            feed = [x[np.minimum(which, count - 1)] for x in inputs]
            outputs = self._call(*(tf.constant(x, dtype) for x, dtype in zip(feed, self._dtypes, strict=True)))
            parts.append([_widened(y.numpy())[: count - start] for y in outputs])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _widened(y: Array) -> Array:
    return y if y.dtype.kind in "iub" else y.astype(np.float32)


def score(model: Any, rows: Rows, task: str) -> float:
    """Accuracy of the first output (classification), or minus its mean squared error (regression); higher is better.

    Raises ToolError when the rows have no labels, or labels that do not fit the output.
    """
    return score_of(Predictor(model)(rows.inputs)[0], rows.labels, task)


def score_of(outputs: Array, labels: Array | None, task: str) -> float:
    """The score of answers [n, …] that are there already; see `score`."""
    if labels is None:
        raise ToolError("rows without labels cannot be scored", remedy="add y_train to the data")
    if task != CLASSIFICATION:
        targets = _targets(labels, outputs.shape)
        return -float(np.mean((outputs.astype(np.float64) - targets) ** 2))
    check_classes(outputs.shape)
    if outputs.shape[-1] > 1:
        return float(np.mean(outputs.argmax(-1) == labels))
    threshold = 0.5 if _look_like_probabilities(outputs) else 0.0
    return float(np.mean((outputs.reshape(-1) > threshold) == labels.astype(bool)))


def check_classes(shape: tuple[Any, ...]) -> None:
    """Class labels want one row of scores per row. Raises ToolError."""
    if len(shape) != _SCORES_RANK:
        raise ToolError(
            f"the first output has the shape {tuple(shape)}, and class labels need [rows, classes]",
            remedy="give a training function of your own, which knows what the labels mean",
        )


def _targets(labels: Array, shape: tuple[int, ...]) -> Array:
    if labels.size != int(np.prod(shape)):
        raise ToolError(f"labels of the shape {labels.shape} do not fit outputs of the shape {shape}")
    return labels.reshape(shape).astype(np.float64)


def gives_probabilities(model: Any, rows: Rows) -> bool:
    """Whether the first output holds probabilities (else logits): by the graph where it says so, else by the values."""
    told = _told_by_graph(model.outputs[0])
    if told is not None:
        return told
    few = Rows(tuple(x[:CHUNK_ROWS] for x in rows.inputs), None)
    return _look_like_probabilities(Predictor(model)(few.inputs)[0])


def _told_by_graph(tensor: Any) -> bool | None:
    # Keras has no public way from a tensor to the layer that made it.
    operation, _, index = tensor._keras_history  # noqa: SLF001
    if getattr(operation, "outputs", None) and getattr(operation, "layers", None):
        return _told_by_graph(operation.outputs[index])
    if type(operation).__name__ == "Softmax":
        return True
    name = getattr(getattr(operation, "activation", None), "__name__", None)
    if name in _PROBABILITIES:
        return True
    return False if name == "linear" else None


def _look_like_probabilities(outputs: Array) -> bool:
    if outputs.size == 0 or outputs.min() < 0 or outputs.max() > 1 + _SUM_TOLERANCE:
        return False
    return outputs.shape[-1] == 1 or bool(np.all(np.abs(outputs.sum(-1) - 1) < _SUM_TOLERANCE))


def task_loss(model: Any, rows: Rows, task: str) -> Callable[[Any, Any], Any]:
    """`loss(labels, first_output) -> scalar tensor`: cross-entropy of classes, from logits or from probabilities, whichever
    the model gives; mean squared error of a regression. Raises ToolError when labels and output do not fit."""
    from keras import ops

    shape = tuple(model.outputs[0].shape)
    if task != CLASSIFICATION:
        size = int(np.prod([dim or 1 for dim in shape[1:]]))
        if rows.labels is not None and rows.labels[0].size != size:
            raise ToolError(f"labels of the shape {rows.labels.shape} do not fit the first output, {shape}")
        return lambda labels, output: ops.mean(
            ops.square(output - ops.reshape(ops.cast(labels, "float32"), ops.shape(output)))
        )
    check_classes(shape)
    logits = not gives_probabilities(model, rows)
    if shape[-1] == 1:
        return lambda labels, output: ops.mean(
            ops.binary_crossentropy(ops.cast(ops.reshape(labels, (-1, 1)), "float32"), output, from_logits=logits)
        )
    return lambda labels, output: ops.mean(
        ops.sparse_categorical_crossentropy(ops.cast(labels, "int32"), output, from_logits=logits)
    )
