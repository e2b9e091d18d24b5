"""One quantization-aware training in three formats: integers with the trained scales, and the answers of the trained model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compress_tasks import context, network, task

from converters.check import run_artifact
from converters.compress.loading import load_step_model, save_step_model
from converters.compress.objective import Predictor
from converters.errors import ToolError
from converters.export.base import Exported, Source, load_source
from converters.export.trained import key_of, trained_kernels
from converters.recipe import Recipe, make_recipe, parse_name, with_steps
from converters.steps import make_step, parse_chain
from converters.support import FACT_TRAINED_RANGES, reason

pytestmark = [
    pytest.mark.compression,
    pytest.mark.slow,
    # Keras 3.15 saves variables in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

# A share of outputs that may be another step away: sums in another order, rounded on the border between two levels.
WITHIN_ONE_STEP = 0.99


@dataclasses.dataclass
class Made:
    model: Any
    source: Source
    rows: Any
    answers: Any
    step: float  # of the output


def made(folder: Path, **parameters: Any) -> Made:
    """A small network, trained with rounding, and the source that all toolchains read."""
    from converters.compress.training import fit

    data, base = task(512), network()
    fit(base, context(folder / "float", data), epochs=8, learning_rate=0.01)
    return made_of(base, data, folder, **parameters)


def float_base(base: Any) -> Any:
    """A teacher: the base as it is before its layers go into a network with rounding."""
    import keras

    twin = keras.models.clone_model(base)
    twin.set_weights(base.get_weights())
    twin.trainable = False
    return twin


def made_of(base: Any, data: Any, folder: Path, **parameters: Any) -> Made:
    from converters.compress.quantize_aware import apply
    from converters.export.prepare import Preparation

    values = make_step("qat", {"epochs": 1} | parameters).values
    result = apply(base, values, context(folder / "qat", data, float_base(base)))
    save_step_model(result.model, folder / "model.keras")
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


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("eight"))


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """For processors without VNNI, where products of 8-bit weights saturate in ONNX Runtime and OpenVINO."""
    return made(tmp_path_factory.mktemp("seven"), weight_bits=7)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("four"), weight_bits=4, ranges="learned")


def export(one: Made, fmt: str, name: str, folder: Path) -> Exported:
    from converters.export.onnx import OnnxToolchain
    from converters.export.openvino import OpenvinoToolchain
    from converters.export.tflite import TfliteToolchain

    recipe = after_qat(fmt, name, one.source.facts[FACT_TRAINED_RANGES]["weight_bits"])
    assert reason(recipe, one.source.facts) is None
    toolchain = {"tflite": TfliteToolchain, "onnx": OnnxToolchain, "openvino": OpenvinoToolchain}[fmt]
    return toolchain(one.source, 0).export(recipe, folder)


def after_qat(fmt: str, name: str, bits: int) -> Recipe:
    """The precision after quantization-aware training."""
    recipe = parse_name(fmt, name)
    assert recipe is not None
    return with_steps(recipe, parse_chain(f"qat({bits})"))


def agrees(one: Made, fmt: str, exported: Exported, folder: Path) -> float:
    """Share of outputs within one step of the trained model's."""
    name, output = one.source.inputs[0].name, one.source.outputs[0].name
    found = run_artifact(folder / exported.artifact, fmt, exported.signature, {name: one.rows})[output]
    return float(np.mean(np.abs(found - one.answers) < 1.01 * one.step))


def trained_scales(one: Made) -> dict[str, Any]:
    return {layer.name: layer.kernel_scale.numpy() for layer in one.model.layers if hasattr(layer, "kernel_scale")}


def ranges(one: Made) -> set[tuple[float, int]]:
    """(scale, zero point of int8) of each range."""
    found = set()
    for layer in one.model.layers:
        if hasattr(layer, "low"):
            low, high = float(layer.low.numpy()), float(layer.high.numpy())
            found.add((round((high - low) / 255, 9), round(-low / (high - low) * 255) - 128))
    return found


def near(found: set[tuple[float, int]], wanted: set[tuple[float, int]]) -> bool:
    return all(any(zero == z and abs(scale - s) < 2e-6 * s + 1e-9 for scale, zero in found) for s, z in wanted)


