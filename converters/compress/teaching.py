"""Who teaches, and what a training under a teacher is given: its loss, and what is learnt from the teacher's inside.

Used by `converters.compress.distill` and, for networks with rounding, by `converters.compress.quantize_train`. The teacher is the model as it
was before the first step, or any other Keras model that takes the same rows and gives answers of the same shape. It never learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.base_model import inspect_base
from converters.compress import features, objective
from converters.compress.answers import Loss, answer_loss, whole_loss
from converters.compress.context import Context, Rows
from converters.compress.features import SOFT, Resolution
from converters.errors import RecipeError, RefusedError
from converters.step_catalogue import TEACHER_BASE

_ANOTHER = "a teacher gets the rows just as the base does, and answers the same question"


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A frozen keras.Model. `name`: "base", or its file's; `sha256`: of the file, None for the base."""

    model: Any
    name: str
    sha256: str | None = None

    def figures(self, context: Context) -> dict[str, Any]:
        """What the lineage says of it. `teacher_validation_score`: None without labels."""
        data = context.needs_data("a training under a teacher")
        labelled = data.validation.labels is not None
        score = objective.score(self.model, data.validation, data.task) if labelled else None
        told = {"teacher": self.name, "teacher_validation_score": score}
        return told if self.sha256 is None else told | {"teacher_sha256": self.sha256}


def find_teacher(named: str, context: Context, base: Callable[[], Any], like: Any) -> Teacher:
    """The teacher that a parameter names: the base, or the model of a file, which must fit the rows and the outputs of `like`.

    Raises RecipeError where there is no such file, BaseModelError where Keras cannot load it, RefusedError where it does not fit.
    """
    if named == TEACHER_BASE:
        return Teacher(base(), TEACHER_BASE)
    path = Path(named).expanduser()
    model, sha256 = load_own(path, "teacher")
    model.trainable = False
    return Teacher(_fitted(model, like, context.needs_data("a training under a teacher").train), path.name, sha256)


def load_own(path: Path, what: str) -> tuple[Any, str]:
    """The keras.Model of a file of the user's own, and the file's SHA-256. `what` it is to be, for the error.

    As safe as a base model: the archive is looked at before it is opened, and no code of the file's own runs. Raises RecipeError,
    BaseModelError.
    """
    from converters.export.keras_base import load_keras

    if not path.is_file():
        raise RecipeError(f"there is no {what} {path}")
    found = inspect_base(path)
    return load_keras(path), found.sha256


def _fitted(teacher: Any, like: Any, rows: Rows) -> Any:
    """The teacher with inputs and outputs in the order of `like`'s: by name where both have the same names, else as they come."""
    import keras

    inputs = _in_order(teacher.inputs, _names(teacher.inputs), _names(like.inputs))
    outputs = _in_order(teacher.outputs, _output_names(teacher), _output_names(like))
    seen = [x.shape[1:] for x in rows.inputs]
    _check_shapes("takes", [tuple(t.shape[1:]) for t in inputs], "the rows are", seen)
    _check_shapes("gives", [tuple(t.shape[1:]) for t in outputs], "the base gives", [t.shape[1:] for t in like.outputs])
    for theirs, ours in zip(inputs, like.inputs, strict=True):
        if "float" in ours.dtype and "float" not in theirs.dtype:
            raise RefusedError(f"the teacher takes {theirs.dtype}, and the base {ours.dtype}", remedy=_ANOTHER)
    batch = objective.fixed_batch(teacher)
    if batch is not None and batch != objective.fixed_batch(like):
        raise RefusedError(f"the teacher takes {batch} rows at once", remedy="save it with a free batch (None)")
    moved = [id(t) for t in (*inputs, *outputs)] != [id(t) for t in (*teacher.inputs, *teacher.outputs)]
    if not moved:
        return teacher
    found = keras.Model(inputs, outputs)
    found.trainable = False
    return found


def _names(tensors: Sequence[Any]) -> list[str]:
    return [tensor.name for tensor in tensors]


def _output_names(model: Any) -> list[str]:
    return list(getattr(model, "output_names", ()))


def _in_order(tensors: Sequence[Any], names: list[str], wanted: list[str]) -> list[Any]:
    if len(set(names)) < len(tensors) or sorted(names) != sorted(wanted):
        return list(tensors)
    return [tensors[names.index(name)] for name in wanted]


def _check_shapes(does: str, theirs: Sequence[Any], they: str, ours: Sequence[Any]) -> None:
    """Sides that are free (None) fit any."""
    fit = len(theirs) == len(ours) and all(
        len(a) == len(b) and all(None in pair or pair[0] == pair[1] for pair in zip(a, b, strict=True))
        for a, b in zip(theirs, ours, strict=True)
    )
    if not fit:
        told = [tuple(shape) for shape in ours]
        raise RefusedError(f"the teacher {does} {list(theirs)}, and {they} {told}", remedy=_ANOTHER)


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What `context.fit` is given: `student` to train in the student's place (its layers, and more outputs where features are
    compared), `loss`, and `adapters` to train beside it. `resolutions`: of the features that are compared."""

    student: Any
    loss: Loss
    adapters: tuple[Any, ...]
    resolutions: tuple[Resolution, ...]


def lesson(
    teacher: Any, student: Any, parameters: Mapping[str, Any], context: Context, answering: Any = None
) -> Lesson:
    """The lesson that the parameters `temperature`, `alpha` and `method` describe. `answering`: a model with outputs of the same kind as
    the student's, for a student from whose graph that cannot be told. Raises RefusedError where there are no features to compare."""
    data = context.needs_data("a training under a teacher")
    method = parameters["method"]
    inside = None if method == SOFT else features.matched(teacher, student, method)
    adapters = inside.adapters(context.seed) if inside and method == features.HINTS else ()
    kinds_of = student if answering is None else answering
    answers = answer_loss(teacher, kinds_of, data, parameters["temperature"], parameters["alpha"])
    loss = whole_loss(teacher, answers, inside, features.loss_of(method, adapters))
    if inside is None:
        return Lesson(student, loss, adapters, ())
    return Lesson(inside.student, loss, adapters, inside.resolutions)
