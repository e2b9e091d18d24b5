"""The models of the conversion matrix: a name, how to build it, data of the right kind, and its declared preprocessing.

Weights are random but seeded; batch-normalisation statistics are those of the data, so that outputs spread as a trained
model's do (a random network with default statistics gives nearly the same output for every input). Labels are the base's
own classes, and of four times the rows those are kept on which it is surest, as a trained model is on most rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TRAIN_ROWS, TEST_ROWS = 240, 100
SEED = 0
IMAGE = (96, 96, 3)


@dataclass(frozen=True)
class MatrixModel:
    """`build()` gives the Keras model, `rows(n, rng)` stored data [n, …]; `preprocessing` says what lies between."""

    name: str
    title: str
    build: Callable[[], Any]
    rows: Callable[[int, np.random.Generator], np.ndarray]
    preprocessing: dict[str, Any]


def _application(name: str) -> Any:
    import keras

    return getattr(keras.applications, name)(
        input_shape=IMAGE, weights=None, classes=10, classifier_activation=None
    )  # fmt: skip


def _lstm() -> Any:
    import keras
    from keras import layers

    steps = keras.Input((50, 6), name="motion")
    x = layers.LSTM(32, name="lstm")(steps)
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    return keras.Model(steps, layers.Dense(7, name="logits")(x), name="lstm")


def _transformer() -> Any:
    import keras
    from keras import layers

    tokens = keras.Input((32,), dtype="int32", name="tokens")
    x = layers.Embedding(500, 64, name="embedding")(tokens)
    x = layers.Add(name="place")([x, layers.Conv1D(64, 3, padding="same", name="place_convolution")(x)])
    for block in (1, 2):
        y = layers.LayerNormalization(name=f"norm{block}a")(x)
        y = layers.MultiHeadAttention(4, 16, name=f"attention{block}")(y, y)
        x = layers.Add(name=f"add{block}a")([x, y])
        y = layers.LayerNormalization(name=f"norm{block}b")(x)
        y = layers.Dense(128, activation="gelu", name=f"expand{block}")(y)
        y = layers.Dense(64, name=f"contract{block}")(y)
        x = layers.Add(name=f"add{block}b")([x, y])
    x = layers.GlobalAveragePooling1D(name="pool")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(tokens, layers.Dense(4, name="logits")(x), name="transformer")


def _pictures(count: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth coloured noise, uint8 [n, 96, 96, 3]: a coarse grid enlarged, plus grain."""
    coarse = rng.integers(0, 256, (count, 12, 12, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(coarse + rng.normal(0, 12, (count, *IMAGE)), 0, 255).astype(np.uint8)


def _walks(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random walks float32 [n, 50, 6]."""
    return np.cumsum(rng.normal(0, 0.3, (count, 50, 6)), axis=1).astype(np.float32)


def _tokens(count: int, rng: np.random.Generator) -> np.ndarray:
    """Token numbers int32 [n, 32], frequent ones more often."""
    return np.minimum(rng.geometric(0.02, (count, 32)), 499).astype(np.int32)


MODELS = (
    MatrixModel(
        "mobilenet_v2",
        "MobileNetV2 96×96",
        lambda: _application("MobileNetV2"),
        _pictures,
        {"scale": 1 / 127.5, "mean": [1.0]},
    ),
    MatrixModel(
        "mobilenet_v3_small", "MobileNetV3Small 96×96", lambda: _application("MobileNetV3Small"), _pictures, {}
    ),
    MatrixModel("efficientnet_b0", "EfficientNetB0 96×96", lambda: _application("EfficientNetB0"), _pictures, {}),
    MatrixModel("lstm", "LSTM", _lstm, _walks, {}),
    MatrixModel("transformer", "Transformer encoder", _transformer, _tokens, {}),
)


def settle_batch_normalisation(model: Any, x: np.ndarray) -> None:
    """Set every batch-normalisation layer's statistics to those of `x`."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(x, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def margins(logits: np.ndarray) -> np.ndarray:
    """How far the largest logit of each row [n, classes] is ahead of the second."""
    ordered = np.sort(logits, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def make(spec: MatrixModel, folder: Path) -> tuple[Path, Path]:
    """Write `<name>.keras` and `<name>.npz` (labels: the base model's own classes); nothing is made twice."""
    model_path, data_path = folder / f"{spec.name}.keras", folder / f"{spec.name}.npz"
    if model_path.exists() and data_path.exists():
        return model_path, data_path
    import keras

    from converters.dataset import preprocessing_from_dict

    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = spec.build()
    kept = TRAIN_ROWS + TEST_ROWS
    stored = spec.rows(4 * kept, rng)
    x = preprocessing_from_dict(spec.preprocessing).apply(stored)
    x = x.astype(np.float32) if x.dtype == np.uint8 else x
    settle_batch_normalisation(model, x[:TRAIN_ROWS])
    logits = model.predict(x, batch_size=64, verbose=0)
    clear = np.sort(np.argsort(-margins(logits), kind="stable")[:kept])
    stored, logits = stored[clear], logits[clear]
    labels = logits.argmax(axis=1)
    print(f"{spec.name}: {model.count_params():,} parameters, outputs from {logits.min():.3f} to {logits.max():.3f}, "
          f"{len(np.unique(labels))} classes seen", flush=True)  # fmt: skip
    model.save(model_path)
    np.savez(
        data_path,
        x_train=stored[:TRAIN_ROWS],
        y_train=labels[:TRAIN_ROWS],
        x_test=stored[TRAIN_ROWS:],
        y_test=labels[TRAIN_ROWS:],
        preprocessing=np.array(json.dumps(spec.preprocessing)),
    )
    return model_path, data_path
