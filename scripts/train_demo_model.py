"""Train the demo's base model and write harness/demo/model.keras and data.npz.

    python scripts/train_demo_model.py fashion_mnist.npz

The model: depthwise-separable CNN, input "image" float32 [n, 28, 28, 1] in 0..1, output "logits" [n, 10].
The data: 1,000 class-balanced test images and 200 class-balanced training images for calibration, uint8.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from _training import accuracy, fit, load_arrays, save_without_optimizer, start

DEMO = Path(__file__).resolve().parent.parent / "harness" / "demo"
TEST_IMAGES = 1000
CALIBRATION_IMAGES = 200


def build(channels: int = 1) -> Any:
    """The untrained model (about 55 k parameters, about 3.5 million multiply-accumulates) for images of that many channels."""
    import keras
    from keras import layers

    def normalised(x: Any, name: str) -> Any:
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x))

    def separable(x: Any, filters: int, strides: int, name: str) -> Any:
        depthwise = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=f"{name}_depthwise")
        y = normalised(depthwise(x), f"{name}_depthwise")
        pointwise = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")
        y = normalised(pointwise(y), f"{name}_pointwise")
        same = strides == 1 and x.shape[-1] == filters
        return layers.Add(name=f"{name}_add")([x, y]) if same else y

    image = keras.Input((28, 28, channels), name="image")
    x = normalised(layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image), "stem")
    for index, (filters, strides) in enumerate([(32, 2), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1)]):
        x = separable(x, filters, strides, f"block{index + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="fashion_dsconv")


def balanced_rows(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted row numbers: `count` / classes of each class."""
    each = count // len(np.unique(labels))
    picked = [rng.choice(np.flatnonzero(labels == c), each, replace=False) for c in np.unique(labels)]
    return np.sort(np.concatenate(picked))


def write_data(arrays: dict[str, np.ndarray], path: Path, seed: int) -> np.ndarray:
    """Write data.npz; returns the numbers of the test rows in it. No calibration image equals a test image."""
    rng = np.random.default_rng(seed)
    test = balanced_rows(arrays["y_test"], TEST_IMAGES, rng)
    test_bytes = {image.tobytes() for image in arrays["x_test"]}
    apart = np.array([image.tobytes() not in test_bytes for image in arrays["x_train"]])
    calibration = np.flatnonzero(apart)[balanced_rows(arrays["y_train"][apart], CALIBRATION_IMAGES, rng)]
    np.savez_compressed(
        path,
        x_test=arrays["x_test"][test],
        y_test=arrays["y_test"][test].astype(np.uint8),
        calibration=arrays["x_train"][calibration],
        calibration_labels=arrays["y_train"][calibration].astype(np.uint8),
        class_names=arrays["class_names"],
        preprocessing=np.array(json.dumps({"scale": 1 / 255})),
    )
    return test


def main() -> None:
    """Train, print accuracies, write both files."""
    arguments = start({"out": DEMO / "model.keras", "epochs": 24})
    arrays = load_arrays(arguments.data)
    model = build()
    print(f"{model.count_params():,} parameters", flush=True)
    rows = write_data(arrays, arguments.out.with_name("data.npz"), arguments.seed)
    fit(model, arrays, epochs=arguments.epochs, seed=arguments.seed, peak_rate=4e-3)
    save_without_optimizer(model, arguments.out)
    print(
        f"accuracy on all {len(arrays['x_test'])} test images: "
        f"{accuracy(model, arrays['x_test'], arrays['y_test']):.4f}"
    )
    print(
        f"accuracy on the {len(rows)} demo images: "
        f"{accuracy(model, arrays['x_test'][rows], arrays['y_test'][rows]):.4f}"
    )


if __name__ == "__main__":
    main()
