"""Every compression step on every kind of model that is hard to treat: it works, or leaves layers alone and names them.

One model per kind of hardness, one test per step and kind. Whatever a step does, the model keeps its inputs and outputs, stays
finite, and is the same after it was saved and loaded; layers that a step names as left alone have the weights they had.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", exc_type=ImportError)
pytestmark = [
    pytest.mark.compression,
    # Keras's own saving does what numpy 2 frowns upon.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

import keras  # noqa: E402
from compress_tasks import context  # noqa: E402
from keras import layers  # noqa: E402

from converters.compress import cluster, distill, entropy, factorize, fine_tune, prune, prune_structured  # noqa: E402
from converters.compress import quantize_aware as qat  # noqa: E402
from converters.compress.context import Rows, StepResult, TrainingData  # noqa: E402
from converters.compress.loading import load_step_model, save_step_model  # noqa: E402
from converters.compress.objective import Predictor  # noqa: E402
from converters.steps import parse_chain  # noqa: E402

ROWS, VOCABULARY, CLASSES = 16, 20, 4
KINDS: dict[str, Callable[[], Any]] = {}


def kind(build: Callable[[], Any]) -> Callable[[], Any]:
    KINDS[build.__name__] = build
    return build


@keras.saving.register_keras_serializable("hard_inputs")
class Own(layers.Layer):
    """A layer of the user's own, with a kernel like any other."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], shape[-1]), name="kernel")

    def call(self, x: Any) -> Any:
        return x @ self.kernel


@kind
def custom() -> Any:
    i = keras.Input((8,), name="row")
    x = Own(name="own")(layers.Dense(12, activation="relu", name="before")(i))
    return keras.Model(i, layers.Dense(CLASSES, name="out")(layers.Dense(16, activation="relu", name="after")(x)))


@kind
def shared() -> Any:
    i = keras.Input((8, 8, 1), name="image")
    twin = layers.Conv2D(8, 3, padding="same", name="twin")
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, padding="same", name="first")(i)))
    x = twin(layers.ReLU()(twin(x)))
    return keras.Model(i, layers.Dense(CLASSES, name="out")(layers.GlobalAveragePooling2D()(x)))


@kind
def nested() -> Any:
    """A Sequential in a functional model that is called twice in the model."""
    deep = keras.Sequential(
        [layers.Input((8, 8, 8)), layers.Conv2D(8, 3, padding="same", name="deep_conv"), layers.BatchNormalization()],
        name="deep",
    )
    j = keras.Input((8, 8, 8))
    inner = keras.Model(j, layers.ReLU()(deep(layers.Conv2D(8, 1, name="inner_conv")(j))), name="inner")
    i = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="first")(i)
    x = layers.GlobalAveragePooling2D()(inner(inner(x)))
    tail = keras.Sequential([layers.Input((8,)), layers.Dense(12, activation="relu", name="wide")], name="tail")
    return keras.Model(i, layers.Dense(CLASSES, name="out")(tail(x)))


@kind
def two() -> Any:
    """Two inputs, of words and of numbers, and two outputs, all by name."""
    tokens, signal = keras.Input((6,), dtype="int32", name="tokens"), keras.Input((6, 4), name="signal")
    x = layers.Concatenate()([layers.Embedding(VOCABULARY, 6, name="table")(tokens), layers.Conv1D(6, 1)(signal)])
    x = layers.Dense(16, activation="relu", name="middle")(layers.GlobalAveragePooling1D()(x))
    outputs = {"grade": layers.Dense(CLASSES, name="grade")(x), "value": layers.Dense(2, name="value")(x)}
    return keras.Model({"tokens": tokens, "signal": signal}, outputs)


@kind
def recurrent() -> Any:
    i = keras.Input((6, 4), name="signal")
    x = layers.TimeDistributed(layers.Dense(8, activation="relu", name="each"), name="step")(i)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.Bidirectional(layers.GRU(4, name="gru"), name="both")(x)
    return keras.Model(i, layers.Dense(CLASSES, name="out")(layers.Dense(16, activation="relu", name="after")(x)))


