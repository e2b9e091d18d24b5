"""Compression steps for the tests of the chain: they do next to nothing, or what no step should."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.compress.context import ZEROS, Context, StepResult


def halve(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Halves every weight, and ships a file."""
    for variable in model.trainable_variables:
        variable.assign(variable * 0.5)
    (context.folder / "keep").mkdir(exist_ok=True)
    (context.folder / "keep" / "halved.txt").write_text(str(parameters["times"]), encoding="utf-8")
    context.say("halving")
    figures = {
        "numpy": np.float32(0.5),
        "nan": float("nan"),
        "earlier": context.earlier,
        "kept": sorted(context.preserve),
        "trainable_in_base": len(context.base().trainable_variables),
        "rows": None if context.data is None else [context.data.train.count, context.data.validation.count],
        "calibration": None if context.data is None else context.data.calibration.count,
        "random": float(np.random.random()),  # noqa: NPY002  what a step draws without a generator of its own
    }
    return StepResult(model, figures, frozenset({ZEROS}), {"dense_9": "not known"}, ("halved.txt",))


def rename(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Rebuilds the model, whose tensors get other names."""
    import keras

    inputs = keras.Input(model.inputs[0].shape[1:], name="other_name")
    return StepResult(keras.Model(inputs, model(inputs)))


def shorten(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Leaves out the last layer, as no step may."""
    import keras

    return StepResult(keras.Model(model.inputs, model.layers[-2].output))


def spoil(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Leaves NaN, as a training that diverged does."""
    model.trainable_variables[0].assign(model.trainable_variables[0] * np.nan)
    return StepResult(model)


def smuggle(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Leaves a layer of arbitrary code in the model, which must not be loaded again."""
    import keras

    last = keras.layers.Lambda(lambda x: x * 1.0)(model.outputs[0])
    return StepResult(keras.Model(model.inputs, last))
