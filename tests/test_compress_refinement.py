"""Post-training refinement of networks: equalise, calibrate, adaround, correct_bias, alone and behind each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context, digest, images, network, task

from converters.compress.context import CLUSTERS, ZEROS, Rows
from converters.compress.objective import Predictor
from converters.errors import RefusedError, ToolError

pytestmark = [
    pytest.mark.compression,
    # Keras 3.15 saves variables in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

CALIBRATE: dict[str, Any] = {
    "method": "mse",
    "percentile": 99.99,
    "weight_bits": 8,
    "granularity": "per_channel",
    "weight_scales": "mse",
}
ROWS = images(64, seed=3).inputs
HELD = images(64, seed=4).inputs


def refined(name: str, model: Any, folder: Path, unrounded: Any = None, **parameters: Any) -> Any:
    """A step with calibration rows alone: no labels, no training rows."""
    from importlib import import_module

    defaults = {
        "equalize": {"rounds": 20},
        "calibrate": CALIBRATE,
        "adaround": {"weight_bits": None, "iterations": 200},
        "correct_bias": {"weight_bits": None},
    }[name]
    more = {} if unrounded is None else {"unrounded": lambda: unrounded}
    own = context(folder / name, None, calibration=Rows(ROWS, None), **more)
    return import_module(f"converters.compress.{name}").apply(model, defaults | parameters, own)


def off(found: Any, wanted: Any) -> float:
    return float(np.mean((Predictor(found)(HELD)[0] - wanted) ** 2) / np.var(wanted))


def uneven(model: Any, layer: str, factors: Any, norm: str | None = None) -> None:
    """Give the channels of a layer (or of its batch norm) other ranges, which nothing undoes."""
    if norm is not None:
        for weight in (model.get_layer(norm).gamma, model.get_layer(norm).beta):
            weight.assign(weight * factors)
    else:
        model.get_layer(layer).kernel.assign(model.get_layer(layer).kernel * factors)


def with_outliers(depthwise: bool = True) -> Any:
    """Convolution, batch norm, ReLU, (depthwise, batch norm, ReLU,) convolution, pooling, dense; two channels are 40 times the others."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(
        layers.BatchNormalization(name="norm1")(layers.Conv2D(8, 3, name="first", use_bias=False)(inputs))
    )
    if depthwise:
        x = layers.BatchNormalization(name="norm2")(layers.DepthwiseConv2D(3, name="deep")(x))
        x = layers.ReLU(name="relu2")(x)
    x = layers.Conv2D(6, 1, activation="relu", name="second")(x)
    x = layers.Dense(5, activation="relu", name="third")(layers.Flatten()(layers.MaxPooling2D()(x)))
    model = keras.Model(inputs, layers.Dense(4, name="last")(x))
    for name in ("norm1", "norm2") if depthwise else ("norm1",):
        generator = np.random.default_rng(1)
        layer = model.get_layer(name)
        layer.set_weights([generator.uniform(0.5, 2, w.shape) for w in layer.get_weights()])
    factors = np.ones(8)
    factors[::4] = 40
    if depthwise:
        uneven(model, "deep", factors, "norm2")
        model.get_layer("second").kernel.assign(model.get_layer("second").kernel / factors[:, None])
    return model


def test_equalising_keeps_the_function_and_undoes_outliers(tmp_path: Path) -> None:
    model = with_outliers()
    before = Predictor(model)(HELD)[0]
    result = refined("equalize", model, tmp_path)
    after = Predictor(result.model)(HELD)[0]
    assert np.abs(before - after).max() < 1e-4 * np.ptp(before)
    assert result.figures["pairs"] == 4
    assert result.figures["largest_factor"] > 5
    assert result.figures["channel_precision"] > 1.5 * result.figures["channel_precision_before"]
    # The gain in integers: the same precision loses several times less.
    assert result.figures["output_error"] < 0.5 * result.figures["output_error_before"]
    assert set(result.left_alone) == {"last"}