@kind
def attention() -> Any:
    i = keras.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(VOCABULARY, 8, name="table")(i)
    x = layers.LayerNormalization(name="norm")(
        layers.Add()([x, layers.MultiHeadAttention(2, 4, name="attention")(x, x)])
    )
    x = layers.Dense(8, name="down")(layers.Dense(16, activation="gelu", name="up")(x))
    return keras.Model(i, layers.Dense(CLASSES, name="out")(layers.GlobalAveragePooling1D()(x)))


@kind
def convolutions() -> Any:
    i = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(8, 3, groups=2, padding="same", name="grouped")(i)
    x = layers.ReLU()(layers.Conv2D(8, 3, dilation_rate=2, padding="same", name="dilated")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU()(layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="up")(x))
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same", name="separable")(x)
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="norm")(x))
    return keras.Model(i, layers.Dense(CLASSES, name="out")(x))


def _half(policy: str, head: str | None) -> Any:
    i = keras.Input((8, 8, 1), name="image", dtype="float32")
    x = layers.Conv2D(8, 3, padding="same", dtype=policy, name="first")(i)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy, name="norm")(x))
    x = layers.GlobalAveragePooling2D(dtype=policy)(layers.Conv2D(8, 3, dtype=policy, name="second")(x))
    x = layers.Dense(16, activation="relu", dtype=policy, name="middle")(x)
    return keras.Model(i, layers.Dense(CLASSES, dtype=head or policy, name="out")(x))


@kind
def mixed_float16() -> Any:
    return _half("mixed_float16", "float32")


@kind
def mixed_bfloat16() -> Any:
    """With an output of half precision too."""
    return _half("mixed_bfloat16", None)


