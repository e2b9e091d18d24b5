"""Pruning by magnitude: exact sparsity, patterns, schedules, what each layer is worth, and models that are hard to treat."""

from __future__ import annotations

import csv
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import hard_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters.compress.context import CLUSTERS, ZEROS, Context, History, Rows, TrainingData
from converters.compress.prune import adaptive_scores, apply, magnitude_masks, parse_pattern, pattern_mask
from converters.errors import RecipeError, RefusedError, ToolError
from converters.steps import make_step

RNG = np.random.default_rng(5)
ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=6),
    elements=st.floats(-2, 2, width=32, allow_subnormal=False),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ARRAYS, min_size=1, max_size=4), st.floats(0.01, 0.99), st.sampled_from(["global", "layer"]))
def test_the_smallest_go_and_exactly_so_many(values: list[np.ndarray], sparsity: float, scope: str) -> None:
    masks = magnitude_masks(values, sparsity, scope)
    groups = [(values, masks)] if scope == "global" else [([v], [m]) for v, m in zip(values, masks, strict=True)]
    for some, chosen in groups:
        magnitude = np.concatenate([np.abs(v).ravel() for v in some])
        pruned = np.concatenate([m.ravel() for m in chosen])
        wanted = max(round(sparsity * len(pruned)), 0)
        # One weight of each tensor is kept; where it holds zeros alone, it is one of them.
        most = len(pruned) - len(some)
        assert pruned.sum() >= min(wanted, most)
        if wanted >= (magnitude == 0).sum():
            assert pruned.sum() == min(wanted, most)
        kept_smallest = np.sort(magnitude[~pruned])
        largest = sum(np.abs(v).max() <= magnitude[pruned].max(initial=0) for v in some)
        assert (kept_smallest[largest:] >= magnitude[pruned].max(initial=0)).all()
    assert all(not mask.all() for mask in masks)


def test_scopes_differ_where_layers_do() -> None:
    small, large = np.full((10, 10), 0.01, np.float32), np.ones((10, 10), np.float32)
    together = magnitude_masks([small, large], 0.4, "global")
    assert [m.sum() for m in together] == [80, 0]
    assert [m.sum() for m in magnitude_masks([small, large], 0.4, "layer")] == [40, 40]
    # No layer is ever cut off: the largest weight stays.
    assert [m.sum() for m in magnitude_masks([small, large], 0.6, "global")] == [99, 21]


@settings(max_examples=40, deadline=None)
@given(st.lists(ARRAYS, min_size=1, max_size=4), st.floats(0.01, 0.99))
def test_adaptive_scores_are_shares_of_what_is_no_smaller(values: list[np.ndarray], sparsity: float) -> None:
    for array in values:
        flat = np.abs(array.ravel())
        scores = adaptive_scores(flat)
        # Of equal magnitudes the first has the others behind it.
        for place, value in enumerate(flat):
            behind = [w for i, w in enumerate(flat) if w > value or (w == value and i >= place)]
            total = float(np.sum(np.square(behind, dtype=np.float64)))
            assert scores[place] == pytest.approx(float(value) ** 2 / total if total else 0.0, rel=1e-6)
    masks = magnitude_masks(values, sparsity, "adaptive")
    pruned, count = sum(int(mask.sum()) for mask in masks), sum(mask.size for mask in masks)
    # One weight of each tensor is kept, of zeros alone too.
    zeros = sum(min(int((array == 0).sum()), array.size - 1) for array in values)
    assert pruned == min(max(round(sparsity * count), zeros), count - len(values))
    for array, mask in zip(values, masks, strict=True):
        assert np.abs(array[~mask]).min() >= np.abs(array[mask]).max(initial=0)


