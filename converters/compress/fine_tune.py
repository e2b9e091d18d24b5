"""The step `fine_tune`: ordinary training with the labels alone, the control for every step that trains.

A compressed model that was trained on for some epochs is compared with the base after the same epochs of this, not with the
base as it was: part of what training after compression gains, training alone gains too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.compress.context import Context, StepResult


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Train on for `epochs` (see `converters.compress.training.fit`), keeping what earlier steps made. Raises ToolError."""
    history = context.fit(
        model, context, epochs=parameters["epochs"], learning_rate=parameters["learning_rate"], label="fine_tune"
    )
    figures = {
        "epochs": history.epochs,
        "stopped_early": history.stopped_early,
        "validation_score": max(history.scores, default=None),
        "seconds": history.seconds,
    }
    return StepResult(model, figures, context.preserve)
