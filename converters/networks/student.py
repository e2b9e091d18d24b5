"""A network of the catalogue as a student: it takes what its teacher takes and gives what it gives.

Used by `converters.compress.distill`, in a worker.
"""

from __future__ import annotations

from typing import Any

from converters.errors import RefusedError
from converters.networks.building import build

_IMAGES, _SCORES = 4, 2


def student_for(
    teacher: Any, name: str, width: float, resolution: float, seed: int, activation: str | None = None
) -> Any:
    """A new keras.Model of that network for the inputs and classes of `teacher`.

    `activation`: what turns its logits into answers like the teacher's ("softmax", "sigmoid"), or None where those are logits too.
    Raises RefusedError when the teacher takes anything but one float32 image, or gives anything but one row of answers.
    """
    import keras

    takes = [(tuple(tensor.shape), str(tensor.dtype)) for tensor in teacher.inputs]
    gives = [tuple(tensor.shape) for tensor in teacher.outputs]
    shape, dtype = takes[0]
    if len(takes) > 1 or len(shape) != _IMAGES or None in shape[1:] or dtype != "float32":
        raise RefusedError(f"distill: {name} takes one image of a fixed size as float32, and the base takes {takes}")
    if len(gives) > 1 or len(gives[0]) != _SCORES or gives[0][1] is None:
        raise RefusedError(f"distill: {name} gives one row of answers, and the base gives {gives}")
    model = build(name, shape[1:], gives[0][1], width, resolution, seed=seed)
    if activation is None:
        return model
    answers = keras.layers.Activation(activation, name="answers")(model.outputs[0])
    return keras.Model(model.inputs[0], answers, name=name)
