"""Quantization-aware training of 1-D convolutions and of activations with ranges of their own (silu, softmax), in three formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context
from test_compress_qat_formats import WITHIN_ONE_STEP, Made, agrees, export, made_of

from converters.compress.context import Rows, TrainingData

pytestmark = [
    pytest.mark.compression,
    # Keras 3.15 saves variables in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def signals(count: int, seed: int) -> Rows:
    """Noise of three channels, 16 steps long; the class says which one swings."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    x = generator.normal(0, 0.5, (count, 16, 3)).astype(np.float32)
    x[np.arange(count), :, labels] += np.sin(np.arange(16, dtype=np.float32))
    return Rows((x,), labels.astype(np.int64))


def network() -> Any:
    """Both ways to write silu: as an argument, and as a layer behind a batch norm. Ends in probabilities."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    motion = keras.Input((16, 3), name="motion")
    x = layers.Conv1D(8, 5, padding="same", activation="silu")(motion)
    x = layers.BatchNormalization()(layers.Conv1D(12, 3, strides=2, padding="same", use_bias=False)(x))
    x = layers.GlobalAveragePooling1D()(layers.Activation("silu")(x))
    return keras.Model(motion, layers.Dense(3, activation="softmax")(x))


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from converters.compress.training import fit

    folder = tmp_path_factory.mktemp("gated")
    data = TrainingData(signals(512, 1), signals(96, 2), signals(64, 3), "classification", "0" * 64)
    base = network()
    fit(base, context(folder / "float", data), epochs=6, learning_rate=0.01)
    # Seven bits: on processors without VNNI products of 8-bit weights saturate in ONNX Runtime and OpenVINO.
    one = made_of(base, data, folder, weight_bits=7)
    assert np.ptp(one.answers) > 0.5  # answers that could differ
    return one


@pytest.mark.parametrize(
    ("fmt", "name"), [("tflite", "static_wi8_ai8"), ("onnx", "static_wi8_au8"), ("openvino", "static_wi8_ai8")]
)
def test_a_1d_convolution_with_silu_and_softmax(gated: Made, tmp_path: Path, fmt: str, name: str) -> None:
    exported = export(gated, fmt, name, tmp_path)
    assert "3 of 3 kernels" in " ".join(exported.notes)
    assert agrees(gated, fmt, exported, tmp_path) >= WITHIN_ONE_STEP
    if fmt == "tflite":
        from converters.export.tflite_file import float_operators, read_model

        assert float_operators(read_model((tmp_path / exported.artifact).read_bytes())) == []
