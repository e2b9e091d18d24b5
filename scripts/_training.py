"""What the training scripts share: Fashion-MNIST arrays, light augmentation, one seeded Keras fit, accuracy.

Not part of the product: it made the demo model and makes the larger model of the int8 study.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

SHIFT_PIXELS = 2


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz with x_train, y_train, x_test, y_test (uint8 images [n, 28, 28]) and class_names."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def as_input(images: np.ndarray) -> np.ndarray:
    """Images uint8 [n, 28, 28] → float32 [n, 28, 28, 1] in 0..1, as the models want them."""
    return (images.astype(np.float32) / 255.0)[..., None]


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of the images and shift each by up to SHIFT_PIXELS; float32 [n, h, w, 1] in and out."""
    count, height, width, _ = images.shape
    flipped = np.where(rng.random(count)[:, None, None, None] < 0.5, images[:, :, ::-1], images)
    pad = SHIFT_PIXELS
    padded = np.pad(flipped, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.empty_like(images)
    for index, (dy, dx) in enumerate(rng.integers(0, 2 * pad + 1, (count, 2))):
        out[index] = padded[index, dy : dy + height, dx : dx + width]
    return out


def fit(model: Any, arrays: dict[str, np.ndarray], *, epochs: int, seed: int, peak_rate: float) -> None:
    """Train `model` (logits out) in place with AdamW and a warmed-up cosine rate, augmenting anew each epoch."""
    import keras

    x, y = as_input(arrays["x_train"]), arrays["y_train"].astype(np.int64)
    targets = np.eye(10, dtype=np.float32)[y] * 0.95 + 0.005  # light label smoothing
    batch = 128
    steps = epochs * -(-len(x) // batch)
    rate = keras.optimizers.schedules.CosineDecay(
        peak_rate / 10, steps - steps // 10, alpha=0.01, warmup_target=peak_rate, warmup_steps=steps // 10
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=0.02),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        started = time.monotonic()
        order = rng.permutation(len(x))
        # The last epochs see the images as they are, so that the batch statistics end on real data.
        shown = augment(x[order], rng) if epoch < epochs - 2 else x[order]
        history = model.fit(shown, targets[order], batch_size=batch, epochs=1, shuffle=False, verbose=0)
        loss = history.history["loss"][0]
        print(f"epoch {epoch + 1}/{epochs}: loss {loss:.4f}, {time.monotonic() - started:.1f} s", flush=True)


def accuracy(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of uint8 `images` [n, 28, 28] whose largest logit is at the label."""
    logits = model.predict(as_input(images), batch_size=250, verbose=0)
    return float((np.argmax(logits, axis=-1) == labels).mean())


def save_without_optimizer(model: Any, path: Path) -> None:
    """Save architecture and weights only: a model from the same config was never compiled, so has no optimizer state."""
    clone = type(model).from_config(model.get_config())
    clone.set_weights(model.get_weights())
    path.parent.mkdir(parents=True, exist_ok=True)
    clone.save(path)


def start(argument_defaults: dict[str, Any]) -> argparse.Namespace:
    """Parse the common arguments, fix the seeds and the threads, and keep TensorFlow quiet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="npz with x_train, y_train, x_test, y_test, class_names")
    parser.add_argument("--out", type=Path, default=argument_defaults["out"])
    parser.add_argument("--epochs", type=int, default=argument_defaults["epochs"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(arguments.seed)
    return arguments