def test_what_passes_no_factor_is_left_alone_and_named(tmp_path: Path) -> None:
    import keras
    from keras import layers

    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU(6.0, name="six")(layers.Conv2D(4, 3, padding="same", name="capped")(inputs))
    x = layers.Conv2D(4, 3, padding="same", activation="leaky_relu", name="before_add")(x)
    y = layers.Conv2D(4, 3, padding="same", activation="gelu", name="curved")(x)
    x = layers.Add()([x, layers.Conv2D(4, 3, padding="same", name="in_add")(y)])
    x = layers.BatchNormalization(scale=False, name="bare")(layers.Conv2D(4, 3, name="scaleless")(x))
    x = layers.Conv2D(4, 3, name="grouped_next")(x)
    x = layers.Conv2D(4, 1, groups=2, name="grouped")(x)
    model = keras.Model(inputs, layers.Dense(4, name="last")(layers.GlobalAveragePooling2D()(x)))
    weights = digest(model)
    left = refined("equalize", model, tmp_path).left_alone
    for name, why in {
        "capped": "relu6 cuts at 6",
        "before_add": "more than one layer",
        "curved": "gelu does not pass",
        "in_add": "(Add) stands between",
        "scaleless": "no scale",
        "grouped_next": "grouped",
        "grouped": "grouped",
        "last": "output of the model",
    }.items():
        assert why in left[name], name
    assert digest(model) == weights


def test_unused_channels_and_zeros_do_not_run_away(tmp_path: Path) -> None:
    model = with_outliers()
    model.get_layer("norm1").gamma.assign([0, 1e-9, *np.ones(6)])
    second = model.get_layer("second").kernel.numpy()
    second[..., 3, :] = 0
    model.get_layer("second").kernel.assign(second)
    zeros = sum(int((layer.kernel.numpy() == 0).sum()) for layer in model.layers if hasattr(layer, "kernel"))
    before = Predictor(model)(HELD)[0]
    result = refined("equalize", model, tmp_path)
    assert np.abs(before - Predictor(result.model)(HELD)[0]).max() < 1e-4 * np.ptp(before)
    assert max(float(np.abs(v.numpy()).max()) for v in result.model.variables) < 1e4
    assert sum(int((la.kernel.numpy() == 0).sum()) for la in result.model.layers if hasattr(la, "kernel")) == zeros
    assert result.preserve == frozenset()


def test_calibrating_leaves_integers_and_ranges(tmp_path: Path) -> None:
    model = network()
    wanted = Predictor(model)(HELD)[0]
    result = refined("calibrate", model, tmp_path)
    assert off(result.model, wanted) < 0.01
    kernels = [layer for layer in result.model.layers if hasattr(layer, "kernel_scale")]
    assert len(kernels) == result.figures["rounded_layers"] == 5
    for layer in kernels:
        steps = layer.kernel.numpy().reshape(-1, layer.channels) / layer.kernel_scale.numpy()
        assert np.abs(steps - np.round(steps)).max() < 1e-3
        assert np.abs(steps).max() < 127.01
    modes = {layer.mode for layer in result.model.layers if hasattr(layer, "low")}
    assert modes == {"fixed"}
    assert result.figures["calibration_rows"] == 64
    assert result.figures["tensor_error"] <= result.figures["tensor_error_before"]
    assert result.left_alone == {}


def test_an_outlier_among_the_rows_does_not_decide_the_ranges(tmp_path: Path) -> None:
    from converters.compress.calibrate import apply

    rows = ROWS[0].copy()
    rows[5, 2, 2] = 500
    errors = {}
    for method in ("minmax", "mse", "percentile", "entropy"):
        own = context(tmp_path / method, None, calibration=Rows((rows,), None))
        model = with_outliers(depthwise=False)
        wanted = Predictor(model)(HELD)[0]
        more = {"method": method, "percentile": 99.9}
        errors[method] = off(apply(model, CALIBRATE | more, own).model, wanted)
    assert errors["percentile"] < 0.5 * errors["minmax"]
    assert errors["entropy"] < 0.5 * errors["minmax"]


def test_shared_values_and_zeros_stay_through_calibration(tmp_path: Path) -> None:
    from converters.compress.calibrate import apply

    model = network()
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            step = np.abs(kernel).max() / 3
            layer.kernel.assign(np.round(kernel / step) * step)
    own = context(tmp_path, None, calibration=Rows(ROWS, None), preserve=frozenset({ZEROS, CLUSTERS}))
    result = apply(model, CALIBRATE, own)
    for layer in result.model.layers:
        if hasattr(layer, "kernel_scale"):
            steps = layer.kernel.numpy().reshape(-1, layer.channels) / layer.kernel_scale.numpy()
            assert len(np.unique(np.round(steps))) <= 7
    assert result.preserve == {ZEROS, CLUSTERS}


