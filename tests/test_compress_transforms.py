"""Input transforms: the new first layers against numpy, what of the weights is kept, what is refused, and what later steps leave alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compress_tasks import context, task

from converters.compress import transform_input
from converters.compress.transform_layers import is_transform
from converters.compress.transform_rebuild import shares
from converters.errors import RecipeError, RefusedError
from converters.steps import make_step

pytestmark = [pytest.mark.compression, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
keras = pytest.importorskip("keras")
layers = keras.layers


def done(model, folder: Path, step: str, data=None, **given):
    apply = getattr(transform_input, step)
    return apply(model, make_step(step, {"epochs": 0, **given}).values, context(folder, data, model))


def rows_for(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (3, *shape)).astype(np.float32)


def answers(model, *rows: np.ndarray) -> np.ndarray:
    return np.asarray(model(list(rows) if len(rows) > 1 else rows[0], training=False))


def transformed(model, rows: np.ndarray) -> np.ndarray:
    """What the network sees behind its last transform; steps may share layers, so these are called one by one."""
    last = max(index for index, layer in enumerate(model.layers) if is_transform(layer))
    for layer in model.layers[1 : last + 1]:
        rows = layer(rows, training=False) if type(layer).__name__ == "BatchNormalization" else layer(rows)
    return np.asarray(rows)


def randomly(model):
    rng = np.random.default_rng(4)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def picture(*shape: int):
    """Stem, shortcut past a strided layer, global pooling written with numbers."""
    image = keras.Input(shape, name="image")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(image)
    y = layers.BatchNormalization(name="bn")(layers.Conv2D(8, 3, 2, padding="same", name="down")(x))
    x = layers.Add(name="add")([y, layers.Conv2D(8, 1, 2, name="short")(x)])
    x = layers.AveragePooling2D((shape[0] // 2, shape[1] // 2), name="whole")(x)
    return randomly(keras.Model(image, layers.Dense(5, name="logits")(layers.Flatten()(x))))


def signal(steps: int, channels: int):
    motion = keras.Input((steps, channels), name="motion")
    x = layers.Conv1D(8, 3, padding="same", activation="relu", name="conv")(motion)
    x = layers.LSTM(6, name="lstm")(layers.MaxPooling1D(2, name="pool")(x))
    return randomly(keras.Model(motion, layers.Dense(4, name="logits")(x)))


def windows(x: np.ndarray, by: int) -> np.ndarray:
    """Rows [n, sides…, c] cut into windows: [n, sides / by…, c, by ** axes], the last axis in the order of rows, then columns."""
    if x.ndim == 3:
        n, t, c = x.shape
        return x[:, : t // by * by].reshape(n, t // by, by, c).transpose(0, 1, 3, 2)
    n, h, w, c = x.shape
    cut = x[:, : h // by * by, : w // by * by].reshape(n, h // by, by, w // by, by, c)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // by, w // by, c, by * by)


def interpolated(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Along one axis: the values at the centres of `size` equal parts, on the line between the two nearest."""
    old = x.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, old - 1), axis) * share


