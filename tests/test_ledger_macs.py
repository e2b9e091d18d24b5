"""MACs against what is counted by hand, and against TensorFlow's own count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.compression


def model_of(*shapes: tuple[int | None, ...], build: Any, dtypes: tuple[str, ...] = ()) -> Any:
    import keras

    inputs = [keras.Input(shape, dtype=dtypes[k] if dtypes else None) for k, shape in enumerate(shapes)]
    return keras.Model(inputs, build(*inputs))


def layer_cases() -> dict[str, tuple[tuple[int, ...], Any, int]]:
    """Shape of a row, layer, MACs by hand."""
    from keras import layers as k

    return {
        "dense": ((7,), k.Dense(5), 7 * 5),
        "dense_3d": ((4, 7), k.Dense(5), 4 * 7 * 5),
        "conv_valid": ((8, 9, 3), k.Conv2D(4, (3, 2)), 6 * 8 * (3 * 2 * 3) * 4),
        "conv_same_stride": ((9, 9, 3), k.Conv2D(4, 3, strides=2, padding="same"), 5 * 5 * 27 * 4),
        "conv_dilated": ((9, 9, 2), k.Conv2D(4, 3, dilation_rate=2), 5 * 5 * 18 * 4),
        "conv_grouped": ((8, 8, 6), k.Conv2D(4, 3, groups=2, padding="same"), 64 * (9 * 3) * 4),
        "conv1d_causal": ((10, 3), k.Conv1D(4, 3, padding="causal"), 10 * 9 * 4),
        "conv3d": ((4, 4, 4, 2), k.Conv3D(3, 2), 27 * (8 * 2) * 3),
        "depthwise": ((8, 8, 6), k.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), 64 * 9 * 6 * 2),
        "depthwise1d": ((8, 6), k.DepthwiseConv1D(3), 6 * 3 * 6),
        "separable": ((8, 8, 6), k.SeparableConv2D(5, 3, depth_multiplier=2), 36 * (9 * 12 + 12 * 5)),
        "separable1d": ((8, 6), k.SeparableConv1D(5, 3), 6 * (3 * 6 + 6 * 5)),
        "transposed": ((4, 4, 3), k.Conv2DTranspose(5, 3, strides=2, padding="same"), 16 * 9 * 3 * 5),
        "transposed1d": ((4, 3), k.Conv1DTranspose(5, 3, strides=2), 4 * 3 * 3 * 5),
        "einsum": ((6, 4, 3), k.EinsumDense("abcd,cde->abe", output_shape=(None, 5)), 6 * 4 * 3 * 5),
        "einsum_batched": ((4, 3), k.EinsumDense("bhi,hio->bho", output_shape=(4, 5)), 4 * 3 * 5),
        "lstm": ((6, 3), k.LSTM(4), 6 * 4 * (3 + 4) * 4),
        "lstm_sequences": ((6, 3), k.LSTM(4, return_sequences=True), 6 * 4 * (3 + 4) * 4),
        "gru": ((6, 3), k.GRU(4), 6 * 3 * (3 + 4) * 4),
        "rnn": ((6, 3), k.SimpleRNN(4), 6 * (3 + 4) * 4),
        "stacked": ((6, 3), k.RNN([k.LSTMCell(4), k.GRUCell(2)]), 6 * (4 * 7 * 4 + 3 * 6 * 2)),
        "both_ways": ((6, 3), k.Bidirectional(k.GRU(4)), 2 * 6 * 3 * (3 + 4) * 4),
        "conv_lstm": ((5, 8, 8, 3), k.ConvLSTM2D(2, 3), 5 * 36 * (9 * 3 * 8 + 9 * 2 * 8)),
        "conv_lstm_all": ((5, 8, 8, 3), k.ConvLSTM2D(2, 3, return_sequences=True), 5 * 36 * (9 * 3 * 8 + 9 * 2 * 8)),
        "each_step": ((6, 5, 5, 2), k.TimeDistributed(k.Conv2D(3, 3)), 6 * 9 * 18 * 3),
        "nothing": ((6, 6, 2), k.MaxPooling2D(), 0),
        "norm": ((6, 6, 2), k.BatchNormalization(), 0),
    }


CASES = (
    *("dense", "dense_3d", "conv_valid", "conv_same_stride", "conv_dilated", "conv_grouped", "conv1d_causal", "conv3d"),
    *("depthwise", "depthwise1d", "separable", "separable1d", "transposed", "transposed1d", "einsum", "einsum_batched"),
    *("lstm", "lstm_sequences", "gru", "rnn", "stacked", "both_ways", "conv_lstm", "conv_lstm_all", "each_step"),
    *("nothing", "norm"),
)


def test_every_layer_counts_as_by_hand() -> None:
    from converters.ledger_macs import count_macs

    cases = layer_cases()
    assert set(cases) == set(CASES)
    found = {}
    for name, (shape, layer, _) in cases.items():
        macs = count_macs(model_of(shape, build=layer))
        assert macs.uncounted == {}, name
        assert macs.effective == macs.total, name
        found[name] = macs.total
    assert found == {name: wanted for name, (_, _, wanted) in cases.items()}


def test_attention_counts_projections_and_products() -> None:
    from keras import layers as k

    from converters.ledger_macs import count_macs

    queries, keys, width, heads, key, value = 5, 7, 6, 2, 3, 4
    projections = queries * width * heads * key + keys * width * heads * (key + value) + queries * heads * value * width
    products = heads * queries * keys * (key + value)
    attention = k.MultiHeadAttention(heads, key, value)
    model = model_of((queries, width), (keys, width), build=attention)
    assert count_macs(model).total == projections + products
    grouped = model_of((5, 8), build=lambda a: k.GroupQueryAttention(4, 4, 2)(a, a))
    assert count_macs(grouped).total == 5 * 8 * (16 + 8 + 8) + 5 * 16 * 8 + 4 * 5 * 5 * (4 + 4)
    plain = model_of((5, 6), (7, 6), build=lambda a, b: k.Attention()([a, b]))
    assert count_macs(plain).total == 5 * 7 * 6 * 2
    additive = model_of((5, 6), (7, 6), build=lambda a, b: k.AdditiveAttention()([a, b]))
    assert count_macs(additive).total == 5 * 7 * 6 * 2
    dot = model_of((5, 6), (7, 6), build=lambda a, b: k.Dot(axes=2)([a, b]))
    assert count_macs(dot).total == 5 * 7 * 6


def test_products_in_the_graph_count_too() -> None:
    from keras import ops

    from converters.ledger_macs import count_macs

    assert count_macs(model_of((5, 6), (6, 3), build=ops.matmul)).total == 5 * 6 * 3
    both = model_of((5, 6), (6, 3), build=lambda a, b: ops.einsum("bij,bjk->bik", a, b))
    assert count_macs(both).total == 5 * 6 * 3
    odd = count_macs(model_of((5, 6), (6, 3), build=lambda a, b: ops.einsum("...ij,...jk->...ik", a, b)))
    assert odd.total == 0
    assert list(odd.uncounted.values()) == ["products of this Einsum are not counted"]


def test_zero_weights_are_skipped_in_effective_macs_only() -> None:
    from keras import layers as k

    from converters.ledger_macs import count_macs

    model = model_of((6, 6, 2), build=lambda a: k.Dense(3)(k.Flatten()(k.Conv2D(4, 3)(a))))
    conv, dense = (layer for layer in model.layers if layer.weights)
    kernel = np.asarray(conv.kernel).copy()
    kernel[..., 0] = 0
    kernel[0, 0, 0, 1] = 0
    conv.kernel.assign(kernel)
    dense.kernel.assign(np.zeros(dense.kernel.shape))
    macs = count_macs(model)
    assert macs.by_layer == {conv.path: (16 * 72, 16 * (72 - 19)), dense.path: (64 * 3, 0)}
    assert (macs.total, macs.effective) == (16 * 72 + 192, 16 * 53)


def test_shared_and_nested_layers_count_as_often_as_they_run() -> None:
    import keras
    from keras import layers as k

    from converters.ledger_macs import count_macs

    inner = keras.Input((4,))
    nested = keras.Model(inner, k.Dense(4, name="in")(inner), name="nested")
    shared = k.Dense(4, name="shared")
    model = model_of((4,), (4,), build=lambda a, b: [nested(shared(a)), shared(nested(nested(b)))])
    macs = count_macs(model)
    assert {path.split("/")[-1]: count for path, (count, _) in macs.by_layer.items()} == {"in": 48, "shared": 32}
    for layer in (shared, nested):
        assert "call" not in vars(layer)
    sequential = keras.Sequential([keras.Input((4,)), k.Dense(3), k.Dense(2)])
    assert count_macs(sequential).total == 18
    tables = keras.Input((3,), name="z"), keras.Input((5,), name="a")
    told = keras.Model({"z": tables[0], "a": tables[1]}, {"y": k.Concatenate()([k.Dense(2)(tables[0]), tables[1]])})
    assert count_macs(told).total == 6


def test_layers_of_ones_own_are_listed_and_what_they_hold_is_counted() -> None:
    from keras import layers as k

    from converters.ledger_macs import count_macs

    class Own(k.Layer):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.inner = k.Dense(3, name="inner")

        def call(self, x: Any) -> Any:
            return self.inner(x) * 2

    class Renamed(k.Dense):
        pass

    macs = count_macs(model_of((4,), build=lambda a: Renamed(2)(Own()(a))))
    assert macs.total == 12 + 6
    assert list(macs.uncounted) == ["own"]


def test_free_sides_want_shapes_and_a_fixed_batch_counts_one_row() -> None:
    import keras
    from keras import layers as k

    from converters.ledger_macs import count_macs
    from converters.ledger_model import model_ledger

    model = model_of((None, None, 3), build=lambda a: k.GlobalAveragePooling2D()(k.Conv2D(4, 3)(a)))
    assert count_macs(model, [(8, 8, 3)]).total == 36 * 27 * 4
    ledger = model_ledger(model)
    assert ledger["macs"] is None
    assert "free" in ledger["macs_missing"]
    fixed = keras.Input(batch_shape=(4, 5))
    assert count_macs(keras.Model(fixed, k.Dense(3)(fixed))).total == 15


def test_tensorflow_counts_the_same() -> None:
    """Its profiler counts two operations to a MAC; models without biases and activations have no others."""
    import tensorflow as tf
    from keras import layers as k
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from converters.ledger_macs import count_macs

    def body(a: Any) -> Any:
        x = k.Conv2D(8, 3, strides=2, use_bias=False)(a)
        x = k.DepthwiseConv2D(3, use_bias=False)(x)
        x = k.Conv2D(12, 1, use_bias=False)(x)
        return k.Dense(10, use_bias=False)(k.Flatten()(x))

    model = model_of((21, 17, 3), build=body)
    traced = tf.function(model).get_concrete_function(tf.TensorSpec((1, 21, 17, 3)))
    graph = convert_variables_to_constants_v2(traced).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    counted = tf.compat.v1.profiler.profile(graph, options=options).total_float_ops
    assert count_macs(model).total == counted // 2


def test_the_ledger_of_a_model_tells_zeros_and_sharing() -> None:
    from keras import layers as k

    from converters.ledger_model import model_ledger

    model = model_of((40,), build=k.Dense(50))
    kernel = model.layers[-1].kernel
    whole = model_ledger(model)
    assert (whole["parameters"], whole["weights_bytes"], whole["macs"]) == (2050, 8200, 2000)
    assert whole["non_zeros"] == 2000
    values = np.float32([-0.5, 0, 0, 0, 0.25])[np.random.default_rng(0).integers(0, 5, (40, 50))]
    kernel.assign(values)
    after = model_ledger(model)
    assert after["non_zeros"] == after["effective_macs"] == np.count_nonzero(values)
    assert after["unique_values"] == 3 + 1
    assert after["size_entropy_bytes"] < 500 < whole["size_entropy_bytes"]
    assert (after["macs"], after["weights_bytes"]) == (2000, 8200)
