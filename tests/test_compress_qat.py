"""Quantization-aware training: where it rounds, what it leaves alone, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context, digest, integers, kernels, network, task

from converters.compress.context import CLUSTERS, ZEROS, Rows, TrainingData
from converters.compress.graph import read_graph
from converters.compress.loading import load_step_model, save_step_model
from converters.compress.objective import Predictor, score
from converters.errors import RefusedError, ToolError
from converters.steps import make_step

pytestmark = [
    pytest.mark.compression,
    # Keras 3.15 saves variables in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

DEFAULT = make_step("qat", {"epochs": 1}).values


def qat(
    model: Any, folder: Path, data: Any = None, base: Any = None, preserve: frozenset[str] = frozenset(), **more: Any
) -> Any:
    from converters.compress.quantize_aware import apply

    return apply(model, DEFAULT | more, context(folder, data or task(128), base, preserve=preserve))


def rounded(model: Any, **more: Any) -> Any:
    """The network before training, and its plan."""
    from converters.compress.quantize_build import Options, build
    from converters.compress.quantize_plan import make_plan

    graph = read_graph(model)
    plan = make_plan(graph)
    return build(model, graph, plan, Options(**{**OPTIONS, **more})), plan


OPTIONS = {"weight_bits": 8, "granularity": "per_channel", "weight_mode": "largest", "range_mode": "moving"}


def test_ranges_hold_zero_and_are_what_tensorflow_makes_of_them() -> None:
    import tensorflow as tf

    from converters.compress.fake_quant import nudged

    generator = np.random.default_rng(0)
    for low, high in [(-1.0, 3.0), (0.0, 6.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), *generator.normal(0, 3, (50, 2))]:
        least, most = nudged(min(low, high), max(low, high))
        step = (most - least) / 255
        assert least <= 0 <= most
        assert abs(least / step - round(least / step)) < 1e-3
        values = np.linspace(least - 1, most + 1, 1001, dtype=np.float32)
        ours = np.clip(np.round(values / step), round(least / step), round(most / step)) * step
        theirs = tf.quantization.fake_quant_with_min_max_vars(values, least, most).numpy()
        # On the border between two levels float32 may go either way.
        assert np.mean(np.abs(ours - theirs) < step * 1e-2) > 0.99
        assert np.abs(ours - theirs).max() < step * 1.01


def test_rounding_passes_gradients_and_learned_steps_get_their_own() -> None:
    import tensorflow as tf

    from converters.compress.fake_quant import FakeQuantDense, FakeQuantize

    layer = FakeQuantize("learned")
    layer.build((None, 3))
    layer.set_range(-1.0, 1.0)
    x = tf.constant([[-5.0, 0.31, 5.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(layer(x) * [[1.0, 2.0, 3.0]])
    at_x, at_step = tape.gradient(y, [x, layer.log_step.value])
    assert at_x.numpy().tolist() == [[0.0, 2.0, 0.0]]
    assert float(at_step) > 1  # what is cut off at 3 times the weight of the other side asks for a wider step
    dense = FakeQuantDense(2, weight_bits=4, weight_mode="learned")
    dense.build((None, 3))
    dense.begin()
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(dense(x, training=True) ** 2)
    assert all(g is not None for g in tape.gradient(y, [v.value for v in dense.trainable_variables]))


def test_norms_are_folded_and_rounding_changes_little() -> None:
    from converters.compress.quantize_build import calibrate

    model, data = network(), task()
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            generator = np.random.default_rng(1)
            layer.set_weights(
                [generator.uniform(0.5, 2, w.shape) * (1 if i != 0 else -1) for i, w in enumerate(layer.get_weights())]
            )
    made, plan = rounded(model)
    assert plan.left_alone == {}
    assert not any(type(layer).__name__ == "BatchNormalization" for layer in made.model.layers)
    calibrate(made, data.train, 0)
    want, got = (Predictor(each)(data.validation.inputs)[0] for each in (model, made.model))
    assert np.abs(want - got).max() < 0.1 * np.ptp(want)
    assert np.abs(want - got).max() > 0
    for layer in made.model.layers:
        if hasattr(layer, "mode"):
            layer.mode = "off"
    # Without rounding of activations only the 8-bit kernels differ.
    assert np.abs(Predictor(made.model)(data.validation.inputs)[0] - want).max() < 0.03 * np.ptp(want)


def test_ranges_are_shared_where_integers_pass_on() -> None:
    made, plan = rounded(network())
    graph = read_graph(network())
    ranges = {call.name.rstrip("_0123456789"): call for call in graph.calls}
    assert ranges  # the graph has names
    assert len({id(layer) for layer, _ in made.taps}) < len(made.taps) + 1
    # input, conv+bn+relu, depthwise+bn+relu, conv, add+relu, dense+relu, logits, and the concatenation's shared one
    modes = {layer.name: layer.mode for layer in made.model.layers if hasattr(layer, "mode")}
    assert set(modes.values()) == {"moving"}
    assert len(modes) == 7
    assert len(made.layers) == 5
    assert len(plan.skipped) == 5


def test_it_trains_and_ends_as_a_plain_file(tmp_path: Path) -> None:
    from converters.compress.training import fit

    data = task()
    model = network()
    fit(model, context(tmp_path / "float", data), epochs=6, learning_rate=0.01)
    names = list(model.output_names)
    base = score(model, data.validation, data.task)
    result = qat(model, tmp_path / "a", data)
    assert score(result.model, data.validation, data.task) > base - 0.05
    assert result.figures["rounded_layers"] == 5
    assert list(result.model.output_names) == names
    for layer in kernels(result.model):
        found = integers(layer)
        assert np.abs(found).max(0).tolist() == [127] * layer.channels
    save_step_model(result.model, tmp_path / "m.keras")
    again = load_step_model(tmp_path / "m.keras")
    rows = data.validation.inputs
    assert np.array_equal(Predictor(again)(rows)[0], Predictor(result.model)(rows)[0])
    levels = Predictor(again)(rows)[0]
    assert len(np.unique(levels)) <= 256


def test_biases_end_as_whole_numbers_of_steps(tmp_path: Path) -> None:
    """int32 in steps of the input times steps of the kernel: rounded by some engines only, they would compute different networks."""
    model = network()
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.beta.assign(np.linspace(-1, 1, layer.beta.shape[0]))
    result = qat(model, tmp_path, granularity="per_tensor")
    steps = [
        float(layer.high.numpy() - layer.low.numpy()) / 255 for layer in result.model.layers if hasattr(layer, "low")
    ]
    for layer in kernels(result.model):
        counts = [layer.bias.numpy() / (step * layer.kernel_scale.numpy()) for step in steps]
        assert min(np.abs(each - np.round(each)).max() for each in counts) < 1e-2
        assert np.abs(layer.bias.numpy()).max() > 0


@pytest.mark.parametrize(
    ("bits", "ranges", "granularity"), [(4, "learned", "per_channel"), (5, "moving", "per_tensor")]
)
def test_fewer_bits_and_learned_ranges(tmp_path: Path, bits: int, ranges: str, granularity: str) -> None:
    result = qat(network(), tmp_path, weight_bits=bits, ranges=ranges, granularity=granularity, epochs=2)
    for layer in kernels(result.model):
        assert np.abs(integers(layer)).max() <= 2 ** (bits - 1) - 1
        assert layer.kernel_scale.shape == ((layer.channels,) if granularity == "per_channel" else (1,))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (qat(network(), tmp_path / str(i), ranges="learned", weight_bits=4).model for i in range(2))
    assert digest(first) == digest(second)


def test_it_trains_in_mixed_precision_and_ends_in_float32(tmp_path: Path) -> None:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy(before)
    result = qat(model, tmp_path)
    assert {layer.compute_dtype for layer in result.model.layers} == {"float32"}
    assert np.isfinite(Predictor(result.model)(task().validation.inputs)[0]).all()


def test_zeros_stay_zero(tmp_path: Path) -> None:
    model = network()
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
            layer.kernel.assign(kernel)
    zeros = sum(int((layer.kernel.numpy() == 0).sum()) for layer in model.layers if hasattr(layer, "kernel"))
    result = qat(model, tmp_path, preserve=frozenset({ZEROS}))
    assert sum(int((layer.kernel.numpy() == 0).sum()) for layer in kernels(result.model)) >= zeros
    assert result.preserve == {ZEROS}


def test_shared_values_stay_shared_integers_through_folding(tmp_path: Path) -> None:
    model = network()
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            step = np.abs(kernel).max() / 3
            layer.kernel.assign(np.round(kernel / step) * step)
        if type(layer).__name__ == "BatchNormalization":
            layer.gamma.assign(np.linspace(0.5, 2, layer.gamma.shape[0]))
    result = qat(model, tmp_path, preserve=frozenset({ZEROS, CLUSTERS}))
    for layer in kernels(result.model):
        assert len(np.unique(integers(layer))) <= 7
    assert any(len(np.unique(layer.kernel_scale.numpy())) > 1 for layer in kernels(result.model))


def hard(kind: str) -> Any:
    """Models with a part that stays in float."""
    import keras
    from keras import layers

    @keras.saving.register_keras_serializable("tests")
    class Doubling(layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    if kind == "custom":
        x = layers.Conv2D(4, 3, name="second")(Doubling(name="odd")(x))
    elif kind == "shared":
        odd = layers.Conv2D(4, 3, padding="same", name="odd")
        x = odd(odd(x))
    elif kind == "nested":
        inner = keras.Sequential(
            [keras.Input((6, 6, 4)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()]
        )
        x = inner(x)
    elif kind == "recurrent":
        x = layers.LSTM(5, name="odd")(layers.Reshape((6, 24))(x))
        return keras.Model(inputs, layers.Dense(4)(x))
    elif kind == "attention":
        x = layers.Reshape((36, 4))(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="odd")(x, x)])
        x = layers.LayerNormalization(name="norm")(x)
    elif kind == "gelu":
        x = layers.Conv2D(4, 3, activation="gelu", name="odd")(x)
    elif kind == "silu":
        x = layers.Activation("sigmoid")(layers.Conv2D(4, 3, activation="silu")(x))
    elif kind == "grouped":
        x = layers.Conv2D(4, 3, groups=2, name="odd")(x)
    elif kind == "rescaled":
        x = layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(0.5, 0.25)(x))
    elif kind == "norm":
        x = layers.BatchNormalization(name="odd")(layers.Add()([x, x * 0.5]))
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4)(x))


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("custom", {"odd"}),
        ("shared", {"odd"}),
        ("nested", set()),
        ("recurrent", {"odd"}),
        ("attention", {"odd", "norm"}),
        ("gelu", {"odd:gelu"}),
        ("silu", set()),
        ("grouped", {"odd"}),
        ("rescaled", set()),
        ("norm", {"odd"}),
    ],
)
def test_what_it_does_not_know_stays_in_float_and_is_listed(tmp_path: Path, kind: str, left: set[str]) -> None:
    model = hard(kind)
    rows = task().validation.inputs
    before = Predictor(model)(rows)[0]
    result = qat(model, tmp_path, learning_rate=1e-6)
    unnamed = {name for name in result.left_alone if not name.startswith("multiply")}
    assert unnamed == left
    after = Predictor(result.model)(rows)[0]
    # Outliers are cut off: ranges are means of extremes.
    assert np.abs(before - after).mean() < 0.03 * np.ptp(before)
    if kind != "custom":
        save_step_model(result.model, tmp_path / "m.keras")
        assert np.array_equal(Predictor(load_step_model(tmp_path / "m.keras"))(rows)[0], after)


def test_several_inputs_and_outputs_keep_names_and_structure(tmp_path: Path) -> None:
    import keras
    from keras import layers

    def build() -> Any:
        keras.utils.set_random_seed(3)
        image, facts = keras.Input((8, 8, 1), name="image"), keras.Input((5,), name="facts")
        x = layers.Concatenate()(
            [
                layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(image)),
                layers.Dense(6, "tanh")(facts),
            ]
        )
        outputs = {
            "score": layers.Dense(4, name="score")(x),
            "box": layers.Dense(3, activation="sigmoid", name="box")(x),
        }
        return keras.Model({"image": image, "facts": facts}, outputs)

    one, generator = task(128), np.random.default_rng(0)

    def both(rows: Rows) -> Rows:
        # The model's inputs, in Keras's order: facts, image.
        return Rows((generator.normal(0, 1, (rows.count, 5)).astype(np.float32), *rows.inputs), rows.labels)

    data = TrainingData(both(one.train), both(one.validation), both(one.calibration), "classification", "2" * 64)
    model = build()
    names = [tensor.name for tensor in model.inputs]
    if names[0] == "image":
        data = TrainingData(
            *(Rows(r.inputs[::-1], r.labels) for r in (data.train, data.validation, data.calibration)),
            data.task,
            data.sha256,
        )
    before = Predictor(model)(data.validation.inputs)
    # Labels belong to the first output, whichever that is: four classes in either case.
    labelled = 0 if model.outputs[0].shape[-1] == 4 else 1
    if labelled:
        data = TrainingData(
            *(Rows(r.inputs, r.labels % 3) for r in (data.train, data.validation, data.calibration)),
            data.task,
            data.sha256,
        )
    result = qat(model, tmp_path, data, build(), learning_rate=1e-6)
    assert [tensor.name for tensor in result.model.inputs] == names
    assert set(result.model.output) == {"score", "box"}
    assert result.left_alone == {}
    for want, got in zip(before, Predictor(result.model)(data.validation.inputs), strict=True):
        assert np.abs(want - got).mean() < 0.03 * np.ptp(want)


def test_models_without_a_kernel_and_data_without_labels_are_refused(tmp_path: Path) -> None:
    import keras
    from keras import layers

    inputs = keras.Input((8, 8, 1))
    bare = keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(RefusedError, match="no convolution or dense layer"):
        qat(bare, tmp_path)
    from converters.compress.quantize_aware import apply

    with pytest.raises(ToolError, match="labelled training rows"):
        apply(network(), DEFAULT, context(tmp_path / "none", None))