@pytest.mark.parametrize(("make", "shape"), [(picture, (16, 12, 3)), (signal, (16, 6))], ids=["2d", "1d"])
@pytest.mark.parametrize(("scale", "by"), [(0.5, 2), (0.33, 3)])
def test_lower_resolution_averages(tmp_path, make, shape, scale, by):
    result = done(make(*shape), tmp_path, "lower_resolution", scale=scale)
    rows = rows_for(*shape)
    np.testing.assert_allclose(transformed(result.model, rows), windows(rows, by).mean(-1), atol=1e-6)
    assert result.figures["map"] == [list(shape), [*(side // by for side in shape[:-1]), shape[-1]]]
    assert result.figures.get("left_out", [0] * (len(shape) - 1)) == [side % by for side in shape[:-1]]
    assert result.figures["macs"][1] < result.figures["macs"][0]
    assert result.figures["transform_macs"] == 0
    assert result.figures["weights_changed"] == {}


def test_lower_resolution_interpolates(tmp_path):
    rows = rows_for(16, 12, 3)
    result = done(picture(16, 12, 3), tmp_path / "image", "lower_resolution", scale=0.75, method="bilinear")
    wanted = interpolated(interpolated(rows, 12, 1), 9, 2)
    np.testing.assert_allclose(transformed(result.model, rows), wanted, atol=1e-5)
    rows = rows_for(20, 6)
    result = done(signal(20, 6), tmp_path / "signal", "lower_resolution", scale=0.6, method="bilinear")
    np.testing.assert_allclose(transformed(result.model, rows), interpolated(rows, 12, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(picture, (8, 12, 3)), (picture, (8, 8, 1)), (signal, (16, 6)), (signal, (16, 1))],
    # Two processes that share the tests must call them alike, so no function's address.
    ids=["colours", "gray", "channels", "one channel"],
)
@pytest.mark.parametrize("bands", ["low", "all"])
def test_haar_splits_into_bands(tmp_path, make, shape, bands):
    model = make(*shape)
    result = done(model, tmp_path, "haar", bands=bands)
    rows = rows_for(*shape)
    cut = windows(rows, 2)
    # Windows hold (top left, top right, bottom left, bottom right), or (first, second).
    signs = [[1, 1], [1, -1]] if len(shape) == 2 else [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    wanted = cut @ (np.array(signs[: 1 if bands == "low" else None]).T / len(signs[0]))
    wanted = wanted.reshape(*wanted.shape[:-2], -1)
    found = transformed(result.model, rows)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert result.figures["transform_macs"] == 2 ** (len(shape) - 1) * found[0].size
    changed = [path.partition("/")[0] for path in result.figures["weights_changed"]]
    assert changed == (["stem" if len(shape) == 3 else "conv"] if bands == "all" else [])
    # New bands begin at nothing: the network answers at first as with the low band alone.
    low = done(model, tmp_path, "lower_resolution", scale=0.5).model
    np.testing.assert_allclose(answers(result.model, rows), answers(low, rows), atol=1e-5)


def test_grayscale_of_a_gray_picture_changes_nothing(tmp_path):
    model = picture(8, 8, 3)
    result = done(model, tmp_path, "grayscale")
    rows = rows_for(8, 8, 3)
    luma = rows @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(transformed(result.model, rows)[..., 0], luma, atol=1e-6)
    gray = np.repeat(luma[..., None], 3, -1)
    np.testing.assert_allclose(answers(result.model, rows), answers(model, gray), atol=1e-4)
    assert list(result.figures["weights_changed"]) == ["stem/kernel"]
    assert result.figures["transform_macs"] == 8 * 8 * 3
    assert not result.model.get_layer("input_transform_gray").trainable
    trained = done(model, tmp_path, "grayscale", weights="trained").model
    assert trained.get_layer("input_transform_gray").trainable
    np.testing.assert_allclose(answers(trained, rows), answers(result.model, rows), atol=1e-6)


def test_a_flattened_map_is_answered_as_if_it_were_enlarged(tmp_path):
    image = keras.Input((8, 6, 2), name="image")
    flat = layers.Dropout(0.1)(layers.Flatten()(layers.ReLU()(image)))
    model = randomly(keras.Model(image, layers.Dense(3, name="fc")(flat)))
    rows = rows_for(8, 6, 2)
    result = done(model, tmp_path, "lower_resolution", scale=0.5)
    enlarged = windows(rows, 2).mean(-1).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(answers(result.model, rows), answers(model, enlarged), atol=1e-5)
    assert list(result.figures["weights_changed"]) == ["fc/kernel"]
    # The low band of each channel stands at its place among the bands.
    result = done(model, tmp_path, "haar", bands="all")
    np.testing.assert_allclose(answers(result.model, rows), answers(model, enlarged), atol=1e-5)
    np.testing.assert_allclose(shares(5, 2), [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]])


def test_strides_windows_and_kept_weights(tmp_path):
    model = picture(16, 16, 1)
    kept, relaxed = (done(model, tmp_path, "haar", stride=word) for word in ("keep", "relax"))
    assert kept.figures["windows"] == {"whole": [4, 4]}
    assert "windows" not in relaxed.figures
    assert relaxed.figures["stride_relaxed"] == ["down", "short"]
    assert relaxed.model.get_layer("add").output.shape == model.get_layer("add").output.shape
    for found in (kept.model, relaxed.model):
        for layer in model.layers:
            for old, new in zip(layer.weights, found.get_layer(layer.name).weights, strict=True):
                assert np.array_equal(np.asarray(old.value), np.asarray(new.value))
    pooled = done(signal(16, 2), tmp_path, "haar", stride="relax")
    assert pooled.figures["stride_relaxed"] == ["pool"]
    assert pooled.model.get_layer("pool").output.shape[1] == 8


def test_transforms_follow_one_another_and_scaling(tmp_path):
    image = keras.Input((16, 16, 3), name="image", dtype="uint8")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    x = layers.Conv2D(4, 3, name="stem")(layers.Normalization(mean=[0.5] * 3, variance=[0.1] * 3, name="norm")(x))
    model = randomly(keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(x))))
    half = done(model, tmp_path, "lower_resolution").model
    gray = done(half, tmp_path, "grayscale").model
    both = done(gray, tmp_path, "haar", bands="all").model
    order = [layer.name for layer in both.layers][:6]
    # Behind the first scaling, which makes real numbers; what changes channels behind what scales them.
    assert order == [
        "image",
        "scale",
        "input_transform_average",
        "norm",
        "input_transform_gray",
        "input_transform_haar",
    ]
    third = done(done(picture(16, 16, 1), tmp_path, "haar").model, tmp_path, "haar").model
    assert [layer.name for layer in third.layers][1:3] == ["input_transform_haar", "input_transform_haar_2"]
    bare = keras.Model(image, layers.Dense(2)(layers.GlobalMaxPooling2D()(image)))
    with pytest.raises(RefusedError, match="whole numbers"):
        done(bare, tmp_path, "lower_resolution")


def test_what_cannot_be_is_refused(tmp_path):
    gray, colour, motion = picture(8, 8, 1), picture(8, 8, 3), signal(16, 6)
    for model, step, given, words in (
        (gray, "grayscale", {}, "one channel already"),
        (motion, "grayscale", {}, "for images"),
        (picture(8, 8, 4), "grayscale", {}, "4 channels"),
        (colour, "lower_resolution", {"scale": 0.7}, "whole windows"),
        (colour, "lower_resolution", {"scale": 0.3, "method": "bilinear"}, "pass over"),
        (colour, "lower_resolution", {"scale": 0.1}, "smaller than one window"),
        (signal(16, 6), "lower_resolution", {"scale": 0.05}, "smaller than one window"),
    ):
        with pytest.raises(RefusedError, match=words):
            done(model, tmp_path, step, **given)
    table = keras.Input((6,), name="row")
    with pytest.raises(RefusedError, match="row"):
        done(keras.Model(table, layers.Dense(2)(table)), tmp_path, "haar")
    image = keras.Input((12, 12, 1), name="image")
    deep = layers.Conv2D(2, 5, name="b")(layers.Conv2D(2, 5, name="a")(image))
    with pytest.raises(RefusedError, match=r"^b \(Conv2D\) cannot work on what is left"):
        done(keras.Model(image, layers.Flatten()(deep)), tmp_path, "haar")
    with pytest.raises(RefusedError, match="stride that could be relaxed"):
        done(keras.Model(image, layers.GlobalMaxPooling2D()(deep)), tmp_path, "haar", stride="relax")
    with pytest.raises(RefusedError, match="output has the size of its input"):
        done(keras.Model(image, layers.Conv2D(2, 3, padding="same")(image)), tmp_path, "haar")
    first = layers.Permute((3, 1, 2))(image)
    first = layers.GlobalAveragePooling2D(data_format="channels_first", name="first")(first)
    with pytest.raises(RefusedError, match="channels come first in first"):
        done(keras.Model(image, first), tmp_path, "haar")


def test_reshapes_that_name_the_map_and_crops_of_channels_follow(tmp_path):
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((8, 8, 2, 2), name="groups")(x))
    x = layers.Reshape((8, 8, 4), name="shuffled")(x)
    x = layers.Cropping2D(((0, 0), (2, 0)), data_format="channels_first", name="half")(x)
    model = randomly(keras.Model(image, layers.GlobalAveragePooling2D()(x)))
    result = done(model, tmp_path, "lower_resolution").model
    assert result.get_layer("half").output.shape[1:] == (4, 4, 2)
    rows = rows_for(8, 8, 1)
    np.testing.assert_allclose(answers(result, rows).shape, answers(model, rows).shape)


