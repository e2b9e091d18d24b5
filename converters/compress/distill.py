"""The step `distill`: trains a model, or a smaller student, to answer as its teacher does.

Loss and papers: `converters.compress.answers`. What may be learnt from the inside of the teacher is in `converters.compress.features`, narrower
students are made by `converters.compress.width`, compact networks by `converters.networks`. The teacher is the model as it was before the
first step, or that of a file (`converters.compress.teaching`); the student is what the earlier steps left (pruned, factorized …) unless `width`
or `student` names another. Students with rounding learn from a teacher in the steps that round (`converters.compress.quantize_train`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.compress.answers import SIGMOID, SOFTMAX, kind_of
from converters.compress.context import Context, StepResult
from converters.compress.teaching import find_teacher, lesson, load_own
from converters.compress.width import at_width
from converters.errors import RecipeError, RefusedError
from converters.networks.catalogue import NETWORKS
from converters.networks.student import student_for

# A student that begins anew has further to go than one that was trained before.
FRESH_LEARNING_RATE = 3e-3


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Train the student of the Keras `model`. Raises RecipeError, BaseModelError; RefusedError where student and teacher do not fit."""
    context.needs_data("distill")
    base = context.base()
    teacher = find_teacher(parameters["teacher"], context, lambda: base, base)
    student, fresh = _student(model, base, parameters, context)
    _check_fit(base, student)
    if fresh:
        # What earlier steps made of the weights is not in this student.
        context = dataclasses.replace(context, preserve=frozenset())
    taught = lesson(teacher.model, student, parameters, context)
    rate = parameters["learning_rate"]
    history = context.fit(
        taught.student,
        context,
        epochs=parameters["epochs"],
        learning_rate=FRESH_LEARNING_RATE if rate is None and fresh else rate,
        loss=taught.loss,
        extra_variables=taught.adapters,
        label="distill",
    )
    figures = {
        "student": _source(parameters),
        "parameters": [int(teacher.model.count_params()), int(student.count_params())],
        "features": [list(resolution) for resolution in taught.resolutions],
        **teacher.figures(context),
        "epochs": history.epochs,
        "stopped_early": history.stopped_early,
        "validation_score": max(history.scores, default=None),
        "seconds": history.seconds,
    }
    return StepResult(student, figures, context.preserve)


def _student(model: Any, base: Any, parameters: Mapping[str, Any], context: Context) -> tuple[Any, bool]:
    """The model to train, and whether its weights are begun anew."""
    named = parameters["student"]
    if named in NETWORKS:
        kind = kind_of(base, 0, context.needs_data("distill"))
        activation = kind if kind in (SOFTMAX, SIGMOID) else None
        scales = (parameters["width"] or 1.0, parameters["resolution"] or 1.0)
        return student_for(base, named, *scales, context.seed, activation), True
    if parameters["resolution"]:
        raise RecipeError(
            "distill: resolution belongs to a student of the catalogue", remedy="for example student=mobilenet_v2"
        )
    if parameters["width"] and named:
        raise RecipeError("distill: width and student exclude each other", remedy="give one of them")
    if parameters["width"]:
        return at_width(model, parameters["width"], context.seed), True
    if not named:
        return model, False
    return load_own(Path(named).expanduser(), "student")[0], True


def _source(parameters: Mapping[str, Any]) -> str:
    """Where the student comes from, in a word."""
    if parameters["student"]:
        return str(parameters["student"]) if parameters["student"] in NETWORKS else "file"
    return "width" if parameters["width"] else "model"


def _check_fit(base: Any, student: Any) -> None:
    for what, theirs, ours in (("takes", base.inputs, student.inputs), ("gives", base.outputs, student.outputs)):
        shapes = [[tuple(tensor.shape[1:]) for tensor in side] for side in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise RefusedError(f"distill: the student {what} {shapes[1]}, and the base {shapes[0]}")
