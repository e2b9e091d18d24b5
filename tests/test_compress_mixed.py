"""Mixed precision: sensitivities that tell layers apart, budgets that are kept, and bits by layer in every format."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context, network, task

from converters.check import run_artifact
from converters.compress.context import CLUSTERS, Rows
from converters.compress.graph import read_graph
from converters.compress.grids import rounded_values
from converters.compress.loading import load_step_model, save_step_model
from converters.compress.objective import Predictor
from converters.errors import RefusedError
from converters.export.base import Exported, Source, load_source
from converters.export.trained import trained_kernels
from converters.ledger_artifact import artifact_ledger
from converters.recipe import parse_name, with_steps
from converters.steps import make_step, parse_chain
from converters.support import reason

pytestmark = [
    pytest.mark.compression,
    # Keras 3.15 saves variables in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

DEFAULT = make_step("mixed", {"candidates": "8/4/2"}).values


def mixed(model: Any, folder: Path, data: Any = None, preserve: frozenset[str] = frozenset(), **more: Any) -> Any:
    from converters.compress.mixed_precision import apply

    return apply(model, DEFAULT | more, context(folder, data or task(128), preserve=preserve))


def kernels(model: Any) -> dict[str, Any]:
    return {layer.name: layer for layer in model.layers if hasattr(layer, "kernel_scale")}


def levels(layer: Any) -> int:
    flat = layer.kernel.numpy().reshape(-1, layer.channels) / layer.kernel_scale.numpy()
    assert np.abs(flat - np.round(flat)).max() < 1e-2
    return int(np.abs(np.round(flat)).max())


def branches() -> Any:
    """Two dense layers alike, of which one hardly counts for the answer, and one whose weights are −1, 0 and 1."""
    import keras
    from keras import layers

    generator = np.random.default_rng(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(inputs)
    loud, quiet = (layers.Dense(16, "relu", name=name)(x) for name in ("loud", "quiet"))
    joined = layers.Concatenate()([loud, quiet])
    model = keras.Model(inputs, layers.Dense(4, name="exact")(joined))
    for name in ("loud", "quiet"):
        model.get_layer(name).kernel.assign(generator.normal(0, 0.3, (64, 16)))
    signs = generator.integers(-1, 2, (32, 4)).astype(np.float32)
    signs[16:] *= 0.01
    signs[0] = 1
    model.get_layer("exact").kernel.assign(signs)
    return model


def test_sensitivity_orders_layers_by_what_they_do_to_the_answers(tmp_path: Path) -> None:
    from converters.compress.mixed_sensitivity import Probe
    from converters.compress.quantize_build import Options, build, calibrate
    from converters.compress.quantize_plan import make_plan

    model, data = branches(), task(128)
    graph = read_graph(model)
    rounded = build(model, graph, make_plan(graph), Options(8, "per_channel", "largest", "moving"))
    calibrate(rounded, data.train, 0)
    before = [variable.numpy() for variable in rounded.model.variables]
    probe = Probe(rounded, data.validation, "classification", "per_channel", None)
    found = probe.measure((8, 4, 2), ranges=True, folder=tmp_path, say=lambda _text: None)
    assert found.rows == data.validation.count
    for of_layer in (found.layers["loud"], found.layers["quiet"]):
        assert of_layer[8] < of_layer[4] < of_layer[2]
    for bits in (8, 4, 2):
        assert found.layers["quiet"][bits] < 0.05 * found.layers["loud"][bits]
    assert len(found.ranges) == len(rounded.ranges) == 3  # the input, the joined branches, the answer
    assert all(value > 0 for value in found.ranges.values())
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, rounded.model.variables, strict=True))
    modes = {layer.mode for layer in rounded.model.layers if hasattr(layer, "mode")}
    assert modes == {"moving"}
    # What was measured is taken up again, and only for the same weights.
    again = probe.measure((8,), ranges=False, folder=tmp_path, say=lambda _text: None)
    assert again.layers["loud"][8] == found.layers["loud"][8]


def test_three_levels_are_enough_for_weights_that_have_three() -> None:
    generator = np.random.default_rng(1)
    kernel = generator.integers(-1, 2, (3, 3, 4, 6)).astype(np.float32) * np.linspace(0.1, 2, 6, dtype=np.float32)
    assert np.allclose(rounded_values(kernel, 6, 2), kernel, rtol=1e-6)
    wide = generator.normal(0, 1, (3, 3, 4, 6)).astype(np.float32)
    errors = [float(np.abs(rounded_values(wide, 6, bits) - wide).mean()) for bits in (2, 3, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4


def test_the_budget_is_kept_and_pays_where_it_matters_least(tmp_path: Path) -> None:
    # 64×16 weights of each branch and 128 of the last: 5 bits in the mean leave 8 for one branch.
    result = mixed(branches(), tmp_path / "a", bits=5.0)
    bits = result.figures["bits"]
    assert bits["loud"] > bits["quiet"]
    assert result.figures["mean_weight_bits"] <= 5.0
    for name, layer in kernels(result.model).items():
        assert layer.weight_bits == bits[name]
        assert levels(layer) <= 2 ** (bits[name] - 1) - 1
    budget = result.figures["budgets"]["bits"]
    assert budget["used"] == pytest.approx(result.figures["mean_weight_bits"])
    assert budget["used"] <= budget["limit"] == 5.0
    assert set(result.files) == {path.name for path in (tmp_path / "a" / "keep").iterdir()}
    # All weights in float32 are 8,704 bytes of kernels; the rest are biases (36) and scales (36) of 4 bytes.
    small = mixed(branches(), tmp_path / "b", size_bytes=1400).figures
    assert small["budgets"]["size_bytes"]["used"] <= 1400
    assert small["budgets"]["size_bytes"]["used"] > 4 * 72 + 2176 * 2 / 8
    with pytest.raises(RefusedError, match="the least alone is"):
        mixed(branches(), tmp_path / "c", size_bytes=500)
    with pytest.raises(RefusedError, match="no candidates"):
        mixed(branches(), tmp_path / "d", candidates="8:4")
    with pytest.raises(RefusedError, match="only a budget of bit_operations"):
        mixed(branches(), tmp_path / "e", activations="16/8")
    with pytest.raises(RefusedError, match="go together"):
        mixed(branches(), tmp_path / "f", latency_ms=3.0)


def test_training_with_the_bits_chosen_moves_the_answers_back(tmp_path: Path) -> None:
    from converters.compress.training import fit

    data, model = task(256), network()
    fit(model, context(tmp_path / "float", data), epochs=4, learning_rate=0.01)
    result = mixed(model, tmp_path / "a", data, candidates="3/2", bits=2.5, epochs=2)
    assert result.figures["epochs"] == 2
    assert result.figures["validation_score"] >= result.figures["validation_score_before_training"]
    assert {layer.weight_bits for layer in kernels(result.model).values()} <= {2, 3}
    assert result.figures["mean_weight_bits"] <= 2.5


def test_shared_values_stay_few_and_unlabelled_rows_do(tmp_path: Path) -> None:
    from converters.compress.mixed_precision import apply

    model = network()
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            step = np.abs(kernel).max() / 3
            layer.kernel.assign(np.round(kernel / step) * step)
    result = mixed(model, tmp_path / "a", preserve=frozenset({CLUSTERS}), candidates="8/6", bits=7.0)
    for layer in kernels(result.model).values():
        flat = layer.kernel.numpy().reshape(-1, layer.channels) / layer.kernel_scale.numpy()
        assert len(np.unique(np.round(flat))) <= 7
    without = dataclasses.replace(context(tmp_path / "b", None), calibration=Rows(task(128).calibration.inputs, None))
    bare = apply(network(), DEFAULT, without)
    assert bare.figures["validation_score"] is None
    assert bare.figures["mean_weight_bits"] <= 4.5


@dataclasses.dataclass
class Made:
    model: Any
    source: Source
    rows: Any
    answers: Any
    step: float  # of the output


# By kind of layer, in the model's order; 7 instead of 8, since products of 8-bit weights saturate on processors without VNNI.
BITS = (7, 4, 2, 3, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Five layers of five widths, and one range of activations that stays in float."""
    return make(tmp_path_factory.mktemp("mixed"), BITS, wide=False)