def test_adaptive_pruning_does_not_depend_on_the_scale_of_a_layer() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = (rng.normal(size=shape).astype(np.float32) for shape in ((64, 64), (3, 3, 8)))
    masks = magnitude_masks([wide, narrow], 0.8, "adaptive")
    for scale in (2.0**-10, 2.0**10):
        scaled = magnitude_masks([wide, narrow * np.float32(scale)], 0.8, "adaptive")
        assert [m.tolist() for m in scaled] == [m.tolist() for m in masks]
    # The small layer keeps more of its weights than the large one, whatever their magnitudes; a global threshold empties it.
    assert masks[1].mean() < masks[0].mean()
    assert magnitude_masks([wide, narrow * np.float32(2.0**-10)], 0.8, "global")[1].sum() == narrow.size - 1


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(1, 4), (2, 4), (1, 2), (3, 8)]), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2))
def test_patterns_hold_along_any_axis(pattern: tuple[int, int], groups: int, width: int, axis: int) -> None:
    keep, of = pattern
    shape = [3, width, 2]
    shape[axis] = groups * of
    values = np.random.default_rng(width).normal(size=shape).astype(np.float32)
    mask = pattern_mask(values, (axis,), keep, of)
    blocks = np.moveaxis(np.where(mask, 0, np.abs(values)), axis, 0).reshape(groups, of, -1)
    full = np.moveaxis(np.abs(values), axis, 0).reshape(groups, of, -1)
    assert ((blocks > 0).sum(1) == keep).all()
    np.testing.assert_allclose(blocks.sum(1), np.sort(full, axis=1)[:, of - keep :].sum(1), rtol=1e-5)


def test_a_pattern_over_two_axes_takes_the_last_fastest() -> None:
    values = np.arange(1, 17, dtype=np.float32).reshape(2, 4, 2)
    mask = pattern_mask(values, (0, 1), 2, 4)
    assert mask.tolist() == [[[True] * 2] * 2 + [[False] * 2] * 2] * 2


def test_pattern_words() -> None:
    assert parse_pattern("") is None
    assert parse_pattern("2:4") == (2, 4)
    for text in ("4:2", "0:4", "2:2", "1:65", "2", "2:4 ", "a:b", "-1:4"):
        with pytest.raises(RecipeError, match="no N:M pattern"):
            parse_pattern(text)


def jolt(model: Any, context: Context, *, epochs: int, after_batch: Any = None, label: str = "", **_: Any) -> History:
    """Stands for training: moves every weight in each of five steps an epoch, and keeps the contract of `Fit`."""
    from converters.compress.preserve import projection

    keep = projection(model, context.preserve)
    rng = np.random.default_rng([context.seed, len(label)])
    for step in range(1, epochs * 5 + 1):
        for variable in model.trainable_variables:
            variable.assign_add(rng.normal(0, 0.01, tuple(variable.shape)).astype("float32"))
        keep()
        if after_batch is not None:
            after_batch(step, epochs * 5)
    return History((1.0,) * epochs, (0.5,) * epochs, epochs, 0.1)


def context(tmp_path: Path, **changes: Any) -> Context:
    # Rows that fit no model here: nothing may look at them, so none to validate by have labels.
    rows = Rows((np.zeros((4, 3), np.float32),), np.zeros(4, np.int64))
    data = TrainingData(rows, Rows(rows.inputs, None), rows, "classification", "0")
    return replace(Context(data, jolt, lambda: None, tmp_path, seed=1, say=lambda _: None), **changes)


def values(**given: Any) -> dict[str, Any]:
    return make_step("prune", given).values


def dense_model() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(4)
    i = keras.Input((8,))
    return keras.Model(i, layers.Dense(4, name="out")(layers.Dense(16, name="hidden", bias_initializer="ones")(i)))