@pytest.mark.parametrize("name", ["static_wi8_ai8", "static_wi8_ai8_int_io"])
def test_tflite_is_integer_only_with_the_trained_scales(eight: Made, tmp_path: Path, name: str) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from converters.export.tflite_file import float_operators, read_model

    exported = export(eight, "tflite", name, tmp_path)
    model = read_model((tmp_path / exported.artifact).read_bytes())
    assert float_operators(model) == []
    graph = model.subgraphs[0]
    tensors = [t for t in graph.tensors if t.type == schema.TensorType.INT8]
    kernels = [t for t in tensors if model.buffers[t.buffer].data is not None]
    by_key = {kernel.key: kernel for kernel in trained_kernels(eight.source.facts).kernels}
    for tensor in kernels:
        integers = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int8).reshape(tensor.shape)
        shape = [1] * integers.ndim
        shape[tensor.quantization.quantizedDimension] = -1
        scales = np.asarray(tensor.quantization.scale, np.float32)
        kernel = by_key.pop(key_of(integers.astype(np.float32) * scales.reshape(shape)))
        assert scales.tolist() == trained_scales(eight)[kernel.name].tolist()
    assert by_key == {}
    activations = [t for t in tensors if model.buffers[t.buffer].data is None]
    assert near(
        {(float(t.quantization.scale[0]), int(t.quantization.zeroPoint[0])) for t in activations}, ranges(eight)
    )
    assert agrees(eight, "tflite", exported, tmp_path) >= WITHIN_ONE_STEP
    assert "nothing was calibrated" in exported.notes[0]


