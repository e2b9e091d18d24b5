"""All input transforms, of a picture and of a signal, in one network in three formats: they answer as Keras does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compress_tasks import context

from converters.check import agreement
from converters.compress import transform_input
from converters.compress.loading import save_step_model
from converters.export.base import Source, load_source
from converters.recipe import parse_name
from converters.steps import parse_chain

pytestmark = [
    pytest.mark.compression,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
CHAIN = (
    "grayscale(input=image, epochs=0) > haar(all, input=image, epochs=0) > lower_resolution(0.75, method=bilinear, input=image, epochs=0)"
    " > lower_resolution(0.6, method=bilinear, input=motion, epochs=0) > haar(all, input=motion, epochs=0)"
    " > lower_resolution(0.5, input=motion, epochs=0)"
)
LAYERS = {
    *(f"input_transform_{word}" for word in ("gray", "haar", "bilinear")),
    *(f"input_transform_{word}" for word in ("column", "bilinear_2", "signal", "haar_2", "average")),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The network behind six transforms, as the toolchains read it."""
    import keras
    from keras import layers

    from converters.export.prepare import Preparation

    folder = tmp_path_factory.mktemp("transforms")
    keras.utils.set_random_seed(2)
    image, motion = keras.Input((16, 16, 3), name="image"), keras.Input((40, 3), name="motion")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image))
    y = layers.GlobalAveragePooling1D()(layers.Conv1D(8, 3, padding="same", activation="relu", name="conv")(motion))
    model = keras.Model([image, motion], layers.Dense(4, name="out")(layers.Concatenate()([x, y])))
    for step in parse_chain(CHAIN):
        own = context(folder / step.slug, None, model)
        model = getattr(transform_input, step.name)(model, step.values, own).model
    assert {layer.name for layer in model.layers} >= LAYERS
    # Zeros in new kernels would hide what their bands hold.
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    save_step_model(model, folder / "model.keras")
    request = {"base": str(folder / "model.keras"), "kind": "keras", "name": "m", "sha256": "0" * 64, "seed": 0}
    (folder / "source").mkdir()
    preparation = Preparation(request | {"folder": str(folder / "source"), "dataset": None, "reference": None})
    preparation.make("saved_model")
    preparation.make("model.onnx")
    return load_source(folder / "source")


@pytest.mark.parametrize("fmt", ["tflite", "onnx", "openvino"])
def test_the_formats_agree(source: Source, tmp_path: Path, fmt: str):
    from converters.export.onnx import OnnxToolchain
    from converters.export.openvino import OpenvinoToolchain
    from converters.export.tflite import TfliteToolchain

    toolchain = {"tflite": TfliteToolchain, "onnx": OnnxToolchain, "openvino": OpenvinoToolchain}[fmt]
    recipe = parse_name(fmt, "fp32")
    assert recipe is not None
    exported = toolchain(source, 0).export(recipe, tmp_path)
    found = agreement(tmp_path / exported.artifact, fmt, exported.signature, source)
    assert found.relative_error < 1e-5