def test_of_several_inputs_one_is_named(tmp_path):
    image, motion = keras.Input((8, 8, 1), name="image"), keras.Input((8, 2), name="motion")
    x = layers.Concatenate()([layers.GlobalMaxPooling2D()(image), layers.GlobalMaxPooling1D()(motion)])
    model = randomly(keras.Model({"image": image, "motion": motion}, layers.Dense(2, name="out")(x)))
    with pytest.raises(RefusedError, match="2 inputs"):
        done(model, tmp_path, "haar")
    with pytest.raises(RecipeError, match="no input 'sound'"):
        done(model, tmp_path, "haar", input="sound")
    result = done(model, tmp_path, "haar", input="motion")
    assert sorted(result.model.input) == ["image", "motion"]
    assert result.figures["map"] == [[8, 2], [4, 2]]


@pytest.mark.parametrize(("step", "given"), [("haar", {"bands": "all"}), ("lower_resolution", {})])
def test_training_keeps_the_transform_and_helps(tmp_path, step, given):
    data = task(rows=384)
    image = keras.Input((8, 8, 1), name="image")
    keras.utils.set_random_seed(1)
    x = layers.Flatten()(layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image))
    model = keras.Model(image, layers.Dense(4, name="out")(x))
    result = done(model, tmp_path, step, data, epochs=2, learning_rate=0.01, **given)
    assert result.figures["validation_score"] > result.figures["score_untrained"] + 0.2
    fresh = done(model, tmp_path / "again", step, **given).model
    rows = data.validation.inputs[0][:3]
    np.testing.assert_array_equal(transformed(result.model, rows), transformed(fresh, rows))