def make(folder: Path, wanted: tuple[int, ...], *, wide: bool) -> Made:
    from converters.compress.quantize_build import Options, build, calibrate, finished
    from converters.compress.quantize_plan import make_plan
    from converters.export.prepare import Preparation

    data, base = task(128), network()
    graph = read_graph(base)
    plan = make_plan(graph)
    options = Options(8, "per_channel", "largest", "moving")
    first = build(base, graph, plan, options)
    bits = dict(zip(first.layers, wanted, strict=True))
    unrounded = frozenset({first.reads[first.layers[1]] or 0}) if wide else frozenset()
    rounded = build(base, graph, plan, dataclasses.replace(options, bits_of=bits, unrounded=unrounded))
    calibrate(rounded, data.train, 0)
    save_step_model(finished(rounded.model), folder / "model.keras")
    model = load_step_model(folder / "model.keras")
    request = {"base": str(folder / "model.keras"), "kind": "keras", "name": "m", "sha256": "0" * 64, "seed": 0}
    target = folder / "source"
    target.mkdir()
    preparation = Preparation(request | {"folder": str(target), "dataset": None, "reference": None})
    preparation.make("saved_model")
    preparation.make("model.onnx")
    rows = data.validation.inputs
    last = [layer for layer in model.layers if hasattr(layer, "low")][-1]
    step = float(last.high.numpy() - last.low.numpy()) / 255
    return Made(model, load_source(target), rows[0], Predictor(model)(rows)[0], step)


