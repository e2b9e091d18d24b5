"""Distillation: the loss against numpy, what students and features are found, and that a student learns from its teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.compress import answers, distill, features, training
from converters.compress.context import Context, Rows, TrainingData
from converters.errors import RecipeError, RefusedError, ToolError
from converters.steps import make_step

pytestmark = [pytest.mark.compression, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
keras = pytest.importorskip("keras")
layers = keras.layers


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=-1)))


def data_of(
    inputs: np.ndarray, labels: np.ndarray | None, validation: Rows | None = None, task="classification"
) -> TrainingData:
    rows = Rows((inputs,), labels)
    return TrainingData(rows, validation or rows, rows, task, "0" * 64)


def context_for(teacher, folder: Path, data: TrainingData | None, seed: int = 1) -> Context:
    def base():
        teacher.trainable = False
        return teacher

    return Context(data, training.fit, base, folder, seed, say=lambda _text: None)


def run(model, teacher, folder: Path, data, seed: int = 1, **given):
    folder.mkdir(exist_ok=True)
    return distill.apply(model, make_step("distill", given).values, context_for(teacher, folder, data, seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_loss_is_the_divergence_at_that_temperature(temperature):
    rng = np.random.default_rng(0)
    teacher, student = 3 * rng.standard_normal((2, 6, 5)).astype(np.float32)
    wanted = temperature**2 * kl(softmax(teacher / temperature), softmax(student / temperature))
    for t_kind, t in (("logits", teacher), ("softmax", softmax(teacher))):
        for s_kind, s in (("logits", student), ("softmax", softmax(student))):
            found = float(answers.soft_loss(t, s, t_kind, s_kind, temperature))
            assert found == pytest.approx(wanted, rel=1e-4)
    assert float(answers.soft_loss(teacher, teacher, "logits", "logits", temperature)) == pytest.approx(0, abs=1e-6)


def test_soft_loss_of_yes_and_no_and_of_values():
    rng = np.random.default_rng(0)
    teacher, student = rng.standard_normal((2, 6, 1)).astype(np.float32)
    pairs = [np.concatenate([z, np.zeros_like(z)], axis=-1) / 2 for z in (teacher, student)]
    wanted = 4 * kl(softmax(pairs[0]), softmax(pairs[1]))
    sigmoid = 1 / (1 + np.exp(-teacher))
    for t_kind, t in (("logits", teacher), ("sigmoid", sigmoid)):
        assert float(answers.soft_loss(t, student, t_kind, "logits", 2.0)) == pytest.approx(wanted, rel=1e-4)
    found = float(answers.soft_loss(teacher, student, "values", "values", 2.0))
    assert found == pytest.approx(np.mean((teacher - student) ** 2) / np.var(teacher), rel=1e-4)


def classifier(units: int, activation: str | None = None, name: str = "logits"):
    values = keras.Input((6,), name="values")
    return keras.Model(
        values, layers.Dense(4, activation=activation, name=name)(layers.Dense(units, activation="tanh")(values))
    )


def test_the_whole_loss_by_hand():
    rng = np.random.default_rng(1)
    rows, labels = rng.standard_normal((8, 6)).astype(np.float32), rng.integers(0, 4, 8)
    for end in (None, "softmax"):
        teacher, student = classifier(5), classifier(3, end)
        data = data_of(rows, labels)
        both = answers.answer_loss(teacher, student, data, 3.0, 0.7)
        loss = answers.whole_loss(teacher, both, None, features.attention_loss)
        z, y = np.asarray(teacher(rows)), np.asarray(student(rows))
        s = y if end is None else np.log(y)
        hard = -np.mean(np.log(softmax(s))[np.arange(8), labels])
        wanted = 0.7 * 9 * kl(softmax(z / 3), softmax(s / 3)) + 0.3 * hard
        assert float(loss((rows,), labels, (y,))) == pytest.approx(wanted, rel=1e-4)
        unlabelled = answers.answer_loss(teacher, student, data_of(rows, None), 3.0, 0.7)
        assert float(unlabelled(None, [z], [y])) == pytest.approx(9 * kl(softmax(z / 3), softmax(s / 3)), rel=1e-4)


def test_what_an_output_holds():
    values = keras.Input((6,))
    x = layers.Dense(5)(values)
    ends = [
        layers.Dense(3)(x),
        layers.Softmax()(layers.Dense(3)(x)),
        layers.Activation("sigmoid")(layers.Dense(3)(x)),
        layers.Dense(1, activation="sigmoid")(x),
        layers.Dense(2)(x),
    ]
    model = keras.Model(values, ends)
    data = data_of(np.ones((3, 6), np.float32), np.zeros(3, np.int64))
    assert [answers.kind_of(model, k, data) for k in range(5)] == ["logits", "softmax", "sigmoid", "sigmoid", "values"]
    numbers = data_of(np.ones((3, 6), np.float32), np.zeros(3, np.float32), task="regression")
    assert answers.kind_of(model, 0, numbers) == "values"


def noisy_task(rows: int = 160, wrong: float = 0.5):
    """Labels that are often wrong, a teacher that is right, and clean rows to stop and to judge by."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(11)
    teacher = classifier(12)
    for weight in teacher.weights:
        weight.assign(rng.standard_normal(weight.shape) * (0.6 if len(weight.shape) > 1 else 0.3))
    x, test, stop = (rng.standard_normal((n, 6)).astype(np.float32) for n in (rows, 2000, 200))
    truth = np.asarray(teacher(x)).argmax(-1)
    labels = np.where(rng.random(rows) < wrong, rng.integers(0, 4, rows), truth)
    validation = Rows((stop,), np.asarray(teacher(stop)).argmax(-1))
    return teacher, data_of(x, labels, validation), test, np.asarray(teacher(test)).argmax(-1)


