"""Narrower and wider copies: the same graph with other numbers of filters, weights begun anew, inputs and outputs untouched."""

from __future__ import annotations

import numpy as np
import pytest

from converters.compress.width import at_width
from converters.errors import RefusedError

pytestmark = [pytest.mark.compression, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
keras = pytest.importorskip("keras")
layers = keras.layers


def weights(model) -> list[np.ndarray]:
    return [np.asarray(weight.value) for weight in model.weights]


def residual():
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 4.0, 4.0], name="norm")(image)
    x = layers.Conv2D(16, 3, padding="same", name="stem")(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    y = layers.BatchNormalization(name="bn")(layers.Conv2D(16, 1, name="point")(y))
    gate = layers.Reshape((1, 1, 16), name="shape")(layers.GlobalAveragePooling2D()(y))
    y = layers.Multiply()([y, layers.Conv2D(16, 1, activation="sigmoid", name="gate")(gate)])
    x = layers.Concatenate()([layers.Add()([x, y]), layers.Conv2D(8, 3, padding="same", name="side")(x)])
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    return keras.Model(image, layers.Dense(10, name="logits")(layers.Dense(20, activation="relu", name="fc")(x)))


@pytest.mark.parametrize(
    ("width", "filters"), [(0.5, (8, 4, 10)), (0.75, (12, 6, 15)), (1.5, (24, 12, 30)), (0.001, (1, 1, 1))]
)
def test_coupled_layers_change_together(width, filters):
    model = residual()
    found = at_width(model, width, 3)
    stem, side, fc = filters
    assert [found.get_layer(name).filters for name in ("stem", "point", "gate", "side")] == [stem, stem, stem, side]
    assert found.get_layer("fc").units == fc
    assert found.get_layer("fc").kernel.shape == (9 * (stem + side), fc)
    assert found.get_layer("depthwise").kernel.shape == (3, 3, stem, 2)
    assert found.get_layer("logits").kernel.shape == (fc, 10)
    assert [t.name for t in found.inputs] == ["image"]
    assert found(np.ones((2, 12, 12, 3), np.float32)).shape == (2, 10)
    assert (found.count_params() < model.count_params()) == (width < 1)


def test_weights_are_fresh_and_seeded():
    model = residual()
    first, again, other = (at_width(model, 1.0, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    kernel = [np.asarray(m.get_layer("stem").kernel.value) for m in (model, first, other)]
    assert kernel[0].shape == kernel[1].shape
    assert not np.array_equal(kernel[0], kernel[1])
    assert not np.array_equal(kernel[1], kernel[2])
    # What was adapted to the data, and not trained, is kept.
    rows = np.random.default_rng(0).standard_normal((4, 12, 12, 3)).astype(np.float32)
    norms = [keras.Model(m.input, m.get_layer("norm").output)(rows) for m in (model, first)]
    np.testing.assert_allclose(norms[0], norms[1])


def test_statistics_that_were_adapted_are_kept_and_frozen_layers_are_freed():
    values = keras.Input((4,))
    norm = layers.Normalization(name="norm")
    norm.adapt(np.arange(40, dtype=np.float32).reshape(10, 4))
    hidden = layers.Dense(8, name="hidden", trainable=False)
    model = keras.Model(values, layers.Dense(2, name="out")(hidden(norm(values))))
    found = at_width(model, 0.5, 1)
    np.testing.assert_allclose(np.asarray(found.get_layer("norm").mean), np.asarray(norm.mean))
    assert len(found.trainable_weights) == 4
    assert found.get_layer("hidden").units == 4


def test_nested_sequential_recurrent_and_several_outputs():
    signal = keras.Input((10, 4), name="signal")
    x = keras.Sequential([layers.Input((10, 4)), layers.Conv1D(8, 3, name="conv"), layers.ReLU()], name="front")(signal)
    x = layers.LSTM(6, name="lstm")(x)
    x = layers.Dense(12, name="hidden")(x)
    model = keras.Model(signal, {"a": layers.Dense(3, name="a")(x), "b": layers.Dense(2, name="b")(x)})
    found = at_width(model, 0.5, 1)
    assert sorted(found.output) == ["a", "b"]
    assert found.get_layer("hidden").units == 6
    assert [tuple(t.shape) for t in found.outputs] == [tuple(t.shape) for t in model.outputs]


def test_what_has_no_other_width_is_refused():
    values = keras.Input((4,))
    with pytest.raises(RefusedError, match="another width"):
        at_width(keras.Model(values, layers.Dense(3, name="only")(values)), 0.5, 1)
