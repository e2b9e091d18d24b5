"""Small Keras models, one per pattern that structured pruning must follow, with random weights and statistics."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

FACTORIES: dict[str, Any] = {}


def pattern(build: Any) -> Any:
    FACTORIES[build.__name__] = build
    return build


def randomized(model: Any, seed: int = 0) -> Any:
    """Weights and statistics such that every channel differs and nothing is zero by chance."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if "variance" in weight.name or "gamma" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, shape))
        else:
            weight.assign(rng.normal(0, 1 / np.sqrt(max(np.prod(shape[:-1]), 4)), shape))
    return model


def conv_bn(x: Any, filters: int, size: int = 3, activation: str | None = "relu", strides: int = 1) -> Any:
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


@pattern
def plain() -> Any:
    return keras.Sequential(
        [
            layers.Input((10, 8, 3)),
            layers.Conv2D(6, 3, activation="relu", name="c1"),
            layers.MaxPooling2D(),
            layers.Dropout(0.3),
            layers.Conv2D(8, 3, padding="same", name="c2"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(7, activation="relu", name="d1"),
            layers.Dense(4, name="head"),
        ]
    )


@pattern
def one_dimensional() -> Any:
    x = i = keras.Input((24, 3))
    x = layers.ZeroPadding1D(1)(x)
    x = layers.Conv1D(6, 3, activation="gelu")(x)
    x = layers.SpatialDropout1D(0.2)(x)
    x = layers.SeparableConv1D(10, 3, depth_multiplier=2, activation="silu")(x)
    x = layers.AveragePooling1D(2)(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, activation="tanh")(x)
    x = layers.Conv1D(5, 1)(x)
    return keras.Model(i, layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling1D()(x)))


@pattern
def residual() -> Any:
    x = i = keras.Input((8, 8, 2))
    x = conv_bn(x, 6)
    for filters, strides in ((6, 1), (10, 2), (10, 1)):
        y = conv_bn(x, filters, strides=strides)
        y = conv_bn(y, filters, activation=None)
        if strides > 1:
            x = conv_bn(x, filters, 1, None, strides)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


@pattern
def inverted_residual() -> Any:
    x = i = keras.Input((8, 8, 3))
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 1.0, 2.0])(layers.Rescaling(0.5)(x))
    x = conv_bn(x, 6, activation="relu6")
    for k in range(2):
        y = conv_bn(x, 18, 1, "relu6")
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=k == 1)(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(conv_bn(y, 6, 1, None))
        x = layers.Add()([x, y])
    return keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


@pattern
def squeeze_excite() -> Any:
    x = i = keras.Input((8, 8, 3))
    x = conv_bn(x, 8)
    for flat in (True, False):
        if flat:
            s = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
        else:
            s = layers.GlobalAveragePooling2D(keepdims=True)(x)
        s = layers.Conv2D(4, 1, activation="relu")(s)
        s = layers.Conv2D(8, 1, activation="sigmoid")(s)
        x = layers.Multiply()([x, s])
    s = layers.Dense(8, activation="hard_sigmoid")(layers.Dense(3, activation="relu")(layers.GlobalMaxPooling2D()(x)))
    x = layers.Conv2D(5, 3, activation="relu")(layers.Multiply()([x, s]))
    return keras.Model(i, layers.Dense(4)(layers.Flatten()(x)))


@pattern
def dense_concat() -> Any:
    x = i = keras.Input((8, 8, 3))
    x = conv_bn(x, 6)
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(4, 3, padding="same")(y)
        x = layers.Concatenate()([x, y])
    x = layers.Concatenate()([x, i])
    x = conv_bn(x, 7, 1)
    return keras.Model(i, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


@pattern
def u_net() -> Any:
    x = i = keras.Input((8, 8, 2))
    a = conv_bn(x, 6)
    b = conv_bn(layers.MaxPooling2D()(a), 8)
    c = conv_bn(layers.AveragePooling2D(2)(b), 10)
    x = layers.Concatenate()([layers.UpSampling2D()(c), b])
    x = conv_bn(x, 8)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Add()([x, a])
    x = layers.Cropping2D(1)(x)
    return keras.Model(i, layers.Conv2D(2, 1, activation="sigmoid")(x))


@pattern
def three_dimensional() -> Any:
    x = i = keras.Input((5, 6, 6, 2))
    x = layers.Conv3D(6, 2, activation="relu")(x)
    x = layers.PReLU(shared_axes=[1, 2, 3])(layers.UpSampling3D()(layers.MaxPooling3D()(x)))
    x = layers.Conv3DTranspose(4, 2)(x)
    x = layers.PReLU()(x)
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(x)))