def agreement(model, x: np.ndarray, classes: np.ndarray) -> float:
    return float(np.mean(np.asarray(model(x)).argmax(-1) == classes))


def test_a_student_learns_more_from_its_teacher_than_from_few_bad_labels(tmp_path):
    teacher, data, test, truth = noisy_task()
    found = {}
    for alpha in (0.0, 0.9):
        result = run(
            teacher, teacher, tmp_path / f"a{alpha}", data, width=0.75, alpha=alpha, epochs=20, learning_rate=1e-2
        )
        found[alpha] = agreement(result.model, test, truth)
        assert result.model.count_params() < teacher.count_params()
        assert result.figures["student"] == "width"
    assert found[0.9] > found[0.0] + 0.08
    assert found[0.9] > 0.75


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    teacher, data, *_ = noisy_task(64)
    one, two, other = (
        run(teacher, teacher, tmp_path / str(k), data, seed, width=0.5, epochs=2, method="hints").model
        for k, seed in enumerate((1, 1, 2))
    )
    values = [[np.asarray(weight.value) for weight in model.weights] for model in (one, two, other)]
    assert all(np.array_equal(a, b) for a, b in zip(values[0], values[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(values[0], values[2], strict=True))


def cnn(width: int, end: str | None = None):
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(2 * width, 3, strides=2, padding="same", activation="relu", name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(3, activation=end, name="logits")(x))


def test_features_are_matched_by_resolution():
    found = features.matched(cnn(4), cnn(3), "hints")
    assert found.resolutions == ((8, 8), (4, 4), ())
    assert found.channels == ((3, 4), (6, 8), (6, 8))
    outputs = found.student([np.ones((2, 8, 8, 1), np.float32)])
    assert [tuple(y.shape) for y in outputs] == [(2, 3), (2, 8, 8, 3), (2, 4, 4, 6), (2, 6)]
    assert features.matched(cnn(4), cnn(3), "attention").resolutions == ((8, 8), (4, 4))
    with pytest.raises(RefusedError, match="no feature maps"):
        features.matched(classifier(4), classifier(3), "attention")


def test_hints_and_attention_are_nil_for_the_teacher_itself():
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((2, 4, 4, 5)).astype(np.float32)]
    assert float(features.hint_loss(maps, maps, [np.eye(5, dtype=np.float32)])) == pytest.approx(0, abs=1e-6)
    assert float(features.hint_loss(maps, maps, [np.zeros((5, 5), np.float32)])) == pytest.approx(1, rel=1e-4)
    assert float(features.attention_loss(maps, maps)) == 0
    other = rng.standard_normal((2, 4, 4, 9)).astype(np.float32)
    rows = []
    for x in (maps[0], other):
        energy = np.mean(x**2, axis=-1).reshape(2, -1)
        rows.append(energy / np.linalg.norm(energy, axis=-1, keepdims=True))
    wanted = features.ATTENTION_WEIGHT * np.mean(np.sum((rows[0] - rows[1]) ** 2, axis=-1))
    assert float(features.attention_loss(maps, [other])) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("method", ["soft", "hints", "attention"])
def test_inner_features_are_learnt_and_leave_no_trace(tmp_path, method):
    keras.utils.set_random_seed(4)
    teacher, student = cnn(6), cnn(4)
    x = np.random.default_rng(2).standard_normal((128, 8, 8, 1)).astype(np.float32)
    pair = features.matched(teacher, student, "attention")

    def distance() -> float:
        taught, learnt = (model([x])[1:] for model in (pair.teacher, pair.student))
        return float(features.attention_loss(taught, learnt))

    count, first = student.count_params(), distance()
    result = run(student, teacher, tmp_path / method, data_of(x, None), method=method, epochs=12, learning_rate=1e-2)
    assert result.model is student
    assert student.count_params() == count
    assert (
        result.figures["features"] == {"soft": [], "hints": [[8, 8], [4, 4], []], "attention": [[8, 8], [4, 4]]}[method]
    )
    # The answers alone do not bring the student to look where its teacher looks.
    assert (distance() < 0.6 * first) == (method != "soft")


def test_several_outputs_regression_and_half_precision(tmp_path):
    def two(units: int, policy: str):
        values = keras.Input((6,), name="values")
        x = layers.Dense(units, activation="tanh", dtype=policy)(values)
        return keras.Model(values, {"class": layers.Dense(3, name="class")(x), "box": layers.Dense(2, name="box")(x)})

    rng = np.random.default_rng(0)
    x = rng.standard_normal((160, 6)).astype(np.float32)
    keras.utils.set_random_seed(1)
    for task in ("classification", "regression"):
        teacher, student = two(8, "float32"), two(6, "mixed_float16")
        first = np.asarray(teacher(x)["box"])  # the outputs of a dictionary come sorted by key
        labels = first.argmax(-1) if task == "classification" else first
        before = np.mean((np.asarray(student(x)["class"], np.float32) - np.asarray(teacher(x)["class"])) ** 2)
        run(student, teacher, tmp_path / task, data_of(x, labels, task=task), epochs=20, learning_rate=1e-2)
        after = np.mean((np.asarray(student(x)["class"], np.float32) - np.asarray(teacher(x)["class"])) ** 2)
        assert after < 0.3 * before


def test_a_student_of_ones_own(tmp_path):
    teacher, data, *_ = noisy_task(64)
    classifier(3, "softmax").save(tmp_path / "mine.keras")
    result = run(teacher, teacher, tmp_path / "s", data, student=str(tmp_path / "mine.keras"), epochs=1)
    assert result.figures["student"] == "file"
    assert result.model.count_params() == 7 * 3 + 4 * 4
    with pytest.raises(RecipeError, match="no student"):
        run(teacher, teacher, tmp_path / "t", data, student=str(tmp_path / "none.keras"))
    with pytest.raises(RecipeError, match="exclude"):
        run(teacher, teacher, tmp_path / "u", data, student=str(tmp_path / "mine.keras"), width=0.5)
    cnn(2).save(tmp_path / "other.keras")
    with pytest.raises(RefusedError, match="the student takes"):
        run(teacher, teacher, tmp_path / "v", data, student=str(tmp_path / "other.keras"))


def test_without_rows_it_says_what_is_missing(tmp_path):
    with pytest.raises(ToolError, match="labelled training rows"):
        run(classifier(3), classifier(3), tmp_path, None)
