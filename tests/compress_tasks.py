"""Small learnable tasks and models for the tests of training and of quantization-aware training."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.context import Context, Rows, TrainingData


def images(count: int, seed: int = 0, classes: int = 4, noise: float = 0.5) -> Rows:
    """Noisy 8×8 images with a bright quarter; the class says which."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    x = generator.normal(0, noise, (count, 8, 8, 1)).astype(np.float32)
    for row, label in enumerate(labels):
        top, left = 4 * (label // 2), 4 * (label % 2)
        x[row, top : top + 4, left : left + 4] += 1
    return Rows((x,), labels.astype(np.int64))


def task(rows: int = 256, kind: str = "classification", noise: float = 0.5) -> TrainingData:
    train, validation, calibration = (images(n, seed, noise=noise) for seed, n in ((1, rows), (2, 96), (3, 64)))
    if kind == "regression":
        train, validation, calibration = (
            Rows(r.inputs, r.inputs[0].mean((1, 2, 3))[:, None]) for r in (train, validation, calibration)
        )
    return TrainingData(train, validation, calibration, kind, "0" * 64)


def network(*, softmax: bool = False, outputs: int = 4, dropout: float = 0.2, seed: int = 5) -> Any:
    """Convolution, batch norm, depthwise, residual, dense: 8×8×1 in, `outputs` scores out."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)))
    y = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(x)))
    x = layers.ReLU()(layers.Add()([x, layers.Conv2D(8, 1)(y)]))
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x)))
    x = layers.Dense(16, activation="relu")(layers.Concatenate()([x, layers.Flatten()(layers.AveragePooling2D(4)(y))]))
    return keras.Model(inputs, layers.Dense(outputs, activation="softmax" if softmax else None)(x))


def hard_model(last: str) -> Any:
    """Token and signal in, two outputs: a class of the user's ("own"), a layer shared with a nested model, an embedding ("table"), attention
    and recurrence. `last`: "both" ends in a bidirectional LSTM and a dense layer "a", "tiny" in an LSTM and layers of one output."""
    import keras
    from keras import layers

    class Own(layers.Layer):
        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

        def call(self, x: Any) -> Any:
            return x @ self.kernel

    keras.utils.set_random_seed(0)
    tokens, signal = keras.Input((6,), dtype="int32"), keras.Input((6, 4))
    shared = layers.Dense(4, name="shared")
    inner = keras.Input((6, 4))
    nested = keras.Model(inner, shared(layers.Conv1D(4, 3, padding="same", name="conv")(inner)), name="nested")
    x = shared(layers.Embedding(50, 4, name="table")(tokens)) + nested(signal)
    x = Own(name="own")(layers.MultiHeadAttention(2, 4, name="attention")(x, x))
    lstm = layers.LSTM(4, return_sequences=True, name="lstm")
    if last == "both":
        x = layers.Bidirectional(lstm, name="both")(x)
        first = layers.Dense(2, name="a")(x)
    else:
        first = x = layers.Dense(1, name="tiny")(layers.Conv1D(1, 1, name="one")(lstm(x)))
    return keras.Model([tokens, signal], [first, layers.GRU(3, name="b")(x)])


def context(folder: Path, data: TrainingData | None, base: Any = None, seed: int = 3, **more: Any) -> Context:
    from converters.compress.training import fit

    folder.mkdir(parents=True, exist_ok=True)
    return Context(data, fit, lambda: base, folder, seed, **{"say": lambda _text: None, **more})


def digest(model: Any) -> str:
    """Hash of all weights, bit for bit."""
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.variables)).hexdigest()


def train_slowly(folder: Path) -> None:
    """What the test of a kill runs in a process of its own: prints each epoch, and the digest at the end."""
    import time

    from converters.compress import training

    feed = training._Training._feed

    def slow(self: Any, which: Any) -> Any:
        time.sleep(0.02)
        return feed(self, which)

    training._Training._feed = slow  # type: ignore[method-assign]
    model = network()
    own = context(folder, task(), say=lambda text: print(text, flush=True))  # noqa: T201
    training.fit(model, own, epochs=4)
    print("digest", digest(model), flush=True)  # noqa: T201


def kernels(model: Any) -> list[Any]:
    """The layers of a fake-quantised model whose kernels have few levels."""
    return [layer for layer in model.layers if hasattr(layer, "kernel_scale")]


def integers(layer: Any) -> Any:
    """The kernel of such a layer, settled, in steps: int [n, channels]."""
    flat = layer.kernel.numpy().reshape(-1, layer.channels) / layer.kernel_scale.numpy()
    assert np.abs(flat - np.round(flat)).max() < 1e-3
    return np.round(flat).astype(int)


if __name__ == "__main__":
    train_slowly(Path(sys.argv[1]))