def test_learnt_rounding_and_corrected_biases_bring_four_bits_nearer(tmp_path: Path) -> None:
    model = network()
    wanted = Predictor(model)(HELD)[0]
    plain = refined("calibrate", model, tmp_path, weight_bits=4).model
    first = off(plain, wanted)
    before = {layer.name: layer.kernel.numpy() for layer in plain.layers if hasattr(layer, "kernel_scale")}
    biases = {layer.name: layer.bias.numpy() for layer in plain.layers if hasattr(layer, "kernel_scale")}
    learnt = refined("adaround", plain, tmp_path, model)
    second = off(learnt.model, wanted)
    assert second < 0.8 * first
    assert learnt.figures["layer_error"] < learnt.figures["layer_error_before"]
    assert learnt.figures["output_error"] < learnt.figures["output_error_before"]
    assert learnt.figures["implied"] is None
    moved = 0
    for name, kernel in before.items():
        layer = learnt.model.get_layer(name)
        steps = (layer.kernel.numpy() - kernel).reshape(-1, layer.channels) / layer.kernel_scale.numpy()
        assert np.abs(steps).max() < 1.001  # one step up or down
        moved += int((np.abs(steps) > 0.5).sum())
        assert np.array_equal(layer.bias.numpy(), biases[name])
    assert moved > 0
    kernels = {name: learnt.model.get_layer(name).kernel.numpy() for name in before}
    corrected = refined("correct_bias", learnt.model, tmp_path, model)
    assert corrected.figures["mean_shift"] < 0.1 * corrected.figures["mean_shift_before"]
    assert corrected.figures["corrected_layers"] == 5
    assert all(np.array_equal(corrected.model.get_layer(name).kernel.numpy(), kernels[name]) for name in kernels)
    assert off(corrected.model, wanted) < first


def test_alone_they_choose_the_ranges_themselves(tmp_path: Path) -> None:
    results = [refined("adaround", network(), tmp_path / str(i), weight_bits=4, iterations=50) for i in range(2)]
    assert digest(results[0].model) == digest(results[1].model)
    assert results[0].figures["implied"] == {"ranges": "mse", "weight_bits": 4, "granularity": "per_channel"}
    shifted = refined("correct_bias", network(), tmp_path)
    assert shifted.figures["implied"]["weight_bits"] == 8
    assert {layer.top for layer in shifted.model.layers if hasattr(layer, "kernel_scale")} == {127}


def test_layers_of_every_kind_are_products_of_matrices_as_keras_computes_them() -> None:
    import keras
    from keras import layers

    from converters.compress.patches import as_matrices, by_group, chosen_positions, patches, window_of

    rng = np.random.default_rng(0)
    flat, square = rng.normal(size=(3, 9, 4)).astype(np.float32), rng.normal(size=(3, 9, 8, 4)).astype(np.float32)
    for layer, x in (
        (layers.Conv2D(5, 3, strides=2, padding="same"), square),
        (layers.Conv2D(5, (2, 3), dilation_rate=2), square),
        (layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2), square),
        (layers.Conv1D(5, 3, padding="causal", dilation_rate=2), flat),
        (layers.Conv1D(5, 4, strides=2, padding="same"), flat),
        (layers.DepthwiseConv1D(3), flat),
        (layers.Dense(6), flat),
        (layers.Dense(6), flat[:, 0]),
    ):
        want = np.asarray(keras.ops.convert_to_numpy(layer(x)))
        window = window_of(layer)
        matrices = as_matrices(layer.kernel.numpy(), window)
        where = chosen_positions(want.shape, 30, rng)
        assert np.allclose(
            patches(x, window, where) @ matrices, by_group(want[where], window, len(matrices)), atol=1e-5
        )


def test_ranges_mean_what_tensorflow_makes_of_them() -> None:
    from converters.compress import fake_quant, range_search

    for low, high in ((-1.0, 3.0), (0.0, 6.0), (-0.3, 0.01), (0.0, 0.0), (-4.0, 0.0)):
        step, zero = range_search.nudged(low, high)
        assert fake_quant.nudged(low, high) == pytest.approx((-zero * step, (255 - zero) * step), rel=1e-6)