@pytest.mark.compression
@pytest.mark.parametrize("schedule", ["constant", "polynomial"])
@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_the_sparsity_wanted_is_reached_and_survives_training(schedule: str, epochs: int, tmp_path: Path) -> None:
    model = dense_model()
    result = apply(model, values(sparsity=0.6, schedule=schedule, epochs=epochs), context(tmp_path))
    kernels = [np.asarray(model.get_layer(name).kernel) for name in ("hidden", "out")]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert zeros == round(0.6 * (8 * 16 + 16 * 4)) == result.figures["zeros"]
    assert result.figures["sparsity"] == zeros / 192
    assert result.figures["sparsity_of_all_parameters"] == zeros / model.count_params()
    assert {row["tensor"]: row["zeros"] for row in result.figures["layers"]} == {
        "hidden/kernel": int((kernels[0] == 0).sum()),
        "out/kernel": int((kernels[1] == 0).sum()),
    }
    assert result.preserve == {ZEROS}
    assert result.left_alone == {}
    assert result.figures["epochs"] == epochs
    assert (np.asarray(model.get_layer("hidden").bias) != 0).all()


@pytest.mark.compression
def test_zeros_grow_along_the_schedule_and_go_on_after_a_stop(tmp_path: Path) -> None:
    from converters.compress.kernels import find
    from converters.compress.prune import Ramp

    def run(stop: int | None) -> tuple[list[int], list[np.ndarray]]:
        model = dense_model()
        kernels, _ = find(model)
        rng, counts, ramp = np.random.default_rng(0), [], Ramp(kernels, 0.75, "global")
        for step in range(1, 41):
            for kernel in kernels:
                kernel.variable.assign_add(rng.normal(0, 0.02, tuple(kernel.variable.shape)).astype("float32"))
            ramp(step, 40)
            counts.append(sum(int((kernel.values == 0).sum()) for kernel in kernels))
            if step == stop:
                saved = [kernel.values for kernel in kernels]
                fresh = dense_model()
                kernels, _ = find(fresh)
                ramp = Ramp(kernels, 0.75, "global")
                for kernel, array in zip(kernels, saved, strict=True):
                    kernel.variable.assign(array)
                ramp(step, 40)
        return counts, [kernel.values for kernel in kernels]

    counts, final = run(None)
    assert counts == sorted(counts)
    assert counts[29:] == [144] * 11
    for step in (1, 10, 20):
        assert counts[step - 1] == round(192 * 0.75 * (1 - (1 - step / 30) ** 3))
    for stop in (1, 13, 35):
        again, same = run(stop)
        assert again == counts
        assert all(np.array_equal(a, b) for a, b in zip(final, same, strict=True))


@pytest.mark.compression
def test_patterns_leave_alone_what_does_not_divide(tmp_path: Path) -> None:
    import keras
    from keras import layers

    i = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="first")(i)
    x = layers.DepthwiseConv2D(3, name="depth")(x)
    x = layers.Conv2DTranspose(4, 2, name="up")(layers.Conv2D(12, 1, name="point")(x))
    model = keras.Model(i, layers.Dense(5, name="out")(layers.GlobalAveragePooling2D()(x)))
    result = apply(model, values(pattern="2:4", epochs=1), context(tmp_path))
    assert set(result.left_alone) == {"first/kernel", "depth/kernel"}
    assert {row["tensor"]: row["sparsity"] for row in result.figures["layers"]} == {
        "point/kernel": 0.5,
        "up/kernel": 0.5,
        "out/kernel": 0.5,
    }
    up = np.asarray(model.get_layer("up").kernel)
    assert ((up.reshape(2, 2, 4, 3, 4) != 0).sum(-1) == 2).all()
    point = np.asarray(model.get_layer("point").kernel)[0, 0]
    assert ((point.reshape(2, 4, 12) != 0).sum(1) == 2).all()
    with pytest.raises(RefusedError, match="no multiple of 7"):
        apply(model, values(pattern="1:7", epochs=0), context(tmp_path))


