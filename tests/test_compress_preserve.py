"""What pruning and clustering made survives updates of the weights; which tensors of a model that concerns."""

from __future__ import annotations

import numpy as np
import pytest

from converters.compress.context import CLUSTERS, ZEROS
from converters.compress.preserve import MAX_SHARED_VALUES, shared, zeros

RNG = np.random.default_rng(3)


def test_only_true_zeros_among_other_values_make_a_mask() -> None:
    assert zeros(np.zeros((3, 3))) is None
    assert zeros(np.ones((3, 3))) is None
    mask = zeros(np.array([[0.0, -0.0, 1e-30]]))
    assert mask is not None
    assert mask.tolist() == [[True, True, False]]


def test_sharing_is_told_from_chance() -> None:
    values = RNG.choice(np.float32([-0.5, 0.0, 0.25, 0.75]), (20, 20))
    found = shared(values)
    assert found is not None
    np.testing.assert_array_equal(found[0][found[1]].reshape(20, 20), values)
    assert shared(RNG.normal(size=(40, 40)).astype(np.float32)) is None
    assert shared(np.zeros(9, np.float32)) is None
    # Half of the weights are no sharing yet when zeros fill the rest.
    sparse = np.zeros(100, np.float32)
    sparse[:8] = np.arange(1, 9)
    assert shared(sparse) is None
    assert shared(sparse, pin_zero=False) is not None
    many = np.repeat(np.arange(1, MAX_SHARED_VALUES + 2, dtype=np.float32), 3)
    assert shared(many) is None
    assert shared(many[3:]) is not None


@pytest.mark.compression
def test_projection_keeps_zeros_and_clusters() -> None:
    import keras

    from converters.compress.preserve import projection

    i = keras.Input((6,))
    hidden = keras.layers.Dense(8, name="clustered")(keras.layers.Dense(6, name="free")(i))
    model = keras.Model(i, keras.layers.Dense(5, name="pruned")(hidden))
    levels = np.float32([-1, 0, 0.5])[RNG.integers(0, 3, (6, 8))]
    model.get_layer("clustered").kernel.assign(levels)
    pruned = model.get_layer("pruned").kernel
    holes = RNG.random((8, 5)) < 0.5
    pruned.assign(np.where(holes, 0, np.asarray(pruned)))
    keep = projection(model, {ZEROS, CLUSTERS})
    rng = np.random.default_rng(1)
    step = {v.path: rng.normal(size=tuple(v.shape)) for v in model.trainable_variables}
    for variable in model.trainable_variables:
        variable.assign_add(step[variable.path])
    updated = {v.path: np.asarray(v).copy() for v in model.trainable_variables}
    keep()
    after = {v.path: np.asarray(v) for v in model.trainable_variables}
    for path in ("free/kernel", "free/bias", "clustered/bias"):
        np.testing.assert_array_equal(after[path], updated[path])
    assert (after["pruned/kernel"] == 0).sum() == holes.sum()
    assert not np.signbit(after["pruned/kernel"][holes]).any()
    moved = after["clustered/kernel"]
    assert (moved[levels == 0] == 0).all()
    for level in (-1, 0.5):
        group = levels == level
        np.testing.assert_allclose(moved[group], level + step["clustered/kernel"][group].mean(), rtol=1e-6)
        assert len(np.unique(moved[group])) == 1


@pytest.mark.compression
def test_without_zeros_the_cluster_at_zero_moves_too() -> None:
    import keras

    from converters.compress.preserve import projection

    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, name="d")])
    kernel = model.get_layer("d").kernel
    kernel.assign(np.float32([0, 1])[RNG.integers(0, 2, (10, 10))])
    keep = projection(model, {CLUSTERS})
    kernel.assign_add(np.full((10, 10), 0.5))
    keep()
    assert sorted(np.unique(np.asarray(kernel))) == [0.5, 1.5]
    projection(model, ())()
    assert sorted(np.unique(np.asarray(kernel))) == [0.5, 1.5]


@pytest.mark.compression
def test_kernels_of_hard_models_are_found_once_and_the_unknown_is_listed() -> None:
    import keras
    from keras import layers

    from converters.compress.kernels import find

    class Own(layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.inner = layers.Dense(4)

        def call(self, x):
            return self.inner(x)

    a, b = keras.Input((6, 4)), keras.Input((6, 4))
    shared_layer = layers.Dense(4, name="shared")
    inner_in = keras.Input((6, 4))
    nested = keras.Model(inner_in, layers.Dense(4, name="shared")(layers.BatchNormalization()(inner_in)), name="nested")
    x = layers.Add()([nested(shared_layer(a)), shared_layer(b)])
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 3, name="mha")(x, x))
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="bi")(Own()(x))
    x = layers.TimeDistributed(layers.Dense(2, name="each"), name="td")(layers.SeparableConv1D(5, 3, name="sep")(x))
    model = keras.Model([a, b], [layers.LSTM(3, name="lstm")(x), x])
    kernels, left_alone = find(model)
    names = [kernel.name for kernel in kernels]
    assert len(names) == len(set(names)) == len({id(kernel.variable) for kernel in kernels})
    assert sum("shared/kernel" in name for name in names) == 2
    by_name = {kernel.name: kernel for kernel in kernels}
    assert sum("mha" in name for name in names) == 4
    assert sum("bi" in name and "recurrent_kernel" in name for name in names) == 2
    assert by_name[next(name for name in names if "mha/query" in name)].input_axes == (0,)
    assert by_name[next(name for name in names if "attention_output" in name)].input_axes == (0, 1)
    assert by_name["sep/depthwise_kernel"].input_axes == ()
    assert by_name["sep/pointwise_kernel"].input_axes == (1,)
    assert any(name.endswith("each/kernel") for name in names)
    assert not any("own" in name for name in names)
    assert list(left_alone) == ["own"]