@pytest.mark.parametrize("name", ["static_wi8_ai8", "static_wi8_au8"])
def test_onnx_has_the_trained_scales_and_runs_in_integers(seven: Made, tmp_path: Path, name: str) -> None:
    import onnx
    import onnxruntime as ort
    from onnx import numpy_helper

    exported = export(seven, "onnx", name, tmp_path)
    model = onnx.load(tmp_path / exported.artifact)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kernels, activations = [], set()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            if node.input[0] not in constants:
                activations.add((float(scale), int(zero) - (128 if zero.dtype == np.uint8 else 0)))
            elif constants[node.input[0]].dtype == np.int8:
                kernels.append(sorted(scale.ravel().tolist()))
    assert sorted(kernels) == sorted(sorted(scales.tolist()) for scales in trained_scales(seven).values())
    assert near(activations, ranges(seven))
    assert agrees(seven, "onnx", exported, tmp_path) >= WITHIN_ONE_STEP
    if name == "static_wi8_ai8":
        return  # ONNX Runtime's kernels on x86 want unsigned activations: it computes signed ones as it likes
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns that such a file is for this processor only
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(str(tmp_path / exported.artifact), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert ops.count("QLinearConv") == 3
    assert not {"Conv", "Gemm", "MatMul", "Concat"} & set(ops)


def test_openvino_has_the_trained_scales_and_runs_in_integers(seven: Made, tmp_path: Path) -> None:
    import openvino as ov

    exported = export(seven, "openvino", "static_wi8_ai8", tmp_path)
    assert exported.weight_dtypes["int8"] == sum(
        int(np.prod(layer.kernel.shape)) for layer in seven.model.layers if hasattr(layer, "kernel_scale")
    )
    model = ov.Core().read_model(tmp_path / exported.artifact)
    found = [
        sorted(np.ravel(node.input_value(1).get_node().data).tolist())
        for node in model.get_ops()
        if node.get_type_name() == "Multiply" and node.input_value(0).get_node().get_type_name() == "Convert"
    ]
    wanted = [sorted(scales.tolist()) for scales in trained_scales(seven).values()]
    assert np.allclose(np.concatenate(sorted(found)), np.concatenate(sorted(wanted)), rtol=1e-6)
    assert model.inputs[0].get_partial_shape()[0].is_dynamic
    assert agrees(seven, "openvino", exported, tmp_path) >= WITHIN_ONE_STEP
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [
        node.get_rt_info()["primitiveType"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("Convolution", "FullyConnected")
    ]
    assert len(kinds) == 5
    assert all("I8" in kind for kind in kinds)


def test_four_bits_in_tflite_take_half_the_room(four: Made, tmp_path: Path) -> None:
    for name in ("static_wi4_ai8", "static_wi8_ai8"):
        (tmp_path / name).mkdir()
    small = export(four, "tflite", "static_wi4_ai8", tmp_path / "static_wi4_ai8")
    large = export(four, "tflite", "static_wi8_ai8", tmp_path / "static_wi8_ai8")
    weights = sum(int(np.prod(layer.kernel.shape)) for layer in four.model.layers if hasattr(layer, "kernel_scale"))
    assert small.weight_dtypes["int4"] == weights
    assert "int8" not in small.weight_dtypes
    sizes = [(tmp_path / name / "model.tflite").stat().st_size for name in ("static_wi4_ai8", "static_wi8_ai8")]
    assert sizes[1] - sizes[0] > 0.4 * weights
    assert agrees(four, "tflite", small, tmp_path / "static_wi4_ai8") >= WITHIN_ONE_STEP
    assert agrees(four, "tflite", large, tmp_path / "static_wi8_ai8") >= WITHIN_ONE_STEP


@pytest.mark.parametrize("fmt", ["onnx", "openvino"])
def test_four_bit_weights_go_into_eight_bits_elsewhere(four: Made, tmp_path: Path, fmt: str) -> None:
    exported = export(four, fmt, "static_wi8_ai8", tmp_path)
    assert agrees(four, fmt, exported, tmp_path) >= WITHIN_ONE_STEP
    assert reason(after_qat(fmt, "static_wi4_ai8", 4), four.source.facts) is not None


def test_per_tensor_scales(tmp_path: Path) -> None:
    one = made(tmp_path, granularity="per_tensor", weight_bits=7)
    for fmt in ("tflite", "onnx", "openvino"):
        (tmp_path / fmt).mkdir()
        exported = export(one, fmt, "static_wi8_ai8", tmp_path / fmt)
        assert agrees(one, fmt, exported, tmp_path / fmt) >= WITHIN_ONE_STEP


def test_formats_agree_after_a_training_under_a_teacher(tmp_path: Path) -> None:
    one = made(tmp_path, teacher="base", method="hints", weight_bits=7)
    for fmt in ("tflite", "onnx", "openvino"):
        (tmp_path / fmt).mkdir()
        exported = export(one, fmt, "static_wi8_ai8", tmp_path / fmt)
        assert agrees(one, fmt, exported, tmp_path / fmt) >= WITHIN_ONE_STEP


def test_what_does_not_fit_a_trained_model_is_refused(eight: Made) -> None:
    facts = eight.source.facts
    assert facts[FACT_TRAINED_RANGES]["weight_bits"] == 8
    for fmt, name, why in (
        ("tflite", "fp32", "8-bit activations"),
        ("tflite", "static_wi8_ai16", "8-bit activations"),
        ("onnx", "dynamic_wi8_afp32", "8-bit activations"),
        ("tflite", "static_wi8_ai8_per_tensor", "granularity=per_tensor"),
        ("onnx", "static_wi8_ai8_entropy", "nothing is calibrated"),
    ):
        recipe = parse_name(fmt, name)
        assert recipe is not None
        assert why in str(reason(recipe, facts))
    assert "trained for 8 bits" in str(reason(after_qat("tflite", "static_wi4_ai8", 8)))
    assert reason(after_qat("tflite", "static_wi4_ai8", 4)) is None
    assert "post-training" in str(reason(make_recipe("tflite", "static", "i4", "i8")))


def test_a_kernel_that_lost_its_grid_is_an_error(eight: Made) -> None:
    trained = trained_kernels(eight.source.facts)
    assert trained is not None
    kernel = trained.kernels[0]
    values = eight.model.get_layer(kernel.name).kernel.numpy()
    assert trained.find(values[::-1]) is kernel
    assert trained.find(values * 1.001) is None
    with pytest.raises(ToolError, match="grid"):
        kernel.integers(values * 1.001, values.ndim - 1)