@pattern
def groups_of_norm() -> Any:
    x = i = keras.Input((8, 8, 3))
    x = layers.GroupNormalization(4)(layers.Conv2D(12, 3)(x))
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.GroupNormalization(-1)(x)
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(layers.Permute((2, 3, 1))(x))))


@pattern
def many_ranks() -> Any:
    i = keras.Input((12,), dtype="int32")
    x = layers.Embedding(20, 6)(i)
    x = layers.Dense(8, activation="relu")(x)
    x = layers.Permute((2, 1))(layers.Dense(6)(x))
    y = layers.Dense(12)(layers.Dense(10, activation="gelu")(x))
    x = layers.Permute((2, 1))(layers.Add()([x, y]))
    x = layers.Reshape((3, 4, 6))(x)
    x = layers.Reshape((-1, 6))(x)
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(layers.Dense(4, activation="relu")(x))))


@pattern
def shared() -> Any:
    a, b = keras.Input((9, 4), name="left"), keras.Input((9, 4), name="right")
    first, second = (
        layers.Conv1D(6, 3, activation="relu", name="twin"),
        layers.Dense(5, activation="tanh", name="second"),
    )
    pair = [layers.GlobalAveragePooling1D()(second(first(x))) for x in (a, b)]
    x = layers.Concatenate()([layers.Subtract()(pair), *pair])
    x = layers.Dense(6, activation="relu")(x)
    return keras.Model([a, b], [layers.Dense(2, name="one")(x), layers.Dense(3, name="two")(x)])


@pattern
def nested() -> Any:
    j = keras.Input((6, 6, 5))
    inner = keras.Model(j, conv_bn(conv_bn(j, 7), 5, activation=None), name="inner")
    tail = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(6, activation="relu")], name="tail")
    i = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 1, activation="relu")(i)
    x = layers.Add()([x, inner(x)])
    x = inner(x)
    return keras.Model({"picture": i} if i.name == "picture" else i, {"score": layers.Dense(3)(tail(x))})


@pattern
def bare_operations() -> Any:
    i = keras.Input((8, 8, 3))
    x = ops.relu(layers.Conv2D(6, 3)(i))
    y = ops.silu(layers.Conv2D(6, 3, padding="same")(x)) * 0.5
    x = ops.concatenate([x + y, x / 2.0], axis=-1)
    x = ops.mean(layers.Conv2D(5, 1)(x), axis=(1, 2))
    return keras.Model(i, ops.softmax(layers.Dense(4)(x)))


@keras.saving.register_keras_serializable("pruning_zoo")
class Twisted(layers.Layer):
    """A custom layer that mixes channels."""

    def call(self, x: Any) -> Any:
        return x + ops.flip(x, axis=-1)


@pattern
def custom() -> Any:
    x = i = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="before")(x)
    x = Twisted(name="twisted")(layers.Conv2D(5, 1, name="into")(x))
    x = layers.Conv2D(6, 3, activation="relu", name="after")(x)
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pattern
def recurrent() -> Any:
    x = i = keras.Input((10, 3))
    x = layers.Conv1D(6, 3, activation="relu", name="before")(x)
    x = layers.Conv1D(6, 3, activation="relu", name="into")(x)
    x = layers.Bidirectional(layers.LSTM(4), name="lstm")(x)
    return keras.Model(i, layers.Dense(3)(layers.Dense(6, activation="relu", name="after")(x)))


