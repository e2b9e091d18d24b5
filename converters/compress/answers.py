"""The loss of a training under a teacher: how far a student's answers are from the teacher's, and from the labels.

Used by `converters.compress.teaching`. Soft labels with a temperature beside the hard ones: Hinton et al., arXiv:1503.02531. The loss is
alpha · T² · KL(teacher ‖ student, both softened by T) + (1 − alpha) · (the labels' own loss).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from converters.compress import objective
from converters.compress.context import Rows, TrainingData
from converters.compress.features import Matched

LOGITS, SOFTMAX, SIGMOID, VALUES = "logits", "softmax", "sigmoid", "values"
# Probabilities below this (the least step of float16 near one is larger) say no more than this.
_LEAST_PROBABILITY = 1e-7
_TINY = 1e-6
Loss = Callable[[Any, Any, Any], Any]


def whole_loss(
    teacher: Any, answers: Callable[[Any, Any, Any], Any], inside: Matched | None, inner: Callable[[Any, Any], Any]
) -> Loss:
    """The loss as `context.fit` wants it: the teacher answers the same inputs, without learning."""
    view, count = (objective.flat_view(teacher), 0) if inside is None else (inside.teacher, inside.outputs)

    def loss(inputs: Any, labels: Any, outputs: Any) -> Any:
        taught = view(list(inputs), training=False)
        taught = list(taught) if isinstance(taught, list | tuple) else [taught]
        if not count:
            return answers(labels, taught, outputs)
        return answers(labels, taught[:count], outputs[:count]) + inner(taught[count:], outputs[count:])

    return loss


def answer_loss(
    teacher: Any, student: Any, data: TrainingData, temperature: float, alpha: float
) -> Callable[[Any, Sequence[Any], Sequence[Any]], Any]:
    """`loss(labels, teacher's outputs, student's outputs) -> scalar`: the first output learns from both (from the teacher alone
    where the rows have no labels), further ones, which have no labels, from the teacher."""
    kinds = [(kind_of(teacher, index, data), kind_of(student, index, data)) for index in range(len(teacher.outputs))]
    labelled = data.train.labels is not None and alpha < 1
    hard = objective.task_loss(student, data.train, data.task) if labelled else None

    def loss(labels: Any, taught: Sequence[Any], learnt: Sequence[Any]) -> Any:
        parts = [
            soft_loss(wanted, given, theirs, ours, temperature)
            for wanted, given, (theirs, ours) in zip(taught, learnt, kinds, strict=True)
        ]
        first = parts[0] if hard is None else alpha * parts[0] + (1 - alpha) * hard(labels, learnt[0])
        return first + sum(parts[1:])

    return loss


def kind_of(model: Any, index: int, data: TrainingData) -> str:
    """What an output holds: logits, probabilities that exclude one another (softmax) or do not (sigmoid), or plain values."""
    alone = _only(model, index)
    rows: Rows = data.train
    if data.task != objective.CLASSIFICATION or rows.count == 0:
        return VALUES
    if objective.gives_probabilities(alone, rows):
        return SIGMOID if alone.outputs[0].shape[-1] == 1 or _ends_in_sigmoid(alone) else SOFTMAX
    # Only the first output is known to be a classifier's: others without probabilities may be anything.
    return LOGITS if index == 0 else VALUES


def _only(model: Any, index: int) -> Any:
    import keras

    return keras.Model(list(model.inputs), model.outputs[index])


def _ends_in_sigmoid(model: Any) -> bool:
    from converters.compress.graph import read_graph

    graph = read_graph(model)
    last = next((call.operation for call in graph.calls if graph.outputs[0] in call.outputs), None)
    return getattr(getattr(last, "activation", None), "__name__", type(last).__name__.lower()) == SIGMOID


def soft_loss(taught: Any, learnt: Any, teacher_kind: str, student_kind: str, temperature: float) -> Any:
    """The mean distance of the student's answers from the teacher's: a scalar.

    Classifiers: T² · KL divergence at temperature T, from logits or probabilities alike (the logarithm of a probability is a logit,
    up to a constant that the softmax takes away). Plain values: mean squared error, in units of the teacher's variance.
    """
    from keras import ops

    wanted, given = (ops.cast(y, "float32") for y in (ops.stop_gradient(taught), learnt))
    if VALUES in (teacher_kind, student_kind):
        return ops.mean(ops.square(wanted - given)) / (ops.var(wanted) + _TINY)
    if SIGMOID in (teacher_kind, student_kind) or wanted.shape[-1] == 1:
        return temperature**2 * _binary(_logit(wanted, teacher_kind), _logit(given, student_kind), temperature)
    t, s = (
        ops.log_softmax(_logarithm(y, kind) / temperature, axis=-1)
        for y, kind in ((wanted, teacher_kind), (given, student_kind))
    )
    return temperature**2 * ops.mean(ops.sum(ops.exp(t) * (t - s), axis=-1))


def _logarithm(y: Any, kind: str) -> Any:
    from keras import ops

    return y if kind == LOGITS else ops.log(ops.maximum(y, _LEAST_PROBABILITY))


def _logit(y: Any, kind: str) -> Any:
    from keras import ops

    if kind == LOGITS:
        return y
    p = ops.clip(y, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return ops.log(p) - ops.log(1 - p)


def _binary(teacher: Any, student: Any, temperature: float) -> Any:
    """Mean KL divergence of independent yes-or-no answers, from logits."""
    from keras import ops

    t, s = teacher / temperature, student / temperature
    p = ops.sigmoid(t)
    return ops.mean(
        p * (ops.log_sigmoid(t) - ops.log_sigmoid(s)) + (1 - p) * (ops.log_sigmoid(-t) - ops.log_sigmoid(-s))
    )
