"""Compact networks as Keras models: their papers' sizes, the same numbers as keras.applications, small images, saving, compression."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from converters.compress import distill, prune_structured, training
from converters.compress.context import Context, Rows, TrainingData
from converters.compress.graph import read_graph
from converters.compress.groups import read_structure
from converters.compress.width import at_width
from converters.errors import RecipeError, RefusedError
from converters.networks import NETWORKS, build
from converters.networks.work import last_map
from converters.steps import make_step

pytestmark = [pytest.mark.compression, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
keras = pytest.importorskip("keras")

LARGE = {"efficientnet_lite1", "efficientnet_lite2", "efficientnet_lite3", "efficientnet_lite4"}
ALL = [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in NETWORKS]


@functools.cache
def full_size(name: str):
    return build(name, (32, 32, 3), 1000, seed=3)


def trainable(model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize("name", ALL)
def test_the_papers_size_and_small_images(name):
    model = full_size(name)
    # Weights do not depend on the size of the image, only its products do.
    assert trainable(model) == NETWORKS[name].parameters
    assert last_map(model) == (4, 4)
    answers = np.asarray(model(np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)))
    assert answers.shape == (1, 1000)
    assert np.isfinite(answers).all()
    assert answers.std() > 0


# Ours → keras.applications, which has no names for the same: weights stand in the order of the layers.
REFERENCES = {
    "mobilenet_v1": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3Small",
    "mobilenet_v3_large": "MobileNetV3Large",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.endswith("large") else ()) for name in REFERENCES]
)
def test_the_same_numbers_as_keras_applications(name):
    extra = {"include_preprocessing": False} if "v3" in name else {}
    keras.utils.set_random_seed(1)
    theirs = getattr(keras.applications, REFERENCES[name])(
        input_shape=(96, 96, 3), alpha=0.5, weights=None, classes=7, classifier_activation=None, **extra
    )
    ours = build(name, (96, 96, 3), 7, 0.5)
    rng = np.random.default_rng(0)
    values = [trained_like(np.asarray(weight), weight.path, rng) for weight in theirs.weights]
    assert [value.size for value in values] == [int(np.prod(weight.shape)) for weight in ours.weights]
    ours.set_weights([value.reshape(weight.shape) for value, weight in zip(values, ours.weights, strict=True)])
    theirs.set_weights(values)
    x = rng.standard_normal((2, 96, 96, 3)).astype(np.float32)
    expected = np.asarray(theirs(x, training=False))
    largest = np.abs(expected).max()
    assert largest > 1e-3
    np.testing.assert_allclose(np.asarray(ours(x, training=False)), expected, rtol=1e-3, atol=1e-4 * largest)


def trained_like(weight: np.ndarray, path: str, rng: np.random.Generator) -> np.ndarray:
    """Values with which a signal neither dies nor grows, and each normalization counts."""
    if weight.ndim > 1:
        taken = weight.shape[:2] if "depthwise" in path or "dw" in path else weight.shape[:-1]
        return rng.normal(0, np.sqrt(2 / np.prod(taken)), weight.shape)
    return (
        rng.uniform(0.5, 1.5, weight.shape)
        if path.endswith(("variance", "gamma"))
        else rng.normal(0, 0.1, weight.shape)
    )


@pytest.mark.parametrize("name", ["shufflenet_v2", pytest.param("mobilenet_v3_small", marks=pytest.mark.slow)])
def test_networks_come_out_of_a_file_as_they_went_in(name, tmp_path: Path):
    model = build(name, (28, 28, 1), 10, 0.25, seed=3)
    assert last_map(model) == (4, 4)
    x = np.random.default_rng(0).standard_normal((2, 28, 28, 1)).astype(np.float32)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", compile=False, safe_mode=True)
    expected = np.asarray(model(x, training=False))
    np.testing.assert_allclose(np.asarray(loaded(x, training=False)), expected, rtol=1e-5, atol=1e-6)


def test_names_and_weights_follow_from_network_and_seed():
    first, again, other = (build("squeezenet", (8, 8, 1), 3, 0.25, seed=seed) for seed in (1, 1, 2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in again.layers]
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), again.get_weights(), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize(("width", "channels"), [(0.5, 48), (1.0, 116), (1.5, 176), (2.0, 244)])
def test_shufflenet_has_its_papers_channels(width, channels):
    from converters.networks.shufflenet import stage_filters

    assert stage_filters(width) == channels


def test_shuffling_takes_the_halves_in_turns():
    from converters.networks.shufflenet import _half, _shuffled

    a, b = keras.Input((2, 3, 4)), keras.Input((2, 3, 4))
    joined = _shuffled([a, b], "unit")
    model = keras.Model([a, b], [joined, _half(joined, 0, 5, "first"), _half(joined, 3, 0, "second")])
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    found, first, second = (np.asarray(y) for y in model([x, x + 100]))
    assert found[0, 0, 0].tolist() == [0, 100, 1, 101, 2, 102, 3, 103]
    assert np.array_equal(np.concatenate([first, second], axis=-1), found)


@pytest.mark.parametrize(
    ("resolution", "layers", "side"),
    [(0.5, ["resize_mean"], 14), (0.75, ["resize"], 21), (0.4, ["resize_mean", "resize"], 11), (2.0, ["resize"], 56)],
)
def test_resolution_resizes_first(resolution, layers, side):
    from converters.networks.building import resized

    image = keras.Input((28, 28, 1))
    model = keras.Model(image, resized(image, resolution))
    assert [layer.name for layer in model.layers[1:]] == layers
    assert model.output_shape == (None, side, side, 1)
    whole = np.full((1, 28, 28, 1), 3.0, np.float32)
    np.testing.assert_allclose(np.asarray(model(whole)), 3.0, rtol=1e-6)


def test_a_network_at_half_the_resolution_takes_the_images_as_they_are():
    model = build("mobilenet_v1", (28, 28, 1), 5, 0.25, 0.5)
    assert model.input_shape == (None, 28, 28, 1)
    assert model.get_layer("stem").input.shape == (None, 14, 14, 1)
    assert last_map(model) == (4, 4)


def small_task(shape=(8, 8, 1), rows: int = 48) -> TrainingData:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, *shape)).astype(np.float32), np.arange(rows) % 3
    part = Rows((x,), y)
    return TrainingData(part, part, part, "classification", "0" * 64)


def context_of(folder: Path, base) -> Context:
    return Context(small_task(), training.fit, lambda: base, folder, 1, say=lambda _text: None)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2"])
def test_channels_can_be_followed(name):
    model = build(name, (8, 8, 1), 3, 0.25, seed=0)
    structure = read_structure(read_graph(model))
    free = {layer for group in structure.groups for layer in group.layers}
    convolutions = [layer.name for layer in model.layers if type(layer) is keras.layers.Conv2D]
    # Through squeeze-and-excitation and additions; not through the shuffle, so not from unit to unit.
    assert len(free.intersection(convolutions)) > (0.3 if name == "shufflenet_v2" else 0.9) * len(convolutions)


@pytest.mark.slow
def test_filters_can_be_removed(tmp_path: Path):
    model = build("shufflenet_v2", (8, 8, 1), 3, 0.25, seed=0)
    before = model.count_params()
    step = make_step("prune_structured", {"ratio": 0.3, "epochs": 0})
    result = prune_structured.apply(model, step.values, context_of(tmp_path, model))
    assert result.model.count_params() < 0.85 * before
    x = np.zeros((1, 8, 8, 1), np.float32)
    assert np.asarray(result.model(x, training=False)).shape == (1, 3)


def test_a_network_can_be_made_narrower():
    wide = build("mobilenet_v2", (8, 8, 1), 3, 0.25, seed=0)
    assert at_width(wide, 0.5, 1).count_params() < 0.5 * wide.count_params()


def teacher(activation: str | None = None):
    keras.utils.set_random_seed(2)
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(image))
    return keras.Model(image, keras.layers.Dense(3, activation=activation)(x))


def distilled(base, folder: Path, **given):
    values = make_step("distill", {"epochs": 1, **given}).values
    return distill.apply(base, values, context_of(folder, base))


def test_a_network_of_the_catalogue_is_a_student(tmp_path: Path):
    base = teacher("softmax")
    result = distilled(base, tmp_path, student="squeezenet", width=0.25, resolution=0.5)
    assert result.figures["student"] == "squeezenet"
    assert result.figures["epochs"] == 1
    # It answers with probabilities, as its teacher does.
    answers = np.asarray(result.model(np.zeros((2, 8, 8, 1), np.float32), training=False))
    np.testing.assert_allclose(answers.sum(-1), 1, rtol=1e-5)
    assert result.model.get_layer("stem").input.shape == (None, 4, 4, 1)


def test_students_that_do_not_fit_are_refused(tmp_path: Path):
    signal = keras.Input((8, 2))
    flat = keras.Model(signal, keras.layers.Dense(3)(keras.layers.Flatten()(signal)))
    with pytest.raises(RefusedError, match="takes one image"):
        distilled(flat, tmp_path, student="mnasnet")
    image = keras.Input((8, 8, 1))
    dense = keras.Model(image, keras.layers.Conv2D(3, 1)(image))
    with pytest.raises(RefusedError, match="one row of answers"):
        distilled(dense, tmp_path, student="mnasnet")
    with pytest.raises(RecipeError, match="resolution"):
        distilled(teacher(), tmp_path, width=0.5, resolution=0.5)