def export(one: Made, fmt: str, folder: Path) -> Exported:
    from converters.export.onnx import OnnxToolchain
    from converters.export.openvino import OpenvinoToolchain
    from converters.export.tflite import TfliteToolchain

    name = "static_wi8_au8" if fmt == "onnx" else "static_wi8_ai8"
    recipe = parse_name(fmt, name)
    assert recipe is not None
    recipe = with_steps(recipe, parse_chain("mixed"))
    assert reason(recipe, one.source.facts) is None
    toolchain = {"tflite": TfliteToolchain, "onnx": OnnxToolchain, "openvino": OpenvinoToolchain}[fmt]
    return toolchain(one.source, 0).export(recipe, folder)


def agreement(one: Made, fmt: str, exported: Exported, folder: Path, steps: float = 1.01) -> float:
    """Share of outputs within so many steps of the Keras model's."""
    name, output = one.source.inputs[0].name, one.source.outputs[0].name
    found = run_artifact(folder / exported.artifact, fmt, exported.signature, {name: one.rows})[output]
    return float(np.mean(np.abs(found - one.answers) < steps * one.step))


def sizes(one: Made) -> list[int]:
    return [int(np.prod(layer.kernel.shape)) for layer in kernels(one.model).values()]


def entropy_bytes(one: Made, fmt: str, path: Path) -> None:
    """The integers themselves reach the ledger, whatever their containers."""
    ledger = artifact_ledger(path, fmt)
    assert ledger["parameters"] >= sum(sizes(one))
    assert ledger["size_entropy_bytes"] > 0


def test_the_table_has_each_kernels_own_bits(made: Made) -> None:
    trained = trained_kernels(made.source.facts)
    assert trained is not None
    assert sorted(kernel.bits for kernel in trained.kernels) == sorted(BITS)
    assert all(kernel.packed for kernel in trained.kernels)
    assert "weights of 2 to 16 bits" in trained.note(5)
    for kernel in trained.kernels:
        assert kernel.size == kernels(made.model)[kernel.name].kernel.numpy().size