@pytest.mark.compression
def test_hard_models_are_pruned_where_known_and_listed_where_not(tmp_path: Path) -> None:
    model = hard_model("both")
    untouched = [np.asarray(model.get_layer(name).weights[0]).copy() for name in ("own", "table")]
    result = apply(model, values(sparsity=0.5, scope="layer", epochs=0), context(tmp_path))
    assert set(result.left_alone) == {"own", "table"}
    for before, name in zip(untouched, ("own", "table"), strict=True):
        np.testing.assert_array_equal(before, np.asarray(model.get_layer(name).weights[0]))
    rows = {row["tensor"]: row["sparsity"] for row in result.figures["layers"]}
    assert all(0.45 <= value <= 0.55 for value in rows.values())
    # shared, conv, four of the attention, two of each direction, two of the GRU, the last Dense.
    assert len(rows) == 1 + 1 + 4 + 4 + 2 + 1
    for word in ("shared", "conv", "attention", "both", "recurrent_kernel"):
        assert any(word in name for name in rows), word
    assert all(math.isfinite(float(np.sum(y))) for y in model.predict([np.ones((1, 6)), np.ones((1, 6, 4))], verbose=0))


@pytest.mark.compression
def test_what_cannot_be_pruned_says_why(tmp_path: Path) -> None:
    import keras
    from keras import layers

    i = keras.Input((4,))
    with pytest.raises(RefusedError, match="no layer of this model can be pruned"):
        apply(keras.Model(i, layers.ReLU()(i)), values(epochs=0), context(tmp_path))
    zeroed = keras.Model(i, layers.Dense(3, kernel_initializer="zeros", name="empty")(i))
    with pytest.raises(RefusedError, match="empty/kernel: all of its weights are zero"):
        apply(zeroed, values(epochs=0), context(tmp_path))

    def refuses(*_: Any, **__: Any) -> History:
        return context(tmp_path, data=None).needs_data("training") and History((), (), 0, 0)

    with pytest.raises(ToolError, match="labelled training rows"):
        apply(dense_model(), values(epochs=2), context(tmp_path, fit=refuses, data=None))


@pytest.mark.compression
def test_shared_values_stay_shared_when_pruned_afterwards(tmp_path: Path) -> None:
    model = dense_model()
    for name in ("hidden", "out"):
        kernel = model.get_layer(name).kernel
        levels = np.float32([-1, -0.1, 0.1, 1])
        kernel.assign(levels[RNG.integers(0, 4, tuple(kernel.shape))])
    result = apply(model, values(sparsity=0.3, epochs=2), context(tmp_path, preserve=frozenset({CLUSTERS})))
    assert result.preserve == {ZEROS, CLUSTERS}
    assert result.figures["schedule"] == "constant"
    for name in ("hidden", "out"):
        assert len(np.unique(np.asarray(model.get_layer(name).kernel))) <= 5


def judged_model() -> tuple[Any, TrainingData]:
    """Two layers, and rows whose labels are the model's own answers: the whole model is right about all of them."""
    model = dense_model()
    x = np.random.default_rng(2).normal(size=(700, 8)).astype(np.float32)
    rows = Rows((x,), answers(x, *weights_of(model)).astype(np.int64))
    return model, TrainingData(rows, rows, rows, "classification", "0")


def weights_of(model: Any) -> list[np.ndarray]:
    return [np.asarray(variable).copy() for variable in model.weights]


