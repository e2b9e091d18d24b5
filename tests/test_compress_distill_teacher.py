"""Distillation under a teacher of the user's own: it is loaded safely, fits or is refused, teaches, and stands in the lineage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context

from converters.compress import distill
from converters.compress.context import Rows, TrainingData
from converters.errors import BaseModelError, RecipeError, RefusedError
from converters.steps import make_step

pytestmark = [pytest.mark.compression, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
keras = pytest.importorskip("keras")
layers = keras.layers


def run(model: Any, folder: Path, data: TrainingData, base: Any = None, **given: Any) -> Any:
    base = model if base is None else base
    return distill.apply(model, make_step("distill", given).values, context(folder, data, base))


def dense(units: int, end: str | None = None, seed: int = 0) -> Any:
    """Six numbers in, four classes out."""
    keras.utils.set_random_seed(seed)
    values = keras.Input((6,), name="values")
    return keras.Model(values, layers.Dense(4, end)(layers.Dense(units, "tanh")(values)))


def cnn(width: int, shape: tuple[int | None, ...] = (8, 8, 1), **options: Any) -> Any:
    image = keras.Input(shape, name="image", **options)
    x = layers.Conv2D(width, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def images(count: int = 64) -> TrainingData:
    rng = np.random.default_rng(0)
    rows = Rows((rng.standard_normal((count, 8, 8, 1)).astype(np.float32),), rng.integers(0, 4, count))
    return TrainingData(rows, rows, rows, "classification", "0" * 64)


def saved(model: Any, path: Path) -> str:
    model.save(path)
    return str(path)


def test_another_model_teaches_what_the_base_does_not_know(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, test = (rng.standard_normal((n, 6)).astype(np.float32) for n in (256, 1000))
    wise = keras.Sequential(
        [keras.Input((6,)), layers.Dense(12, "relu"), layers.Dropout(0.1), layers.Dense(4), layers.Softmax()]
    )
    for weight in wise.weights:
        weight.assign(rng.standard_normal(weight.shape))
    truth = np.asarray(wise(test)).argmax(-1)
    # The labels say nothing, and the base was never trained.
    nothing = Rows((x,), rng.integers(0, 4, len(x)))
    data = TrainingData(nothing, Rows((test,), truth), nothing, "classification", "0" * 64)
    found = {}
    for teacher, epochs in (("wise.keras", 20), ("base", 5), ("wise.h5", 1)):
        path = tmp_path / teacher
        named = "base" if teacher == "base" else saved(wise, path)
        given = {"alpha": 1.0, "epochs": epochs, "learning_rate": 1e-2}
        result = run(dense(16), tmp_path / "work" / teacher, data, dense(16), teacher=named, **given)
        found[teacher] = float(np.mean(np.asarray(result.model(test)).argmax(-1) == truth))
        figures = result.figures
        assert figures["teacher"] == teacher
        if teacher == "base":
            assert "teacher_sha256" not in figures
        else:
            assert figures["teacher_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert figures["teacher_validation_score"] == 1.0
            assert figures["parameters"] == [6 * 12 + 12 + 12 * 4 + 4, 6 * 16 + 16 + 16 * 4 + 4]
    assert found["wise.keras"] > 0.75
    assert found["base"] < 0.5


def test_a_network_of_the_catalogue_answers_as_the_base_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as the teacher, whose answers are logits and whose pictures may have any size."""
    image, asked = keras.Input((8, 8, 1)), []
    base = keras.Model(image, layers.Dense(4, "softmax")(layers.Flatten()(image)))

    def student_for(like: Any, name: str, width: float, resolution: float, seed: int, activation: str | None) -> Any:
        asked.append((like, name, width, resolution, seed, activation))
        return cnn(2)

    monkeypatch.setattr(distill, "student_for", student_for)
    teacher = saved(cnn(2, (None, None, 1)), tmp_path / "free.keras")
    run(base, tmp_path / "a", images(16), teacher=teacher, student="squeezenet", width=0.25, epochs=1)
    assert asked == [(base, "squeezenet", 0.25, 1.0, 3, "softmax")]


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    data = images()
    tokens = keras.Input((8, 8, 1), dtype="int32")
    ids = layers.Embedding(5, 3)(layers.Flatten()(tokens))
    image, more = keras.Input((8, 8, 1)), keras.Input((2,))
    both = layers.Concatenate()([layers.Flatten()(image), more])
    for name, model, words in (
        ("wide", cnn(2, (9, 8, 1)), r"takes \[\(9, 8, 1\)\], and the rows are \[\(8, 8, 1\)\]"),
        ("two", keras.Model([image, more], layers.Dense(4)(both)), "the teacher takes"),
        (
            "map",
            keras.Model(image, layers.Conv2D(4, 3)(image)),
            r"gives \[\(6, 6, 4\)\], and the base gives \[\(4,\)\]",
        ),
        ("one", cnn(2, batch_size=1), "1 rows at once"),
        ("ids", keras.Model(tokens, layers.Dense(4)(layers.Flatten()(ids))), "takes int32, and the base float32"),
    ):
        with pytest.raises(RefusedError, match=words):
            run(cnn(3), tmp_path / name, data, teacher=saved(model, tmp_path / f"{name}.keras"))