def test_what_cannot_be_refined_says_why(tmp_path: Path) -> None:
    import keras
    from keras import layers

    inputs = keras.Input((8, 8, 1))
    bare = keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(RefusedError, match="no convolution or dense layer"):
        refined("calibrate", bare, tmp_path)
    from converters.compress.calibrate import apply

    with pytest.raises(ToolError, match="needs calibration rows"):
        apply(network(), CALIBRATE, context(tmp_path / "none", None))
    assert apply(network(), CALIBRATE, context(tmp_path / "own", task(64))).figures["calibration_rows"] == 64
    x = layers.Conv2D(4, 3, use_bias=False, name="bare")(inputs)
    unbiased = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    result = refined("correct_bias", unbiased, tmp_path / "unbiased")
    assert result.left_alone == {"bare": "it has no bias that could be shifted"}
    assert result.figures["mean_shift"] is None


def test_a_chain_goes_with_calibration_rows_alone(tmp_path: Path) -> None:
    from converters.compress.chain import run_step
    from converters.compress.loading import load_step_model
    from converters.compress.record import MODEL, read_record
    from converters.dataset import dataset_from_arrays
    from converters.steps import make_step
    from converters.transfer import write_dataset

    network().save(tmp_path / "base.keras")
    tests = images(10, seed=5)
    arrays = {"x_test": tests.inputs[0], "y_test": tests.labels, "calibration": ROWS[0]}
    write_dataset(dataset_from_arrays(arrays, training=True), tmp_path / "data", training=True)
    before = unrounded = None
    for name in ("equalize", "calibrate", "adaround", "correct_bias"):
        folder = tmp_path / name
        folder.mkdir()
        given = {"iterations": 20} if name == "adaround" else {}
        job = {"base": str(tmp_path / "base.keras"), "step": make_step(name, given).to_dict(), "paths": {}, "seed": 7}
        job |= {"before": before, "earlier": (), "folder": str(folder), "data": str(tmp_path / "data")}
        run_step({**job, "unrounded": unrounded}, lambda _text: None)
        record = read_record(folder)
        assert record.score_after is None
        assert "no labelled training rows" in str(record.score_missing)
        assert record.figures.get("implied") is None
        assert record.figures["output_error"] is not None
        before = str(folder)
        unrounded = unrounded or (str(tmp_path / "equalize" / MODEL) if name == "calibrate" else None)
    model = load_step_model(tmp_path / "correct_bias" / MODEL)
    assert off(model, Predictor(load_step_model(tmp_path / "base.keras"))(HELD)[0]) < 0.01


@pytest.mark.slow
def test_the_file_of_a_refined_model_answers_as_it_does(tmp_path: Path) -> None:
    from converters.check import run_artifact
    from converters.compress.loading import load_step_model, save_step_model
    from converters.export.base import load_source
    from converters.export.prepare import Preparation
    from converters.export.tflite import TfliteToolchain
    from converters.recipe_words import parse_recipes
    from converters.support import reason

    base = with_outliers()
    model = refined("calibrate", base, tmp_path, weight_bits=4).model
    model = refined("adaround", model, tmp_path, base).model
    model = refined("correct_bias", model, tmp_path, base).model
    save_step_model(model, tmp_path / "model.keras")
    model = load_step_model(tmp_path / "model.keras")
    (tmp_path / "source").mkdir()
    request = {"base": str(tmp_path / "model.keras"), "kind": "keras", "name": "m", "sha256": "0" * 64, "seed": 0}
    Preparation(request | {"folder": str(tmp_path / "source"), "dataset": None, "reference": None}).make("saved_model")
    source = load_source(tmp_path / "source")
    (recipe,) = parse_recipes("calibrate(weight_bits=4) > adaround > correct_bias > static_wi4_ai8 @ tflite")
    assert reason(recipe, source.facts) is None
    exported = TfliteToolchain(source, 0).export(recipe, tmp_path)
    assert set(exported.weight_dtypes) >= {"int4"}
    name, output = source.inputs[0].name, source.outputs[0].name
    got = run_artifact(tmp_path / exported.artifact, "tflite", exported.signature, {name: HELD[0]})[output]
    want = Predictor(model)(HELD)[0]
    last = [layer for layer in model.layers if hasattr(layer, "low")][-1]
    step = float(last.high.numpy() - last.low.numpy()) / 255
    assert np.mean(np.abs(got - want) < 1.01 * step) >= 0.98
