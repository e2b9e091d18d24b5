"""Trains a network with rounding, by the labels alone or under a teacher; used by `converters.compress.quantize_aware` and `mixed_precision`.

A low-precision student under a full-precision teacher: Mishra and Marr, arXiv:1711.05852 (Apprentice, scheme C: the student begins as a
trained network, rounded); Polino et al., arXiv:1802.05668.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from converters.compress.context import Context, History
from converters.compress.fake_quant import FIXED, OFF, FakeQuantize
from converters.compress.graph import read_graph
from converters.compress.teaching import Teacher, find_teacher, lesson


def teacher_of(model: Any, parameters: Mapping[str, Any], context: Context) -> Teacher | None:
    """Who teaches, by a step's parameter `teacher`; None where there are only labels. To be asked before any work.

    Raises RecipeError, BaseModelError, and RefusedError where the teacher does not fit the float `model`.
    """
    named = parameters["teacher"]
    return find_teacher(named, context, context.base, model) if named else None


def train(
    network: Any,
    model: Any,
    teacher: Teacher | None,
    parameters: Mapping[str, Any],
    context: Context,
    *,
    learning_rate: float,
    label: str,
) -> tuple[History, dict[str, Any]]:
    """Train `network`, which was built from the float `model`, and say what a lineage should know of the teacher (nothing without one).

    `parameters`: of the step; `learning_rate`: where they give none. Raises ToolError, and RefusedError where teacher and network have
    no features to compare.
    """
    rate = learning_rate if parameters["learning_rate"] is None else parameters["learning_rate"]
    if teacher is None:
        return context.fit(network, context, epochs=parameters["epochs"], learning_rate=rate, label=label), {}
    # The float model says what the outputs hold: behind roundings that is not to be seen.
    taught = lesson(teacher.model, network, parameters, context, answering=model)
    with _answers_as_computed(network):
        history = context.fit(
            taught.student,
            context,
            epochs=parameters["epochs"],
            learning_rate=rate,
            loss=taught.loss,
            extra_variables=taught.adapters,
            label=label,
        )
    resolutions = [list(resolution) for resolution in taught.resolutions]
    return history, {**teacher.figures(context), "features": resolutions}


@contextmanager
def _answers_as_computed(network: Any) -> Iterator[None]:
    """While this lasts, outputs that are probabilities are not rounded to their 256 levels.

    Nothing is trained there (the range is fixed), and the logarithm of what was rounded to 0 has no gradient: a softened teacher has
    most to say of just those classes.
    """
    graph = read_graph(network)
    makers = {tensor: call for call in graph.calls for tensor in call.outputs}
    ranges = []
    for tensor in graph.outputs:
        call = makers.get(tensor)
        while call is not None and type(call.operation).__name__ == "Identity":
            call = makers.get(call.inputs[0])
        if call is not None and isinstance(call.operation, FakeQuantize) and call.operation.mode == FIXED:
            ranges.append(call.operation)
    for layer in ranges:
        layer.mode = OFF
    try:
        yield
    finally:
        for layer in ranges:
            layer.mode = FIXED