def answers(x: np.ndarray, hidden: np.ndarray, bias: np.ndarray, out: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.asarray(((x @ hidden + bias) @ out + last).argmax(1))


@pytest.mark.compression
def test_what_each_layer_is_worth_is_measured_before_anything_is_pruned(tmp_path: Path) -> None:
    model, data = judged_model()
    before = weights_of(model)
    result = apply(model, values(sparsity=0.9, epochs=0), context(tmp_path, data=data))
    table = result.figures["sensitivity"]
    chosen = np.linspace(0, 699, 512).astype(np.int64)
    x, y = data.validation.inputs[0][chosen], data.validation.labels[chosen]  # type: ignore[index]
    expected = {}
    for place, name in ((0, "hidden/kernel"), (2, "out/kernel")):
        for share in (0.5, 0.8, 0.9):
            changed = [array.copy() for array in before]
            flat = changed[place].reshape(-1)
            flat[np.argsort(np.abs(flat))[: round(share * flat.size)]] = 0
            expected[name, share] = float(np.mean(answers(x, *changed) == y))
    found = {
        (line["tensor"], share): score
        for line in table["layers"]
        for share, score in zip(table["shares"], line["scores"], strict=True)
    }
    assert (table["rows"], table["score"]) == (512, 1.0)
    assert [line["weights"] for line in table["layers"]] == [128, 64]
    assert found == {key: pytest.approx(score, abs=1e-5) for key, score in expected.items()}
    # The more weights of a layer are gone, the more is lost; and layers are not alike.
    assert min(found.values()) < 0.8 < max(found.values())
    assert result.files == ("sensitivity.csv", "sensitivity.svg")
    with (tmp_path / "keep" / "sensitivity.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    told = {(line["tensor"], float(line["share_zero"])): float(line["score"]) for line in lines}
    assert told == {key: pytest.approx(score, abs=1e-9) for key, score in expected.items()}
    root = ET.fromstring((tmp_path / "keep" / "sensitivity.svg").read_text())  # noqa: S314
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == 1 + 6


@pytest.mark.compression
def test_the_table_changes_nothing_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import compress_tasks
    import keras

    from converters.compress import prune
    from converters.compress.sensitivity import Sensitivity

    def pruned(folder: Path) -> tuple[str, Any]:
        keras.utils.clear_session()
        model = compress_tasks.network()
        result = apply(model, values(sparsity=0.7, epochs=1), compress_tasks.context(folder, compress_tasks.task(96)))
        return compress_tasks.digest(model), result.figures["sensitivity"]

    with_table, table = pruned(tmp_path / "with")
    assert len(table["layers"]) == 5
    with monkeypatch.context() as patched:
        patched.setattr(prune, "_sensitivity", lambda *_: Sensitivity(prune.WORDS, skipped="not looked at"))
        without, skipped = pruned(tmp_path / "without")
    assert skipped == {"skipped": "not looked at"}
    assert without == with_table


@pytest.mark.compression
def test_a_table_that_cannot_be_or_costs_too_much_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters.compress import sensitivity

    model, data = judged_model()
    unlabelled = replace(data, validation=Rows(data.validation.inputs, None))
    for rows in (None, unlabelled):
        result = apply(model, values(epochs=0), context(tmp_path, data=rows))
        assert result.figures["sensitivity"] == {"skipped": "there are no labelled validation rows"}
        assert result.files == ()
    # 192 products a row, seven looks.
    monkeypatch.setattr(sensitivity, "MAC_BUDGET", 192 * 7 * 40)
    assert apply(model, values(epochs=0), context(tmp_path, data=data)).figures["sensitivity"]["rows"] == 40
    monkeypatch.setattr(sensitivity, "MAC_BUDGET", 192 * 7 * 31)
    result = apply(model, values(epochs=0), context(tmp_path / "none", data=data))
    assert result.figures["sensitivity"] == {"skipped": "7 looks at 32 rows would take more than 41664 MACs"}
    assert result.files == ()
    assert not (tmp_path / "none").exists()


@pytest.mark.compression
def test_half_precision_weights_are_pruned_too(tmp_path: Path) -> None:
    import keras

    for policy in ("bfloat16", "float16", "mixed_float16"):
        i = keras.Input((8,), dtype="float32")
        model = keras.Model(i, keras.layers.Dense(8, dtype=policy, name="d")(i))
        result = apply(model, values(sparsity=0.5, epochs=0), context(tmp_path))
        assert result.figures["sparsity"] == 0.5
        assert str(model.get_layer("d").kernel.dtype) == ("float32" if policy == "mixed_float16" else policy)
