"""Builds the small Keras models of test_converters_convert.py in a process of its own: `python converters_zoo.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path


def build(folder: Path) -> None:
    import keras
    import tensorflow as tf
    from keras import layers

    keras.utils.set_random_seed(7)

    def image() -> keras.Model:
        return keras.Sequential(
            [
                layers.Input((16, 16, 3)),
                layers.Conv2D(8, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )

    def two() -> keras.Model:
        a, b = keras.Input((12, 12, 3), name="image"), keras.Input((7,), name="facts")
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="swish")(a))
        z = layers.Concatenate()([x, layers.Dense(8, activation="tanh")(b)])
        outputs = {"score": layers.Dense(1, activation="sigmoid")(z), "box": layers.Dense(4)(z)}
        return keras.Model({"image": a, "facts": b}, outputs)

    def recurrent() -> keras.Model:
        i = keras.Input((12, 6), name="signal")
        return keras.Model(
            i, layers.Dense(5)(layers.GRU(8)(layers.Bidirectional(layers.LSTM(8, return_sequences=True))(i)))
        )

    def encoder() -> keras.Model:
        i = keras.Input((10,), dtype="int32", name="tokens")
        x = layers.Embedding(50, 16)(i)
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, activation="gelu")(x)))
        return keras.Model(i, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))

    sequential = image()
    sequential.save(folder / "image.keras")
    sequential.save(folder / "image_h5.h5")
    sequential.export(folder / "image_saved", verbose=False)
    two().save(folder / "two.keras")
    recurrent().save(folder / "recurrent.keras")
    encoder().save(folder / "encoder.keras")

    i = keras.Input((4,))
    keras.Model(i, layers.Lambda(lambda x: x + 1)(i)).save(folder / "lambda.keras")

    class Custom(layers.Layer):
        def call(self, x):
            return x * 2

    keras.Model(i, Custom()(i)).save(folder / "custom.keras")
    free = keras.Input((None, None, 3))
    keras.Model(free, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(free)))).save(
        folder / "free.keras"
    )

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def writes(x):
        tf.io.write_file(str(folder / "written.txt"), "evil")
        return {"y": x}

    module.serve = writes
    tf.saved_model.save(module, str(folder / "hostile_saved"), signatures={"serving_default": writes})


if __name__ == "__main__":
    build(Path(sys.argv[1]))
