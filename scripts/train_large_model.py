"""Train the model of the int8 study: a convolutional network of 1.1 million parameters on Fashion-MNIST.

    python scripts/train_large_model.py fashion_mnist.npz --out large.keras

Input "image" float32 [n, 28, 28, 1] in 0..1, output "logits" [n, 10]; about 11 million multiply-accumulates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _training import accuracy, fit, load_arrays, save_without_optimizer, start


def build() -> Any:
    """The untrained model."""
    import keras
    from keras import layers

    def convolution(x: Any, filters: int, strides: int, name: str) -> Any:
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    image = keras.Input((28, 28, 1), name="image")
    x = convolution(image, 32, 1, "stem")
    x = convolution(x, 64, 2, "stage1")
    x = convolution(x, 128, 2, "stage2")
    x = convolution(x, 160, 2, "stage3")
    x = layers.Dropout(0.2, name="dropout1")(layers.Flatten(name="flatten")(x))
    x = layers.ReLU(name="hidden_relu")(layers.Dense(320, name="hidden")(x))
    x = layers.Dropout(0.4, name="dropout2")(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="fashion_large")


def main() -> None:
    """Train, print the accuracy, write the model."""
    arguments = start({"out": Path("large.keras"), "epochs": 12})
    arrays = load_arrays(arguments.data)
    model = build()
    print(f"{model.count_params():,} parameters", flush=True)
    fit(model, arrays, epochs=arguments.epochs, seed=arguments.seed, peak_rate=2e-3)
    save_without_optimizer(model, arguments.out)
    share = accuracy(model, arrays["x_test"], arrays["y_test"])
    print(f"accuracy on all {len(arrays['x_test'])} test images: {share:.4f}")


if __name__ == "__main__":
    main()
