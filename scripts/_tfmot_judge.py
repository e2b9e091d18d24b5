"""TensorFlow's own quantization-aware training (TFMOT) of a copy of a Keras 3 model, as an independent judge. Prints a JSON line.

    python scripts/_tfmot_judge.py MODEL.keras ROWS.npz EPOCHS LEARNING_RATE SEED OUT.tflite

Runs in a process of its own with TF_USE_LEGACY_KERAS=1 (`_judge.py` starts it): TFMOT knows the old Keras only. ROWS.npz has x_train
and y_train. The layers are made again in tf_keras one by one, with their weights; batches, rate, and optimizer are those of our own step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

# What a layer of the copy is told; everything else has its default in both.
ARGUMENTS = (
    *("filters", "kernel_size", "strides", "padding", "use_bias", "units", "pool_size", "depth_multiplier", "rate"),
    *("epsilon", "momentum", "max_value", "target_shape", "activation"),
)
BATCH_ROWS = 64
CHECKED_ROWS = 64


def copied(model: Any) -> Any:
    """The model in tf_keras."""
    import tf_keras

    from converters.compress.graph import read_graph

    graph = read_graph(model)
    made = {tensor: tf_keras.Input(graph.shape(tensor)[1:]) for tensor in graph.inputs}
    for call in graph.calls:
        config = call.operation.get_config()
        arguments = {key: config[key] for key in ARGUMENTS if config.get(key) is not None}
        layer = getattr(tf_keras.layers, type(call.operation).__name__)(name=call.name, **arguments)
        given = [made[tensor] for tensor in call.inputs]
        made[call.outputs[0]] = layer(given if len(given) > 1 else given[0])
        layer.set_weights([variable.numpy() for variable in call.operation.weights if "seed" not in variable.name])
    return tf_keras.Model([made[tensor] for tensor in graph.inputs], [made[tensor] for tensor in graph.outputs])


def trained(twin: Any, x: Any, y: Any, epochs: int, rate: float, seed: int) -> Any:
    """The copy after TFMOT's training with rounding."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    model = tfmot.quantization.keras.quantize_model(twin)
    steps = epochs * (len(y) // BATCH_ROWS)
    model.compile(
        tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(rate, steps)),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=BATCH_ROWS, epochs=epochs, verbose=0)
    return model


def main() -> None:
    import keras
    import tensorflow as tf

    path, rows, epochs, rate, seed, out = sys.argv[1:]
    with np.load(rows, allow_pickle=False) as data:
        x, y = data["x_train"], data["y_train"]
    base = keras.models.load_model(path, compile=False)
    twin = copied(base)
    given = x[:CHECKED_ROWS]
    error = float(np.abs(twin.predict(given, verbose=0) - base.predict(given, verbose=0)).max())
    begun = time.monotonic()
    model = trained(twin, x, y, int(epochs), float(rate), int(seed))
    seconds = time.monotonic() - begun
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    Path(out).write_bytes(converter.convert())
    print(json.dumps({"copy_error": error, "seconds": seconds}))


if __name__ == "__main__":
    main()