def test_tflite_packs_four_bits_and_says_what_it_cannot(made: Made, tmp_path: Path) -> None:
    exported = export(made, "tflite", tmp_path)
    size = sizes(made)
    assert exported.weight_dtypes["int4"] == size[1] + size[2] + size[3]
    assert exported.weight_dtypes["int8"] == size[0] + size[4]
    assert any("1 of 2 bits in 4, 1 of 3 bits in 4, 1 of 7 bits in 8" in note for note in exported.notes)
    assert any("rounded further than was chosen: 1 of 16 bits in 8" in note for note in exported.notes)
    # The last layer has 8 bits instead of 16.
    assert agreement(made, "tflite", exported, tmp_path, steps=3) >= 0.99
    entropy_bytes(made, "tflite", tmp_path / exported.artifact)


def test_onnx_packs_four_and_two_bits_and_still_computes_in_integers(made: Made, tmp_path: Path) -> None:
    import onnx
    import onnxruntime as ort

    exported = export(made, "onnx", tmp_path)
    size = sizes(made)
    held = exported.weight_dtypes
    assert (held["int4"], held["int2"], held["int16"]) == (size[1] + size[3], size[2], size[4] + 4)  # and zero points
    assert agreement(made, "onnx", exported, tmp_path) >= 0.99
    entropy_bytes(made, "onnx", tmp_path / exported.artifact)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(tmp_path / exported.artifact), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == 3
    assert "Cast" not in ops
    assert "Conv" not in ops


def test_openvino_packs_four_three_and_two_bits_and_still_computes_in_integers(made: Made, tmp_path: Path) -> None:
    import openvino as ov

    exported = export(made, "openvino", tmp_path)
    size = sizes(made)
    held = exported.weight_dtypes
    assert (held["int4"], held["uint2"], held["uint3"], held["int16"]) == (size[1], size[2], size[3], size[4])
    assert agreement(made, "openvino", exported, tmp_path) >= 0.99
    entropy_bytes(made, "openvino", tmp_path / exported.artifact)
    compiled = ov.Core().compile_model(tmp_path / exported.artifact, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [
        node.get_rt_info()["primitiveType"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("Convolution", "FullyConnected")
    ]
    assert len(kinds) == 5
    assert sum("I8" in kind.upper() for kind in kinds) == 4, kinds  # all but the one of 16 bits


@pytest.mark.slow
def test_a_range_of_16_bits_stays_in_float_and_is_refused_where_that_cannot_be(tmp_path: Path) -> None:
    one = make(tmp_path, (8, 8, 8, 8, 7), wide=True)
    recipe = parse_name("tflite", "static_wi8_ai8")
    assert recipe is not None
    assert "16-bit activations" in str(reason(recipe, one.source.facts))
    for fmt in ("onnx", "openvino"):
        (tmp_path / fmt).mkdir()
        exported = export(one, fmt, tmp_path / fmt)
        assert any("1 ranges of activations with 16 bits" in note for note in exported.notes)
        assert agreement(one, fmt, exported, tmp_path / fmt) >= 0.9


def test_chains_of_it_are_refused_with_their_reason() -> None:
    for fmt, chain, name, why in (
        ("tflite", "mixed", "static_wi4_ai8", "static_wi8_ai8"),
        ("tflite", "mixed", "fp32", "8-bit activations"),
        ("onnx", "qat > mixed", "static_wi8_ai8", "cannot follow qat"),
        ("onnx", "mixed > prune", "static_wi8_ai8", "cannot follow mixed"),
    ):
        recipe = parse_name(fmt, name)
        assert recipe is not None
        assert why in str(reason(with_steps(recipe, parse_chain(chain))))
    recipe = parse_name("onnx", "static_wi8_ai8")
    assert recipe is not None
    assert reason(with_steps(recipe, parse_chain("mixed(4.5, candidates=8/4)"))) is None