def test_later_steps_leave_the_transform_alone(tmp_path):
    from converters.compress import cluster, factorize, prune, prune_structured, quantize_aware
    from converters.compress.width import at_width

    data = task(rows=96)
    image = keras.Input((8, 8, 1), name="image")
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same", name="stem")(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, padding="same", name="conv")(x))
    base = randomly(keras.Model(image, layers.Dense(4, name="out")(x)))
    first = done(base, tmp_path, "haar", bands="all").model
    rows = data.validation.inputs[0][:4]
    wanted = transformed(first, rows)
    steps = {"prune": prune, "cluster": cluster, "factorize": factorize, "prune_structured": prune_structured}
    for name, module in steps.items():
        model = keras.models.clone_model(first)
        model.set_weights(first.get_weights())
        result = module.apply(model, make_step(name, {"epochs": 0}).values, context(tmp_path / name, data, base))
        np.testing.assert_array_equal(transformed(result.model, rows), wanted)
        told = [why for path, why in result.left_alone.items() if "input_transform_haar" in path]
        assert len(told) == 1, (name, result.left_alone)
    np.testing.assert_array_equal(transformed(at_width(first, 0.5, 3), rows), wanted)
    values = make_step("qat", {"epochs": 1}).values
    rounded = quantize_aware.apply(first, values, context(tmp_path / "qat", data, base)).model
    kernel = np.abs(np.asarray(rounded.get_layer("input_transform_haar").kernel.value))
    np.testing.assert_allclose(kernel, 0.25, atol=1e-6)
