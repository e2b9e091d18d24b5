"""factorize on Keras layers: the same function at full rank, fewer parameters and MACs below it, and hands off what it does not know."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from converters.compress import decompose, decompose_cp, factor_layers, rewrite
from converters.compress.context import Context, History, Rows, TrainingData
from converters.compress.decompose import CP, SPATIAL_SVD, SVD, TUCKER
from converters.compress.factorize import apply
from converters.errors import RecipeError, RefusedError
from converters.steps import make_step

# Keras 3 saves variables in a way that numpy 2 warns about.
pytestmark = [pytest.mark.compression, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
keras = pytest.importorskip("keras")
layers = keras.layers


def untrained(*_args, **_kwargs) -> History:
    raise AssertionError("no training was asked for")


def context_for(model, folder: Path, fit=untrained, data: TrainingData | None = None) -> Context:
    return Context(data, fit, lambda: model, folder, seed=1, say=lambda _text: None)


def factorize(model, folder: Path, **given):
    return apply(model, make_step("factorize", {"epochs": 0, **given}).values, context_for(model, folder))


def rows_for(model, count: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]


def answers(model, rows) -> list[np.ndarray]:
    flat = keras.Model(list(model.inputs), list(model.outputs))
    found = flat(rows, training=False)
    return [np.asarray(y) for y in (found if isinstance(found, list | tuple) else [found])]


def randomly_biased(model):
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        if len(weight.shape) == 1:
            weight.assign(rng.standard_normal(weight.shape))
    return model


def lone(layer, *shape: int):
    image = keras.Input(shape)
    return randomly_biased(keras.Model(image, layer(image)))


GEOMETRIES = {
    "plain": {},
    "same": {"padding": "same", "activation": "relu"},
    "strides": {"padding": "same", "strides": 2},
    "strides_valid": {"strides": 2, "use_bias": False},
    "dilated": {"padding": "same", "dilation_rate": 2},
}


def full_rank(layer, method: str):
    """Factors that lose nothing (CP: of a kernel that is made a sum of four terms first)."""
    kernel = factor_layers.site_of(layer).kernel
    if method == SVD:
        return decompose.channel_svd(kernel, min(decompose.channel_matrix(kernel).shape))
    if method == SPATIAL_SVD:
        return decompose.spatial_svd(kernel, min(decompose.spatial_matrix(kernel).shape))
    if method == TUCKER:
        return decompose.tucker2(kernel, *kernel.shape[2:])
    rng = np.random.default_rng(2)
    factors = (
        rng.standard_normal((1, 1, kernel.shape[2], 4)),
        rng.standard_normal((kernel.shape[0], 1, 4, 1)),
        rng.standard_normal((1, kernel.shape[1], 4, 1)),
        rng.standard_normal((1, 1, 4, kernel.shape[3])),
    )
    layer.kernel.assign(decompose.multiplied(CP, factors).reshape(layer.kernel.shape))
    return factors


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(13, 12, 5), (14, 6)], ids=["2d", "1d"])
def test_every_chain_at_full_rank_does_what_the_layer_did(geometry, size):
    kind, kernel_size = (layers.Conv2D, (3, 5)) if len(size) == 3 else (layers.Conv1D, 5)
    for method in (SVD, SPATIAL_SVD, TUCKER, CP):
        if method == SPATIAL_SVD and len(size) == 2:
            continue
        layer = kind(7, kernel_size, name="it", **GEOMETRIES[geometry])
        model = lone(layer, *size)
        factors = full_rank(layer, method)
        chain = factor_layers.chain(layer, method, factors)
        assert chain[-1].name == "it"
        found = rewrite.replaced(model, lambda item, chain=chain, layer=layer: chain if item is layer else None)
        rows = rows_for(model)
        scale = max(1.0, float(np.abs(answers(model, rows)[0]).max()))
        np.testing.assert_allclose(answers(found, rows)[0] / scale, answers(model, rows)[0] / scale, atol=1e-5)


def test_dense_causal_and_pointwise_at_full_rank():
    for layer, shape in (
        (layers.Dense(9, activation="tanh"), (4, 6)),
        (layers.Conv1D(6, 3, padding="causal", dilation_rate=2), (9, 4)),
        (layers.Conv2D(6, 1, strides=2), (7, 7, 4)),
    ):
        model = lone(layer, *shape)
        for method in factor_layers.methods_of(layer, "auto")[0]:
            chain = factor_layers.chain(layer, method, full_rank(layer, method))
            found = rewrite.replaced(model, lambda item, chain=chain, layer=layer: chain if item is layer else None)
            np.testing.assert_allclose(
                answers(found, rows_for(model))[0], answers(model, rows_for(model))[0], atol=1e-4
            )


def small_cnn():
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="stem")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv2D(24, 3, strides=2, padding="same", name="conv", activation="relu")(x)
    x = layers.Conv2D(32, 1, name="point")(x)
    x = layers.Flatten()(x)
    return randomly_biased(keras.Model(image, layers.Dense(10, name="logits")(x)))


def test_parameters_and_macs_fall(tmp_path):
    model = small_cnn()
    for method in ("auto", "svd", "spatial_svd", "tucker", "cp"):
        result = factorize(model, tmp_path, ratio=0.5, method=method)
        before, after = result.figures["parameters"]
        assert before == model.count_params()
        assert after == result.model.count_params() < before
        for path, item in result.figures["layers"].items():
            assert item["parameters"][1] < item["parameters"][0]
            assert item["macs"][1] < item["macs"][0]
            wanted = "svd" if path in {"point", "logits"} else method
            assert item["method"] == wanted or method == "auto"
        assert result.figures["kept_of_factorized"] <= 0.55
        assert [t.name for t in result.model.inputs] == ["image"]
        assert result.model.output_names == ["logits"]
        assert answers(result.model, rows_for(model))[0].shape == (3, 10)


def test_auto_leaves_the_least_error_at_the_same_size(tmp_path):
    rng = np.random.default_rng(1)
    model = lone(layers.Conv2D(16, 3, name="it"), 12, 12, 16)
    separable = np.einsum("hir,wro->hwio", rng.standard_normal((3, 16, 6)), rng.standard_normal((3, 6, 16)))
    tucker = np.einsum("ia,hwab,bo->hwio", *(rng.standard_normal(s) for s in ((16, 6), (3, 3, 6, 6), (6, 16))))
    for kernel, wanted in ((separable, "spatial_svd"), (tucker, "tucker")):
        model.get_layer("it").kernel.assign(kernel)
        found = {
            m: factorize(model, tmp_path, ratio=0.27, method=m).figures["layers"]["it"] for m in ("auto", "svd", wanted)
        }
        assert found["auto"]["method"] == wanted
        assert found["auto"]["error"] == pytest.approx(found[wanted]["error"], abs=1e-9)
        assert found["auto"]["error"] < 0.01 < found["svd"]["error"]


def test_by_energy_and_by_rank(tmp_path):
    model = small_cnn()
    result = factorize(model, tmp_path, energy=0.6)
    assert all(item["error"] <= 0.4 for item in result.figures["layers"].values())
    result = factorize(model, tmp_path, rank=4, method="svd")
    assert all(item["ranks"] == [4] for item in result.figures["layers"].values())
    with pytest.raises(RecipeError, match="exclude"):
        factorize(model, tmp_path, rank=4, energy=0.5)


def test_nothing_to_gain_is_refused(tmp_path):
    model = lone(layers.Dense(2, name="tiny"), 2)
    with pytest.raises(RefusedError, match="tiny: no rank saves both"):
        factorize(model, tmp_path)


@keras.saving.register_keras_serializable("tests")
class Doubling(layers.Dense):
    def call(self, x):
        return 2 * super().call(x)


def test_what_it_does_not_know_is_left_alone_and_listed(tmp_path):
    tokens = keras.Input((12, 8), name="signal")
    x = layers.Dense(32, name="known")(tokens)
    x = layers.MultiHeadAttention(2, 16, name="attention")(x, x)
    x = Doubling(32, name="custom")(x)
    x = layers.Conv1D(32, 3, groups=4, name="grouped")(x)
    x = layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = layers.Dense(32, kernel_constraint="max_norm", name="constrained")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Bidirectional(layers.LSTM(16, name="lstm"), name="recurrent")(x)
    model = randomly_biased(keras.Model(tokens, layers.Dense(32, name="head")(x)))
    result = factorize(model, tmp_path, rank=2)
    assert set(result.left_alone) == {"attention", "custom", "grouped", "depthwise", "constrained", "recurrent"}
    for name, word in (
        ("attention", "attention"),
        ("custom", "custom"),
        ("grouped", "groups"),
        ("depthwise", "depthwise"),
        ("constrained", "constraint"),
        ("recurrent", "recurrent"),
    ):
        assert word in result.left_alone[name]
    assert set(result.figures["layers"]) == {"known", "head"}
    for name in result.left_alone:
        for old, new in zip(model.get_layer(name).weights, result.model.get_layer(name).weights, strict=True):
            assert np.array_equal(np.asarray(old.value), np.asarray(new.value))


def test_a_shared_layer_is_replaced_once_and_used_as_often(tmp_path):
    a, b = keras.Input((20,), name="a"), keras.Input((20,), name="b")
    shared = layers.Dense(20, name="shared")
    outputs = {"near": layers.Subtract(name="near")([shared(a), shared(b)]), "far": layers.Add(name="far")([a, b])}
    rng = np.random.default_rng(0)
    model = keras.Model({"a": a, "b": b}, outputs)
    shared.kernel.assign(rng.standard_normal((20, 3)) @ rng.standard_normal((3, 20)))
    result = factorize(model, tmp_path, rank=3)
    assert result.model.count_params() == 3 * 40 + 20
    assert sorted(result.model.output) == ["far", "near"]
    assert sorted(result.model.input) == ["a", "b"]
    for old, new in zip(answers(model, rows_for(model)), answers(result.model, rows_for(model)), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4)


def test_nested_models_are_walked_and_survive_a_file(tmp_path):
    inner_in = keras.Input((8, 8, 12))
    inner = keras.Model(inner_in, layers.Conv2D(12, 3, padding="same", name="conv")(inner_in), name="inner")
    tail = keras.Sequential([layers.Input((768,)), layers.Dense(24, name="wide"), layers.ReLU()], name="tail")
    image = keras.Input((8, 8, 12))
    x = inner(inner(image))
    model = randomly_biased(keras.Model(image, layers.Dense(4, name="head")(tail(layers.Flatten()(x)))))
    result = factorize(model, tmp_path, rank=3)
    assert any("conv" in path for path in result.figures["layers"])
    assert any("wide" in path for path in result.figures["layers"])
    assert isinstance(result.model.get_layer("tail"), keras.Sequential)
    result.model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.count_params() == result.model.count_params() < model.count_params()
    np.testing.assert_allclose(answers(again, rows_for(model))[0], answers(result.model, rows_for(model))[0], atol=1e-5)


def test_a_sequential_stays_one_and_keeps_its_dtype_policy(tmp_path):
    half = {"dtype": "mixed_float16"}
    model = keras.Sequential(
        [
            layers.Input((30,), name="x"),
            layers.Dense(40, activation="relu", **half),
            layers.Dense(30, name="out", **half),
        ]
    )
    model.get_layer("out").trainable = False
    result = factorize(model, tmp_path, rank=4)
    assert isinstance(result.model, keras.Sequential)
    assert {layer.dtype_policy.name for layer in result.model.layers} == {"mixed_float16"}
    assert [layer.trainable for layer in result.model.layers] == [True, True, False, False]
    assert result.model.inputs[0].name == "x"


def test_training_goes_through_the_context(tmp_path):
    model = small_cnn()
    seen = {}

    def fit(trained, context, *, epochs, learning_rate=None, label="train"):
        seen.update(epochs=epochs, rate=learning_rate, label=label, preserve=context.preserve)
        trained.get_layer("logits").bias.assign(np.arange(10.0))
        return History((0.5,), (0.75,), epochs, 1.0)

    rows = Rows((np.zeros((2, 16, 16, 3), np.float32),), np.zeros(2, np.int64))
    data = TrainingData(rows, rows, rows, "classification", "")
    context = dataclasses.replace(context_for(model, tmp_path, fit, data), preserve=frozenset({"zeros"}))
    result = apply(model, make_step("factorize", {"epochs": 2, "learning_rate": 0.01}).values, context)
    assert seen == {"epochs": 2, "rate": 0.01, "label": "factorize", "preserve": frozenset({"zeros"})}
    assert result.figures["validation_score"] == 0.75
    assert result.preserve == {"zeros"}
    assert result.model.get_layer("logits").bias.value[9] == 9


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = small_cnn()
    first, second = (factorize(model, tmp_path, ratio=0.4).model.weights for _ in range(2))
    assert all(np.array_equal(np.asarray(a.value), np.asarray(b.value)) for a, b in zip(first, second, strict=True))


def test_cp_of_a_large_kernel_is_not_tried_by_auto():
    assert not decompose_cp.affordable(np.zeros((3, 3, 512, 512), np.float32), 700)
    assert decompose_cp.affordable(np.zeros((3, 3, 64, 64), np.float32), 150)
