"""Training with rounding under a teacher: the integers stay right, and the network learns what the labels do not say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context, integers, kernels, network, task

from converters.compress.context import CLUSTERS, ZEROS, Rows, TrainingData
from converters.compress.objective import Predictor
from converters.errors import RecipeError, RefusedError
from converters.steps import make_step

pytestmark = [
    pytest.mark.compression,
    # Keras 3.15 saves variables in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def rounded(step: str, model: Any, folder: Path, data: TrainingData, base: Any = None, **given: Any) -> Any:
    """What qat or mixed leaves."""
    from converters.compress import mixed_precision, quantize_aware

    apply = {"qat": quantize_aware.apply, "mixed": mixed_precision.apply}[step]
    preserve = given.pop("preserve", frozenset())
    values = make_step(step, {"epochs": 1} | given).values
    return apply(model, values, context(folder, data, base, preserve=preserve))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TrainingData]:
    """Weights of a network that knows its task, and rows to train by whose labels are all wrong."""
    from converters.compress.training import fit

    data, model = task(256), network(dropout=0.0)
    fit(model, context(tmp_path_factory.mktemp("float"), data), epochs=8, learning_rate=0.01)
    wrong = (data.train.labels + 1) % 4
    return model.get_weights(), dataclasses.replace(data, train=Rows(data.train.inputs, wrong))


def with_weights(weights: Any, *, softmax: bool = False) -> Any:
    model = network(softmax=softmax, dropout=0.0)
    model.set_weights(weights)
    return model


def test_four_bits_learn_from_the_teacher_against_wrong_labels(tmp_path: Path, trained: Any) -> None:
    """Answers are probabilities here: of those rounded to 0 there would be no gradient."""
    weights, data = trained
    base, model = with_weights(weights, softmax=True), network(softmax=True, dropout=0.0, seed=9)
    given = {"weight_bits": 4, "epochs": 8, "learning_rate": 1e-2, "alpha": 1}
    result = rounded("qat", model, tmp_path, data, base, teacher="base", **given)
    found, wanted = (Predictor(each)(data.validation.inputs)[0] for each in (result.model, base))
    assert np.mean(found.argmax(-1) == wanted.argmax(-1)) > 0.8
    for layer in kernels(result.model):
        assert np.abs(integers(layer)).max() <= 7
    # Probabilities are rounded again once the training is over.
    assert {layer.mode for layer in result.model.layers if hasattr(layer, "low")} == {"fixed"}
    assert np.abs(found * 256 - np.round(found * 256)).max() < 1e-3
    assert (result.figures["teacher"], result.figures["features"]) == ("base", [])
    assert result.figures["teacher_validation_score"] > 0.9


def test_mixed_bits_and_inner_features(tmp_path: Path, trained: Any) -> None:
    weights, data = trained
    given = {"candidates": "8/4", "bits": 6.0, "teacher": "base", "method": "attention"}
    result = rounded("mixed", with_weights(weights), tmp_path, data, with_weights(weights), **given)
    assert result.figures["features"] == [[8, 8], [4, 4], [2, 2]]
    assert result.figures["teacher"] == "base"
    assert {layer.weight_bits for layer in kernels(result.model)} == {8, 4}
    for layer in kernels(result.model):
        assert np.abs(integers(layer)).max() < 2 ** (layer.weight_bits - 1)


def test_zeros_and_shared_values_stay_and_biases_are_whole_steps(tmp_path: Path, trained: Any) -> None:
    weights, data = trained
    model = with_weights(weights)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            step = np.abs(kernel).max() / 3
            layer.kernel.assign(np.round(kernel / step) * step)
    zeros = sum(int((layer.kernel.numpy() == 0).sum()) for layer in model.layers if hasattr(layer, "kernel"))
    given = {"teacher": "base", "method": "hints", "preserve": frozenset({ZEROS, CLUSTERS})}
    result = rounded("qat", model, tmp_path, data, with_weights(weights), **given)
    assert result.figures["features"] == [[8, 8], [4, 4], [2, 2], []]
    found = [integers(layer) for layer in kernels(result.model)]
    assert all(len(np.unique(each)) <= 7 for each in found)
    assert sum(int((each == 0).sum()) for each in found) >= zeros > 0
    assert result.preserve == {ZEROS, CLUSTERS}
    steps = [
        float(layer.high.numpy() - layer.low.numpy()) / 255 for layer in result.model.layers if hasattr(layer, "low")
    ]
    for layer in kernels(result.model):
        counts = [layer.bias.numpy() / (step * layer.kernel_scale.numpy()) for step in steps]
        assert min((np.abs(each - np.round(each)) - 1e-6 * np.abs(each)).max() for each in counts) < 1e-2


def test_a_file_teaches_a_rounded_network_or_is_refused_before_any_work(tmp_path: Path, trained: Any) -> None:
    import keras
    from keras import layers

    weights, data = trained
    image = keras.Input((8, 8, 1))
    other, three = (keras.Model(image, layers.Dense(n)(layers.Flatten()(image))) for n in (4, 3))
    for model, name in ((other, "other"), (three, "three")):
        model.save(tmp_path / f"{name}.keras")

    def taught(step: str, name: str) -> Any:
        path = str(tmp_path / f"{name}.keras")
        return rounded(step, with_weights(weights), tmp_path / step / name, data, teacher=path, method="hints")

    figures = taught("qat", "other").figures
    assert figures["teacher"] == "other.keras"
    assert len(figures["teacher_sha256"]) == 64
    assert figures["features"] == [[]]
    for step in ("qat", "mixed"):
        with pytest.raises(RefusedError, match=r"the teacher gives \[\(3,\)\]"):
            taught(step, "three")
        with pytest.raises(RecipeError, match="there is no teacher"):
            taught(step, "none")