def build(name: str) -> Any:
    """The model with weights and statistics of which nothing is zero or alike by chance."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = KINDS[name]()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for weight in model.weights:
        if weight.name in {"moving_variance", "gamma"}:
            weight.assign(rng.uniform(0.5, 1.5, tuple(weight.shape)))
        elif weight.name in {"bias", "beta", "moving_mean"}:
            weight.assign(rng.normal(0, 0.1, tuple(weight.shape)))
    return model


def rows(model: Any, count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    inputs = tuple(
        rng.integers(0, VOCABULARY, (count, *tensor.shape[1:])).astype(np.int32)
        if "int" in tensor.dtype
        else rng.normal(size=(count, *tensor.shape[1:])).astype(np.float32)
        for tensor in model.inputs
    )
    return Rows(inputs, rng.integers(0, min(tensor.shape[-1] for tensor in model.outputs), count))


def data(model: Any) -> TrainingData:
    return TrainingData(*(rows(model, ROWS, seed) for seed in (1, 2, 3)), "classification", "0" * 64)


APPLY: dict[str, Any] = {
    "prune(0.5, scope=layer, epochs=0)": prune.apply,
    "cluster(4, epochs=0)": cluster.apply,
    "factorize(0.6, epochs=0)": factorize.apply,
    "prune_structured(0.3, epochs=0)": prune_structured.apply,
    "entropy": entropy.apply,
    "fine_tune(1)": fine_tune.apply,
    "distill(epochs=1)": distill.apply,
    "qat(epochs=1)": qat.apply,
}
# What each step does not know of each model: names of layers, as they begin in `left_alone`.
BY_VALUE = {"custom": {"own"}, "two": set(), "recurrent": set(), "attention": set(), "convolutions": set()}
LEFT: dict[str, dict[str, set[str]]] = {
    "prune": BY_VALUE,
    "cluster": BY_VALUE,
    "factorize": {
        "custom": {"own"},
        "two": {"table"},
        "recurrent": {"step", "lstm", "both"},
        "attention": {"table", "attention"},
        "convolutions": {"grouped", "depthwise", "up", "separable"},
    },
    "prune_structured": {
        "custom": {"own"},
        "recurrent": {"step", "lstm", "both"},
        "attention": {"attention"},
        "convolutions": {"grouped"},
    },
    "qat": {
        "custom": {"own"},
        "shared": {"twin"},
        "nested": {"inner_conv", "deep_conv", "batch_normalization"},
        "two": {"table"},
        "recurrent": {"step", "lstm", "both"},
        "attention": {"table", "attention", "norm", "up"},
        "convolutions": {"grouped", "up", "separable", "norm"},
    },
}


def values(model: Any) -> dict[str, np.ndarray]:
    """Copies of all weights of a model by path."""
    return {variable.path: np.array(np.asarray(variable.value)) for variable in model.variables}


def kernels(model: Any) -> set[str]:
    """Paths of the weights that are multiplied or looked up. Attention and GRU have biases of two axes."""
    found = (variable for variable in model.trainable_variables if len(variable.shape) > 1)
    return {variable.path for variable in found if "bias" not in variable.name}


def parts(path: str) -> set[str]:
    """The names that a path of layers is made of; what follows a colon is a part of the layer."""
    return set(path.partition(":")[0].split("/"))


def facade(model: Any) -> list[Any]:
    """What a model takes and gives, with names."""
    # Which of the real numbers they are is the step's to say: trained with rounding, a model is in float32.
    sides = [
        [(tuple(t.shape), "float" if "float" in t.dtype else t.dtype) for t in side]
        for side in (model.inputs, model.outputs)
    ]
    return [*sides, [t.name for t in model.inputs], list(model.output_names), type(model.output)]


def done(step: str, name: str, folder: Path) -> tuple[Any, StepResult, TrainingData]:
    """The model as it was, and what the step made of another one like it."""
    before, model = build(name), build(name)
    own = data(model)
    result = APPLY[step](model, parse_chain(step)[0].values, context(folder, own, base=before))
    return before, result, own


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("step", list(APPLY), ids=lambda step: step.partition("(")[0])
def test_a_hard_model_is_treated_or_left_alone_by_name(step: str, name: str, tmp_path: Path) -> None:
    word = step.partition("(")[0]
    before, result, own = done(step, name, tmp_path / "work")
    given = own.validation.inputs
    now = Predictor(result.model)(given)
    assert facade(result.model) == facade(before)
    assert all(np.isfinite(y).all() for y in now)
    named = {part for entry in result.left_alone for part in parts(entry)}
    assert LEFT.get(word, {}).get(name, set()) <= named, result.left_alone
    assert all(result.left_alone.values()), "each with a reason"
    CHECKS[word](before, result, named)
    save_step_model(result.model, tmp_path / "m.keras")
    again = load_step_model(tmp_path / "m.keras")
    assert facade(again) == facade(before)
    for a, b in zip(now, Predictor(again)(given), strict=True):
        np.testing.assert_array_equal(a, b)


def by_value(before: Any, result: StepResult, named: set[str]) -> None:
    """Each kernel is in the figures and nothing else has changed, or its layer is named."""
    old, new = values(before), values(result.model)
    treated = {row["tensor"] for row in result.figures["layers"]}
    assert {path for path in old if not np.array_equal(old[path], new[path])} == treated
    assert all(path in treated or parts(path) & named for path in kernels(before))


def split(before: Any, result: StepResult, named: set[str]) -> None:
    """Each kernel is in the figures or its layer is named; what was not split is as it was."""
    old, new = values(before), values(result.model)
    treated = set(result.figures["layers"])
    assert treated
    for path in old:
        whole = path.rpartition("/")[0] not in treated
        assert not whole or np.array_equal(old[path], new[path]), path
        assert not whole or path not in kernels(before) or parts(path) & named, path


def removed(before: Any, result: StepResult, named: set[str]) -> None:
    """Something is gone, but not of layers that are named."""
    assert result.figures["reached"] > 0.05
    old = values(before)
    assert result.model.count_params() < before.count_params()
    assert not set(result.figures["filters"]) & named
    assert set(result.figures["filters"]) <= {part for path in old for part in parts(path)}


def rounded(before: Any, result: StepResult, named: set[str]) -> None:
    """Each kernel is rounded or its layer is named."""
    treated = {layer.name.removesuffix("_raw") for layer in result.model.layers if hasattr(layer, "kernel_scale")}
    assert len(treated) == result.figures["rounded_layers"] > 0
    assert all(parts(path) & (treated | named) for path in kernels(before))


def trained(before: Any, result: StepResult, named: set[str]) -> None:
    """Every kernel has learnt something, and nothing is named."""
    old, new = values(before), values(result.model)
    assert named == set()
    assert old.keys() == new.keys()
    assert all(not np.array_equal(old[path], new[path]) for path in kernels(before))


def the_same(before: Any, result: StepResult, named: set[str]) -> None:
    old, new = values(before), values(result.model)
    assert named == set()
    assert all(np.array_equal(old[path], new[path]) for path in old)


CHECKS = {
    "prune": by_value,
    "cluster": by_value,
    "factorize": split,
    "prune_structured": removed,
    "entropy": the_same,
    "fine_tune": trained,
    "distill": trained,
    "qat": rounded,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recurrent", "convolutions"])
def test_what_a_chain_made_of_a_hard_model_is_exported(name: str, tmp_path: Path) -> None:
    """Pruned by structure, split and pruned by value one after the other: both files answer as the model does."""
    from converters.check import run_artifact
    from converters.export.base import load_source
    from converters.export.onnx import OnnxToolchain
    from converters.export.prepare import Preparation
    from converters.export.tflite import TfliteToolchain
    from converters.recipe import parse_name

    model = build(name)
    own = data(model)
    for step in ("factorize(0.6, epochs=0)", "prune_structured(0.3, epochs=0)", "prune(0.5, scope=layer, epochs=0)"):
        folder = tmp_path / step
        model = APPLY[step](model, parse_chain(step)[0].values, context(folder, own, base=build(name))).model
        save_step_model(model, folder / "m.keras")
        model = load_step_model(folder / "m.keras")
    (tmp_path / "source").mkdir()
    request = {"base": str(folder / "m.keras"), "kind": "keras", "name": "m", "sha256": "0" * 64, "seed": 0}
    preparation = Preparation(request | {"folder": str(tmp_path / "source"), "dataset": None, "reference": None})
    preparation.make("saved_model")
    preparation.make("model.onnx")
    source = load_source(tmp_path / "source")
    (wanted,) = Predictor(model)(own.validation.inputs)
    for fmt, toolchain in (("tflite", TfliteToolchain), ("onnx", OnnxToolchain)):
        recipe = parse_name(fmt, "fp32")
        assert recipe is not None
        exported = toolchain(source, 0).export(recipe, tmp_path)
        feed = {source.inputs[0].name: own.validation.inputs[0]}
        found = run_artifact(tmp_path / exported.artifact, fmt, exported.signature, feed)[source.outputs[0].name]
        np.testing.assert_allclose(found, wanted, atol=1e-5 + 1e-4 * np.abs(wanted).max())


@pytest.mark.slow
def test_two_inputs_and_two_outputs_through_the_whole_pipeline(tmp_path: Path) -> None:
    from converters.dataset import dataset_from_arrays
    from converters.pipeline import ConversionRequest, convert
    from converters.recipe_words import parse_recipes
    from converters.variant import load_variant

    model = build("two")
    model.save(tmp_path / "two.keras")
    arrays: dict[str, np.ndarray] = {}
    for part, count, seed in (("train", 160, 1), ("test", 20, 2)):
        found = rows(model, count, seed)
        arrays |= {f"x_{part}:{t.name}": x for t, x in zip(model.inputs, found.inputs, strict=True)}
        arrays[f"y_{part}"] = found.labels % CLASSES
    dataset = dataset_from_arrays(arrays, calibration_size=32, training=True)
    words = (
        "prune_structured(0.3, epochs=0) > distill(epochs=1) > fp32, "
        "prune(0.5, epochs=1) > qat(epochs=1) > static_wi8_ai8"
    )
    report = convert(
        ConversionRequest(tmp_path / "two.keras", parse_recipes(words), tmp_path / "out", dataset=dataset, seed=5)
    )
    assert [row.status for row in report.rows] == ["ok"] * 6, [row.message for row in report.rows]
    for row in report.rows:
        manifest = load_variant(row.folder).manifest
        assert {spec.source for spec in manifest.signature.inputs} == {"tokens", "signal"}
        assert set(manifest.agreement.per_output) == {"grade", "value"}
        whole = len(manifest.lineage) == 2 and manifest.lineage[0]["step"] == "prune_structured"
        assert manifest.agreement.relative_error <= (1e-4 if whole else 0.2)
        assert whole or set(manifest.lineage[1]["left_alone"]) == {"table"}
        ledger = manifest.ledger
        assert ledger["parameters"] > 0
        # TensorFlow Lite says what it plans for activations; the others have no such plan, and say that.
        told = (ledger["arena_bytes"] is not None, ledger["arena_missing"] is None)
        assert told == ((True, True) if manifest.format == "tflite" else (False, False)), ledger
