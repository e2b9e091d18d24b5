"""Weight sharing: k-means on a line, what it does to models, and what it really saves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import hard_model
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.compress.cluster import apply, share, storage
from converters.compress.context import CLUSTERS, ZEROS, Context, History, Rows, TrainingData
from converters.compress.kmeans import kmeans, nearest
from converters.errors import RefusedError
from converters.steps import make_step

BEGINNINGS = ("linear", "density", "kmeans++")
NUMBERS = st.lists(st.floats(-3, 3, width=32, allow_subnormal=False), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.integers(1, 9), st.sampled_from(BEGINNINGS))
def test_every_centroid_is_the_mean_of_what_is_nearest(numbers: list[float], clusters: int, begin: str) -> None:
    values = np.array(numbers)
    centroids = kmeans(values, clusters, begin, np.random.default_rng(0))
    assert 1 <= len(centroids) <= min(clusters, len(np.unique(values)))
    assert (np.diff(centroids) > 0).all()
    index = nearest(values, centroids)
    distance = np.abs(values[:, None] - centroids)
    np.testing.assert_allclose(distance[np.arange(len(values)), index], distance.min(1), atol=1e-12)
    for cluster in range(len(centroids)):
        assert (index == cluster).any()
        np.testing.assert_allclose(values[index == cluster].mean(), centroids[cluster], atol=1e-9)
    if len(np.unique(values)) <= clusters:
        np.testing.assert_array_equal(centroids[index], values)


def best_error(values: np.ndarray, clusters: int) -> float:
    """The least squared error of any clustering, by trying all runs of sorted values (dynamic programming)."""
    x = np.sort(values)

    def cost(a: int, b: int) -> float:
        return float(((x[a:b] - x[a:b].mean()) ** 2).sum())

    best = [0.0] + [np.inf] * len(x)
    for _ in range(clusters):
        best = [0.0] + [min(best[a] + cost(a, b) for a in range(b)) for b in range(1, len(x) + 1)]
    return best[-1]


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_clusters_are_near_the_best_there_are(begin: str) -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(c, 0.05, 12) for c in (-2, 0, 0.5, 3)])
    centroids = kmeans(values, 4, begin, rng)
    error = ((values - centroids[nearest(values, centroids)]) ** 2).sum()
    assert error <= 1.2 * best_error(values, 4)


def test_beginnings_differ_and_a_seed_settles_the_draw() -> None:
    values = np.random.default_rng(1).normal(size=5_000) ** 3
    found = {begin: kmeans(values, 8, begin, np.random.default_rng(4)) for begin in BEGINNINGS}
    assert not np.array_equal(found["linear"], found["density"])
    # The linear one serves the few large weights, the density one the many small ones.
    assert np.abs(found["linear"]).max() > np.abs(found["density"]).max()
    np.testing.assert_array_equal(found["kmeans++"], kmeans(values, 8, "kmeans++", np.random.default_rng(4)))


def test_zeros_are_a_cluster_of_their_own_and_count_as_one() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 30)).astype(np.float32)
    mask = rng.random((30, 30)) < 0.8
    values[mask] = 0
    shared = share(values, mask, 16, "linear", rng)
    assert shared is not None
    assert shared.dtype == np.float32
    assert ((shared == 0) == mask).all()
    assert len(np.unique(shared)) == 16
    assert len(np.unique(share(values, None, 4, "density", rng))) == 4
    few = np.zeros(50, np.float32)
    few[:6] = np.arange(1, 7)
    assert len(np.unique(share(few, few == 0, 16, "linear", rng))) == 3 + 1
    assert share(np.ones(40, np.float32), None, 4, "linear", rng) is None
    assert share(np.float32([3.0]), None, 4, "linear", rng) is None


def test_storage_counts_bits_and_codebook() -> None:
    values = np.float32([0, 1, 2, 3, 4] * 7)
    assert storage(values) == type(storage(values))(5, 3, 14, 20)
    assert storage(np.ones(9, np.float16)).index_bytes == 0
    # -0 is another number than 0 where bytes are compared.
    assert storage(np.float32([0.0, -0.0])).values == 2


def jolt(model: Any, context: Context, *, epochs: int, after_batch: Any = None, label: str = "", **_: Any) -> History:
    """Stands for training: moves every weight, and keeps the contract of `Fit`."""
    from converters.compress.preserve import projection

    keep = projection(model, context.preserve)
    rng = np.random.default_rng(context.seed)
    for _step in range(epochs * 3):
        for variable in model.trainable_variables:
            variable.assign_add(rng.normal(0, 0.05, tuple(variable.shape)).astype("float32"))
        keep()
    return History((1.0,) * epochs, (0.5,) * epochs, epochs, 0.1)


def context(tmp_path: Path, **changes: Any) -> Context:
    rows = Rows((np.zeros((4, 3), np.float32),), np.zeros(4, np.int64))
    data = TrainingData(rows, rows, rows, "classification", "0")
    return replace(Context(data, jolt, lambda: None, tmp_path, seed=1, say=lambda _: None), **changes)


def values(**given: Any) -> dict[str, Any]:
    return make_step("cluster", given).values


@pytest.mark.compression
@pytest.mark.parametrize("epochs", [0, 2])
def test_sharing_survives_training_and_is_counted(epochs: int, tmp_path: Path) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    i = keras.Input((20,))
    model = keras.Model(i, layers.Dense(3, name="b")(layers.Dense(30, name="a")(i)))
    kernel = model.get_layer("a").kernel
    before = np.where(np.abs(np.asarray(kernel)) < 0.2, 0, np.asarray(kernel))
    kernel.assign(before)
    result = apply(model, values(clusters=8, epochs=epochs), context(tmp_path, preserve=frozenset({ZEROS})))
    a, b = (np.asarray(model.get_layer(name).kernel) for name in "ab")
    assert ((a == 0) == (before == 0)).all()
    assert len(np.unique(a)) == 8
    assert len(np.unique(b)) == 8
    assert result.preserve == {ZEROS, CLUSTERS}
    rows = {row["tensor"]: row for row in result.figures["layers"]}
    assert rows["a/kernel"]["index_bytes"] == 600 * 3 // 8
    assert rows["b/kernel"]["codebook_bytes"] == 32
    shared = (600 * 3 // 8 + 32) + (-(-90 * 3 // 8) + 32) + (30 + 3) * 4
    assert result.figures["weights_bytes_shared"] == shared
    assert result.figures["ratio"] == pytest.approx(723 * 4 / shared)
    if epochs:
        assert result.figures["epochs"] == 2
        assert not np.isin(a[a != 0], before).all()


@pytest.mark.compression
def test_zeros_need_not_be_kept(tmp_path: Path) -> None:
    import keras

    i = keras.Input((20,))
    model = keras.Model(i, keras.layers.Dense(20, name="a")(i))
    kernel = model.get_layer("a").kernel
    kernel.assign(np.where(np.abs(np.asarray(kernel)) < 0.2, 0, np.asarray(kernel)))
    given = values(clusters=4, keep_zeros=False, epochs=1)
    result = apply(model, given, context(tmp_path, preserve=frozenset({ZEROS})))
    assert result.preserve == {CLUSTERS}
    assert len(np.unique(np.asarray(kernel))) == 4
    assert (np.asarray(kernel) != 0).all()


@pytest.mark.compression
def test_hard_models_are_clustered_where_known_and_listed_where_not(tmp_path: Path) -> None:
    import keras
    from keras import layers

    model = hard_model("tiny")
    own = np.asarray(model.get_layer("own").kernel).copy()
    result = apply(model, values(clusters=4, epochs=1), context(tmp_path))
    assert set(result.left_alone) == {"own", "tiny/kernel"}
    np.testing.assert_array_equal(own.shape, model.get_layer("own").kernel.shape)
    for row in result.figures["layers"]:
        assert row["values"] <= 4, row
    assert any("table" in row["tensor"] for row in result.figures["layers"])
    # shared, conv, table, four of the attention, two of the LSTM, one, two of the GRU.
    assert len(result.figures["layers"]) == 12
    inputs = keras.Input((6, 4))
    alone = keras.Model(inputs, layers.ReLU()(inputs))
    with pytest.raises(RefusedError, match="share values"):
        apply(alone, values(epochs=0), context(tmp_path))


@pytest.mark.compression
def test_half_precision_shares_too(tmp_path: Path) -> None:
    import keras

    for policy in ("bfloat16", "float16"):
        i = keras.Input((16,), dtype="float32")
        model = keras.Model(i, keras.layers.Dense(16, dtype=policy, name="d")(i))
        apply(model, values(clusters=8, epochs=1), context(tmp_path))
        assert len(np.unique(np.asarray(model.get_layer("d").kernel).astype(np.float32))) <= 8
