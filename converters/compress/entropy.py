"""The step `entropy`: writes the weights as a Huffman-coded file beside the variant; the model stays as it is.

The last stage of Deep Compression (Han et al., arXiv:1510.00149) on whatever the steps before left: `converters.entropy_file` is the format.
`architecture.json` goes with it, so that the two files alone make the model again: `rebuild`, which `harness decode` asks for through
`converters.decoding`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from converters import entropy_file
from converters.compress.context import Array, Context, StepResult
from converters.compress.record import KEEP
from converters.errors import ConversionInputError, RefusedError, ToolError

# What Keras raises for a configuration that it cannot make a model of, or will not: one that holds code.
_KERAS_ERRORS = (ValueError, TypeError, KeyError, AttributeError, ImportError, NotImplementedError)
WEIGHTS, ARCHITECTURE = "weights.huf", "architecture.json"


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:  # noqa: ARG001  it has none
    """Write `weights.huf` and `architecture.json`, read the first one back, and compare it bit for bit.

    Raises RefusedError for weights of a dtype that the file does not know, and for a model that Keras cannot make of its own
    architecture; ToolError when the weights come back otherwise.
    """
    text = _architecture(model)
    try:
        wanted = weights_by_name(_built(text))
    except _KERAS_ERRORS as error:
        raise RefusedError(f"Keras cannot make this model of its own architecture: {_first_line(error)}") from error
    arrays = _in_order(weights_by_name(model), wanted)
    folder = context.folder / KEEP
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS
    try:
        reports = entropy_file.write(path, arrays)
    except ConversionInputError as error:
        raise RefusedError(error.message) from error
    (folder / ARCHITECTURE).write_text(text, encoding="utf-8")
    began = time.perf_counter()
    decoded = entropy_file.read(path, limit_bytes=max(1, sum(array.nbytes for array in arrays.values())))
    seconds = time.perf_counter() - began
    if list(decoded) != list(arrays) or any(
        decoded[name].tobytes() != array.tobytes() for name, array in arrays.items()
    ):
        raise ToolError(f"{path}: the weights read back are others than those written")
    size, before = path.stat().st_size, sum(array.nbytes for array in arrays.values())
    figures = {
        "size_entropy_bytes": size,
        "weights_bytes": before,
        "ratio": before / size,
        "architecture_bytes": (folder / ARCHITECTURE).stat().st_size,
        "decode_seconds": seconds,
        "tensors": [asdict(report) for report in reports],
    }
    return StepResult(model, figures, context.preserve, files=(WEIGHTS, ARCHITECTURE))


def weights_by_name(model: Any) -> dict[str, Array]:
    """The weights of a Keras model in its order, by path; the second of two that are called the same is `…#2`."""
    arrays: dict[str, Array] = {}
    for variable in model.weights:
        name, number = variable.path, 1
        while name in arrays:
            number += 1
            name = f"{variable.path}#{number}"
        arrays[name] = np.asarray(variable.value).copy()
    return arrays


def _architecture(model: Any) -> str:
    """The model's configuration as JSON, with layers that are shared marked as such, also across nested models."""
    import keras
    from keras.src.saving.serialization_lib import ObjectSharingScope

    # What model.save writes too; model.to_json would make two layers of a shared one.
    with ObjectSharingScope():
        return json.dumps(keras.saving.serialize_keras_object(model))


def _built(text: str) -> Any:
    import keras
    from keras.src.saving.serialization_lib import ObjectSharingScope

    from converters.compress.loading import register_layers

    register_layers()
    with ObjectSharingScope():
        model = keras.saving.deserialize_keras_object(json.loads(text))
    if not isinstance(model, keras.Model):
        raise TypeError("it is no model")
    return model


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


def _in_order(arrays: dict[str, Array], wanted: dict[str, Array]) -> dict[str, Array]:
    """The weights in the order of the model that the architecture makes, by which they are read back."""
    ordered = {name: arrays[name] for name in wanted} if arrays.keys() == wanted.keys() else arrays
    if [array.shape for array in ordered.values()] != [array.shape for array in wanted.values()]:
        raise RefusedError("Keras makes a model with other weights of this model's own architecture")
    return ordered


def run(request: Mapping[str, Any], say: Callable[[str], None]) -> None:  # noqa: ARG001  it is done at once
    """`rebuild` in a worker process, with the paths `weights`, `architecture` and `out`."""
    rebuild(Path(request["weights"]), Path(request["architecture"]), Path(request["out"]))


def rebuild(weights: Path, architecture: Path, out: Path) -> None:
    """Write the .keras model that `weights.huf` and its `architecture.json` decode to; the same files give the same bytes.

    Raises ConversionInputError when one of the files is damaged or hostile (no code in an architecture is run), or the two do not
    belong together; OSError when they cannot be read.
    """
    from converters.compress.loading import save_step_model

    text = architecture.read_text(encoding="utf-8")
    try:
        model = _built(text)
    except Exception as error:
        # What Keras and TensorFlow raise for a hostile configuration has no bounds.
        raise ConversionInputError(f"{architecture}: Keras cannot build it: {_first_line(error)}") from error
    wanted = weights_by_name(model)
    # Names may be others when it is built again; order and shapes are not.
    arrays = list(entropy_file.read(weights, limit_bytes=sum(array.nbytes for array in wanted.values()) + 1).values())
    shapes = [(array.shape, array.dtype.name) for array in arrays]
    if shapes != [(array.shape, array.dtype.name) for array in wanted.values()]:
        raise ConversionInputError(f"{weights}: its tensors are not those of {architecture}")
    for variable, array in zip(model.weights, arrays, strict=True):
        variable.assign(array)
    save_step_model(model, out)
