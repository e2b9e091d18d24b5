"""Statistics of batch norms, measured again on training rows where a step trains nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", exc_type=ImportError)
pytestmark = pytest.mark.compression

import keras  # noqa: E402
from compress_tasks import context, digest, network, task  # noqa: E402
from keras import layers  # noqa: E402

from converters.compress import cluster, factorize, norms, prune, prune_structured  # noqa: E402
from converters.compress.context import Rows, TrainingData  # noqa: E402
from converters.compress.objective import Predictor  # noqa: E402
from converters.steps import parse_chain  # noqa: E402

STEPS = {
    "prune(0.5, epochs=0)": prune,
    "cluster(4, epochs=0)": cluster,
    "factorize(0.8, epochs=0)": factorize,
    "prune_structured(0.3, epochs=0)": prune_structured,
}


def unlabelled(count: int = 256) -> TrainingData:
    rows = task(count).train
    rows = Rows(rows.inputs, None)
    return TrainingData(rows, rows, rows, "classification", "0" * 64)


def norm_of(model: Any, index: int = 0) -> Any:
    return [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"][index]


def test_they_are_those_of_what_the_layers_see(tmp_path: Path) -> None:
    model, data = network(dropout=0.9), unlabelled()
    first, second = norm_of(model), norm_of(model, 1)
    for norm in (first, second):
        norm.moving_mean.assign(norm.moving_mean + 3)
    before = [np.asarray(w.value).copy() for w in model.trainable_variables]
    assert norms.measured_again(model, context(tmp_path, data)) == 2
    view = keras.Model(model.inputs, [first.input, second.input])
    seen, _ = Predictor(view)(data.train.inputs)
    np.testing.assert_allclose(first.moving_mean, seen.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, seen.var((0, 1, 2)), rtol=1e-4)
    # All rows were one batch, so what the second sees in use is what it saw then.
    _, seen = Predictor(view)(data.train.inputs)
    np.testing.assert_allclose(second.moving_mean, seen.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(second.moving_variance, seen.var((0, 1, 2)), rtol=1e-3)
    assert all(np.array_equal(a, np.asarray(b.value)) for a, b in zip(before, model.trainable_variables, strict=True))
    # The layers are what they were, and the same rows give the same bytes.
    assert first.momentum == second.momentum == 0.99
    assert "call" not in first.__dict__
    told = digest(model)
    norms.measured_again(model, context(tmp_path, data))
    assert digest(model) == told


def test_several_batches_and_calls_are_put_together(tmp_path: Path) -> None:
    i = keras.Input((6,))
    norm = layers.BatchNormalization(scale=False, center=False)
    scaled = layers.Rescaling(3.0, 2.0)(i)
    model = keras.Model(i, [norm(i), norm(scaled)])
    x = np.random.default_rng(0).normal(size=(700, 6)).astype(np.float32)
    rows = Rows((x,), None)
    # 512 of 700: two whole batches.
    assert norms.measured_again(model, context(tmp_path, TrainingData(rows, rows, rows, "regression", "0"))) == 1
    used = x[np.random.default_rng([3, 2]).permutation(700)[:512]]
    both = np.concatenate([used, 3 * used + 2])
    np.testing.assert_allclose(norm.moving_mean, both.mean(0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, both.var(0), rtol=1e-4)


def test_what_stays_as_it_is(tmp_path: Path) -> None:
    model = network()
    told = digest(model)
    assert norms.measured_again(model, context(tmp_path, None)) == 0
    assert norms.measured_again(model, context(tmp_path, unlabelled(100))) == 0
    norm_of(model).trainable = norm_of(model, 1).trainable = False
    assert norms.measured_again(model, context(tmp_path, unlabelled())) == 0
    assert digest(model) == told


@pytest.mark.parametrize("text", STEPS, ids=lambda text: text.partition("(")[0])
def test_steps_that_train_nothing_measure_them(text: str, tmp_path: Path) -> None:
    (step,) = parse_chain(text)
    answers = {}
    for data in (None, unlabelled()):
        model = network()
        found = STEPS[text].apply(model, step.values, context(tmp_path / str(data is None), data, base=model))
        assert found.figures["norms_measured"] == (0 if data is None else 2)
        answers[data is None] = Predictor(found.model)(unlabelled().train.inputs)[0]
    assert not np.array_equal(answers[True], answers[False])