def test_files_that_are_missing_damaged_or_hold_code_are_refused(tmp_path: Path) -> None:
    data = images()
    keras.Model(i := keras.Input((8, 8, 1)), layers.Lambda(lambda x: x)(i)).save(tmp_path / "code.keras")
    (tmp_path / "cut.keras").write_bytes(Path(saved(cnn(2), tmp_path / "whole.keras")).read_bytes()[:500])
    for name, error, words in (
        ("none", RecipeError, "there is no teacher"),
        ("code", BaseModelError, "Lambda"),
        ("cut", BaseModelError, "not a whole .keras archive"),
    ):
        for role in ("teacher", "student"):
            with pytest.raises(error, match=words.replace("teacher", role)):
                run(cnn(2), tmp_path / name, data, **{role: str(tmp_path / f"{name}.keras")})


def test_features_are_compared_across_architectures_or_refused(tmp_path: Path) -> None:
    data = images()
    image = keras.Input((8, 8, 1))
    flat = keras.Model(image, layers.Dense(4)(layers.Dense(9, "relu")(layers.Flatten()(image))))
    nested = keras.Model(image, layers.Dense(4)(layers.GlobalMaxPooling2D()(cnn_body()(image))))
    for name, teacher, hints, attention in (
        ("flat", flat, [[]], None),
        ("nested", nested, [[4, 4], []], [[4, 4]]),  # what is inside of a nested model is not looked at
    ):
        path = saved(teacher, tmp_path / f"{name}.keras")
        for method, wanted in (("hints", hints), ("attention", attention)):
            if wanted is None:
                with pytest.raises(RefusedError, match=r"no feature maps of the same resolution"):
                    run(cnn(3), tmp_path / name, data, teacher=path, method=method)
            else:
                made = run(cnn(3), tmp_path / name / method, data, teacher=path, method=method, epochs=1)
                assert made.figures["features"] == wanted


def cnn_body() -> Any:
    image = keras.Input((8, 8, 1))
    x = layers.AveragePooling2D(2)(layers.Conv2D(5, 3, padding="same")(image))
    return keras.Model(image, layers.SeparableConv2D(5, 3, padding="same")(x))


def test_inputs_and_outputs_are_matched_by_name(tmp_path: Path) -> None:
    """Of one shape, in another order: by place they would be taken for each other."""

    def sums(*, turned: bool) -> Any:
        a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
        twice = layers.Rescaling(2.0, name="twice")(a)
        minus = layers.Rescaling(-1.0, name="minus")(b)
        return keras.Model([b, a], [minus, twice]) if turned else keras.Model([a, b], [twice, minus])

    from converters.compress.teaching import find_teacher

    x = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    rows = Rows((x[0], x[1]), None)
    data = TrainingData(rows, rows, rows, "regression", "0" * 64)
    path = saved(sums(turned=True), tmp_path / "turned.keras")
    base = sums(turned=False)
    found = find_teacher(path, context(tmp_path / "work", data), lambda: base, base)
    one, two = found.model([x[0], x[1]])
    assert np.array_equal(one, 2 * x[0])
    assert np.array_equal(two, -x[1])


def test_the_chain_finds_the_file_and_names_the_teacher(tmp_path: Path) -> None:
    from converters.compress.chain import run_step
    from converters.compress.record import read_record
    from converters.dataset import dataset_from_arrays
    from converters.transfer import write_dataset

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((48, 6)).astype(np.float32), np.arange(48) % 4
    arrays = {"x_test": x[:8], "y_test": y[:8], "x_train": x[8:], "y_train": y[8:]}
    write_dataset(dataset_from_arrays(arrays, calibration_size=8, training=True), tmp_path / "rows", training=True)
    base, teacher = saved(dense(3), tmp_path / "base.keras"), saved(dense(7), tmp_path / "big.keras")
    step = make_step("distill", {"teacher": "big.keras", "epochs": 1})
    job = {"base": base, "step": step.to_dict(), "paths": {"teacher": teacher}, "before": None, "earlier": ()}
    (tmp_path / "1").mkdir()
    run_step({**job, "folder": str(tmp_path / "1"), "seed": 7, "data": str(tmp_path / "rows")}, lambda _text: None)
    record = read_record(tmp_path / "1")
    assert record.text == "distill(teacher=big.keras, epochs=1)"
    assert record.parameters["teacher"] == record.figures["teacher"] == "big.keras"
    assert record.figures["teacher_sha256"] == hashlib.sha256(Path(teacher).read_bytes()).hexdigest()