@pattern
def attention() -> Any:
    i = keras.Input((10,), dtype="int32")
    x = layers.Embedding(20, 8, name="embedding")(i)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="attention")(x, x)])
    y = layers.Dense(8, name="down")(layers.Dense(12, activation="gelu", name="up")(layers.LayerNormalization()(x)))
    x = layers.Add()([x, y])
    return keras.Model(i, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x)))


@pattern
def fenced() -> Any:
    """Grouped convolutions, channel shuffles and gates of one channel."""
    x = i = keras.Input((6, 6, 4))
    x = layers.Conv2D(8, 1, name="grouped_in")(x)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="free")(x)
    x = layers.Multiply()([x, layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)])
    x = layers.Conv2D(8, 1, activation="softmax", name="mixing")(x)
    x = layers.Conv2D(8, 1, name="shuffled")(x)
    x = layers.Reshape((4, 4, 2, 4))(x)
    x = layers.Reshape((4, 4, 8))(layers.Permute((1, 2, 4, 3))(x))
    return keras.Model(i, layers.Dense(3)(layers.Dense(6, activation="relu", name="last")(layers.Flatten()(x))))


RENORMALISED = {"layer_norm"}


@pattern
def layer_norm() -> Any:
    x = i = keras.Input((8, 3))
    x = layers.LayerNormalization()(layers.Conv1D(8, 3)(x))
    x = layers.RMSNormalization()(layers.Dense(6, activation="gelu")(x))
    return keras.Model(i, layers.Dense(3)(layers.Flatten()(x)))


def random_graph(seed: int) -> Any:
    """A graph of a dozen random steps: each takes one or two of the tensors that are there."""
    rng = np.random.default_rng(seed)
    i = keras.Input((8, 8, 3))
    tensors = [layers.Conv2D(6, 3, padding="same", activation="relu")(i)]

    def one(x: Any) -> Any:
        width = int(rng.integers(3, 9))
        return [
            lambda: layers.Conv2D(width, 3, padding="same", activation="relu")(x),
            lambda: layers.Conv2D(width, 1, use_bias=False)(x),
            lambda: layers.BatchNormalization()(x),
            lambda: layers.Activation("silu")(x),
            lambda: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x),
            lambda: layers.SeparableConv2D(width, 3, padding="same")(x),
            lambda: layers.Dense(width, activation="tanh")(x),
            lambda: layers.Conv2DTranspose(width, 3, padding="same")(x),
            lambda: layers.MaxPooling2D(3, 1, padding="same")(x),
            lambda: layers.Multiply()(
                [x, layers.Dense(x.shape[-1], activation="sigmoid")(layers.GlobalAveragePooling2D()(x))]
            ),
            lambda: layers.GroupNormalization(-1)(x),
        ][int(rng.integers(11))]()

    for _ in range(12):
        x = tensors[int(rng.integers(max(0, len(tensors) - 3), len(tensors)))]
        same = [t for t in tensors if t.shape == x.shape and t is not x]
        choice = rng.random()
        if choice < 0.25 and same:
            merged = (layers.Add, layers.Subtract, layers.Maximum, layers.Average)[int(rng.integers(4))]
            tensors.append(merged()([x, same[int(rng.integers(len(same)))]]))
        elif choice < 0.45 and len(tensors) > 1:
            tensors.append(layers.Concatenate()([x, tensors[int(rng.integers(len(tensors)))]]))
        else:
            tensors.append(one(x))
    pooled = layers.GlobalAveragePooling2D()(layers.Concatenate()(tensors[-2:]))
    flat = layers.Flatten()(layers.MaxPooling2D(4)(tensors[-1]))
    return keras.Model(i, [layers.Dense(3)(pooled), layers.Dense(2)(layers.Dense(5, activation="relu")(flat))])


def build(name: str, seed: int = 0) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    return randomized(FACTORIES[name](), seed)


def rows(model: Any, count: int = 4, seed: int = 1) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(0, 20, (count, *t.shape[1:])).astype("int32")
        if "int" in t.dtype
        else rng.normal(0, 1, (count, *t.shape[1:])).astype("float32")
        for t in model.inputs
    )
