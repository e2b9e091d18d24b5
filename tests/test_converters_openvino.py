"""The OpenVINO toolchain: a batch set free without harm, what tensors hold, the guarded measure, every recipe for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converters.check import agreement
from converters.dataset import dataset_from_arrays
from converters.errors import RefusedError, ToolError
from converters.export import openvino_graph
from converters.export.base import CALIBRATION, CHECK, Source
from converters.export.openvino import OpenvinoToolchain, _compact
from converters.export.openvino_graph import _free_batch, has_attention, read_base, run, signature, weight_dtypes
from converters.export.openvino_metric import CalibrationMetric
from converters.pipeline import ConversionRequest, convert
from converters.recipe import matrix
from converters.recipe_words import parse_recipes
from converters.variant import TensorSpec, load_variant

FP32_LIMIT = 1e-4


def random(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 0.5).astype(np.float32)


def named(node, name):
    node.output(0).set_names({name})
    return node


def model_of(output, *parameters):
    import openvino as ov

    return ov.Model([output], list(parameters))


def dense(batch=1, *, reshape=(1, 6), classes=4):
    """Parameter x [batch, 2, 3], flattened to `reshape` (as a trace with batch 1 leaves it), times a matrix."""
    from openvino import opset13 as ops

    x = named(ops.parameter([batch, 2, 3], np.float32, "x"), "x")
    flat = ops.reshape(x, ops.constant(np.array(reshape, np.int64)), False)
    return model_of(named(ops.matmul(flat, ops.constant(random(6, classes)), False, False), "y"), x)


def source_of(folder: Path, model, rows=12, labels=None, task=None) -> Source:
    """A Source whose base is `model`, run row by row."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {
        port.any_name: random(rows, *(d.get_length() for d in list(port.get_partial_shape())[1:]), seed=i)
        for i, port in enumerate(model.inputs)
    }
    compiled = openvino_graph.compile_exactly(model)
    parts = [list(compiled({name: x[i : i + 1] for name, x in inputs.items()}).to_tuple()) for i in range(rows)]
    names = [port.any_name for port in compiled.outputs]
    outputs = {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}
    given = {f"in:{name}": x for name, x in inputs.items()}
    np.savez(folder / CHECK, **given, **{f"out:{name}": y for name, y in outputs.items()})
    np.savez(folder / CALIBRATION, **given, **({} if labels is None else {"labels": labels}))

    def specs(arrays):
        return tuple(TensorSpec(name, (None, *x.shape[1:]), "float32", name) for name, x in arrays.items())

    return Source(folder, "tiny", "0" * 64, 1, specs(inputs), specs(outputs), task=task)


# --- the graph


def test_a_batch_of_one_in_the_target_of_a_reshape_is_set_free():
    model = dense()
    x = random(5, 2, 3)
    alone = [run(model, {"x": x[i : i + 1]})["y"] for i in range(5)]
    assert _free_batch(model) is None
    assert model.outputs[0].get_partial_shape()[0].is_dynamic
    np.testing.assert_allclose(run(model, {"x": x})["y"], np.concatenate(alone), atol=1e-6)


def test_a_batch_that_cannot_be_set_free_stays_at_one_and_the_note_says_why(tmp_path, monkeypatch):
    from openvino import opset13 as ops

    x = named(ops.parameter([1, 6], np.float32, "x"), "x")
    rows = ops.reshape(x, ops.constant(np.array([6], np.int64)), False)
    model = model_of(named(ops.reshape(rows, ops.constant(np.array([2, 3], np.int64)), False), "y"), x)
    source = source_of(tmp_path, model, rows=1)
    monkeypatch.setattr("openvino.tools.ovc.convert_model", lambda _path: model)
    fixed, (note,) = read_base(source)
    assert fixed.inputs[0].get_partial_shape()[0] == 1
    assert note.startswith("the batch is fixed at 1")


def test_a_free_batch_with_other_numbers_is_refused(tmp_path, monkeypatch):
    """The mean over all rows is right for one row only: OpenVINO runs it with many, and the check rows tell."""
    from openvino import opset13 as ops

    x = named(ops.parameter([1, 4], np.float32, "x"), "x")
    mean = ops.reduce_mean(x, ops.constant(np.array([0], np.int64)), keep_dims=True)
    model = model_of(named(ops.add(x, mean), "y"), x)
    source = source_of(tmp_path, model)
    monkeypatch.setattr("openvino.tools.ovc.convert_model", lambda _path: model)
    fixed, (note,) = read_base(source)
    assert fixed.inputs[0].get_partial_shape()[0] == 1
    assert "off by" in note


def test_a_model_that_openvino_cannot_read_is_one_line(tmp_path):
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"garbage")
    source = Source(tmp_path, "tiny", "0" * 64, 1, (), ())
    with pytest.raises(ToolError, match="could not convert the SavedModel") as caught:
        read_base(source)
    assert "\n" not in str(caught.value)


def test_a_squeeze_that_only_suits_one_row_is_passed_by():
    from openvino import opset13 as ops

    x = named(ops.parameter([1, 3], np.float32, "x"), "x")
    doubled = ops.multiply(x, ops.constant(np.float32(2)))
    squeezed = ops.squeeze(doubled, ops.constant(np.array([0], np.int64)))
    model = model_of(named(ops.add(x, squeezed), "y"), x)
    assert _free_batch(model) is None
    rows = random(4, 3)
    np.testing.assert_allclose(run(model, {"x": rows})["y"], rows * 3, atol=1e-6)


def test_a_mean_keeps_its_dimensions_instead_of_being_reshaped():
    from openvino import opset13 as ops

    x = named(ops.parameter([1, 3, 4, 4], np.float32, "x"), "x")
    mean = ops.reduce_mean(x, ops.constant(np.array([2, 3], np.int64)), keep_dims=False)
    back = ops.reshape(mean, ops.constant(np.array([1, 3, 1, 1], np.int64)), False)
    model = model_of(named(ops.multiply(x, back), "y"), x)
    rows = random(1, 3, 4, 4)
    before = run(model, {"x": rows})["y"]
    openvino_graph._keep_mean_dimensions(model)
    assert "Reshape" not in openvino_graph.count_types(model)
    np.testing.assert_allclose(run(model, {"x": rows})["y"], before, atol=1e-6)


def test_attention_is_two_computed_tensors_multiplied_and_a_softmax():
    from openvino import opset13 as ops

    x = named(ops.parameter([1, 4, 8], np.float32, "x"), "x")
    scores = ops.softmax(ops.matmul(x, x, False, True), 2)
    assert has_attention(model_of(ops.matmul(scores, x, False, False), x))
    assert not has_attention(model_of(ops.softmax(ops.matmul(x, ops.constant(random(8, 3)), False, False), 2), x))


def test_signature_and_contents_are_read_from_the_file(tmp_path):
    import openvino as ov

    model = dense(-1, reshape=(-1, 6))
    source = source_of(tmp_path / "source", dense())
    for half, name in ((False, "float32"), (True, "float16")):
        ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=half)
        before = (tmp_path / "model.xml").stat().st_size
        _compact(tmp_path / "model.xml")
        assert (tmp_path / "model.xml").stat().st_size < before
        made, read = signature(tmp_path / "model.xml", source)
        assert made.inputs == (TensorSpec("x", (None, 2, 3), "float32", "x"),)
        assert made.outputs == (TensorSpec("y", (None, 4), "float32", "y"),)
        assert weight_dtypes(read)[name] == 24
        del read
    with pytest.raises(ToolError, match="names a tensor"):
        signature(tmp_path / "model.xml", Source(tmp_path, "other", "0" * 64, 1, (), ()))


# --- the measure


def feeds_of(source):
    rows, labels = source.calibration_rows()
    (name,) = rows
    return [{name: rows[name][i : i + 1]} for i in range(len(rows[name]))], labels


def test_labelled_classes_are_measured_by_accuracy(tmp_path):
    base = dense()
    plain = source_of(tmp_path / "a", base)
    top = plain.check_rows()[1]["y"].argmax(1)
    labels = top.copy()
    labels[:3] = (labels[:3] + 1) % 4
    source = source_of(tmp_path / "b", base, labels=labels, task="classification")
    metric = CalibrationMetric(base, *feeds_of(source), source)
    assert (metric.name, metric.of(base)) == ("accuracy", pytest.approx(9 / 12))
    assert CalibrationMetric(base, feeds_of(plain)[0], None, plain).name == "agreement with the base"


def test_a_regression_output_counts_by_its_deviation(tmp_path):
    base = dense(classes=1)
    source = source_of(tmp_path / "a", base, task="regression")
    y = source.check_rows()[1]["y"]
    unlabelled = CalibrationMetric(base, feeds_of(source)[0], None, source)
    assert unlabelled.of(base) == pytest.approx(1.0)
    labelled = source_of(tmp_path / "b", base, labels=y[:, 0] + 0.1 * np.ptp(y), task="regression")
    assert CalibrationMetric(base, *feeds_of(labelled), labelled).of(base) == pytest.approx(0.9, abs=1e-3)


def test_items_are_row_numbers_and_each_gets_its_own_score(tmp_path):
    base = dense()
    source = source_of(tmp_path, base, labels=np.zeros(12, int), task="classification")
    metric = CalibrationMetric(base, *feeds_of(source), source)
    compiled = openvino_graph.compile_exactly(base)
    mean, scores = metric.validate(compiled, iter([4, 2, 7]))
    top = source.check_rows()[1]["y"].argmax(1)
    assert scores == [float(top[i] == 0) for i in (4, 2, 7)]
    assert mean == pytest.approx(np.mean(scores))


# --- for real, without TensorFlow


@pytest.fixture
def toolchain(tmp_path, monkeypatch):
    """A toolchain around a small convolutional network built from OpenVINO operations."""
    from openvino import opset13 as ops

    x = named(ops.parameter([1, 3, 8, 8], np.float32, "x"), "x")
    kernel = ops.constant(random(8, 3, 3, 3, seed=5))
    a = ops.relu(ops.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1]))
    flat = ops.reshape(a, ops.constant(np.array([1, 288], np.int64)), False)
    model = model_of(named(ops.matmul(flat, ops.constant(random(288, 4, seed=6)), False, False), "y"), x)
    plain = source_of(tmp_path / "plain", model)
    source = source_of(tmp_path / "source", model, labels=plain.check_rows()[1]["y"].argmax(1), task="classification")
    monkeypatch.setattr("openvino.tools.ovc.convert_model", lambda _path: model.clone())
    return OpenvinoToolchain(source, 0), source


@pytest.mark.convert
def test_every_recipe_of_the_matrix(toolchain, tmp_path, monkeypatch, capfd):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    chain, source = toolchain
    held = {}
    for recipe in matrix(["openvino"]):
        folder = tmp_path / "out" / recipe.name
        folder.mkdir(parents=True)
        exported = chain.export(recipe, folder)
        assert {path.name for path in folder.iterdir()} == set(exported.files)
        found = agreement(folder / exported.artifact, "openvino", exported.signature, source)
        assert found.relative_error <= {"f32": FP32_LIMIT, "f16": 5e-3, "i8": 0.1, "i4": 0.2}[recipe.weights], recipe
        assert exported.signature.inputs[0].shape == (None, 3, 8, 8)
        held[recipe.name] = exported.weight_dtypes
        if recipe.accuracy_control:
            assert any("accuracy on 12 calibration rows: 1.0000 in float32" in note for note in exported.notes)
    assert list((tmp_path / "cwd").iterdir()) == []
    assert capfd.readouterr().out == ""
    assert held["fp16"]["float16"] == 216 + 1152
    assert held["static_wi8_ai8"]["int8"] == 216 + 1152
    assert held["weight_only_wi8_afp32"]["int8"] == 216 + 1152
    assert (held["weight_only_wi4_afp32"]["int4"], held["weight_only_wi4_afp32"]["uint8"]) == (1152, 216 + 8)


@pytest.mark.convert
def test_parameters_of_static_recipes_reach_nncf(toolchain, tmp_path):
    import openvino as ov

    chain, _ = toolchain
    scales = {}
    for name in (
        "static_wi8_ai8",
        "static_wi8_ai8_per_tensor",
        "static_wi8_ai8_asymmetric",
        "static_wi8_ai8_percentile",
    ):
        folder = tmp_path / name
        folder.mkdir()
        chain.export(parse_recipes(f"openvino:{name}")[0], folder)
        read = ov.Core().read_model(folder / "model.xml")
        kernel = next(
            node
            for node in read.get_ops()
            if node.get_type_name() == "Constant" and list(node.get_output_shape(0)) == [8, 3, 3, 3]
        )
        (convert_port,) = kernel.output(0).get_target_inputs()
        (scale_port,) = convert_port.get_node().output(0).get_target_inputs()
        scale = scale_port.get_node()
        quantizers = [n for n in read.get_ordered_ops() if n.get_type_name() == "FakeQuantize"]
        scales[name] = (
            int(np.prod(list(scale.input_value(1).get_shape()))),
            [float(v) for i in (1, 2) for v in np.ravel(quantizers[0].input_value(i).get_node().data)],
        )
    assert {name: channels for name, (channels, _) in scales.items()} == {
        "static_wi8_ai8": 8,
        "static_wi8_ai8_per_tensor": 1,
        "static_wi8_ai8_asymmetric": 8,
        "static_wi8_ai8_percentile": 8,
    }
    low, high = scales["static_wi8_ai8"][1]
    assert low == pytest.approx(-high, rel=0.01)
    assert scales["static_wi8_ai8_asymmetric"][1] != pytest.approx([low, high])
    assert scales["static_wi8_ai8_percentile"][1][1] < high


@pytest.mark.convert
def test_nothing_to_compress_is_a_reason(tmp_path, monkeypatch):
    from openvino import opset13 as ops

    x = named(ops.parameter([1, 3], np.float32, "x"), "x")
    model = model_of(named(ops.sigmoid(x), "y"), x)
    source = source_of(tmp_path / "source", model)
    monkeypatch.setattr("openvino.tools.ovc.convert_model", lambda _path: model.clone())
    chain = OpenvinoToolchain(source, 0)
    for name in ("weight_only_wi8_afp32", "weight_only_wi4_afp32", "static_wi8_ai8"):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(RefusedError):
            chain.export(parse_recipes(f"openvino:{name}")[0], folder)


# --- for real, from Keras


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    script = Path(__file__).parent / "converters_zoo.py"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True, env=environment)
    return folder


@pytest.mark.convert
@pytest.mark.slow
@pytest.mark.parametrize("base", ["recurrent", "encoder", "two"])
def test_hard_bases_in_every_onnx_and_openvino_precision(zoo, tmp_path, base):
    """Loops, attention with gelu, two inputs with a regression: a free batch, fp32 exact, the rest runs or says why not."""
    shapes = {
        "recurrent": {"signal": (12, 6)},
        "encoder": {"tokens": (10,)},
        "two": {"image": (12, 12, 3), "facts": (7,)},
    }
    generator = np.random.default_rng(0)
    rows = {
        f"x_{part}:{name}": generator.integers(0, 50, (24, *shape)).astype(np.int32)
        if name == "tokens"
        else generator.random((24, *shape), np.float32)
        for part in ("train", "test")
        for name, shape in shapes[base].items()
    }
    dataset = dataset_from_arrays(rows | {"y_train": np.arange(24) % 2, "y_test": np.arange(24) % 2})
    report = convert(
        ConversionRequest(zoo / f"{base}.keras", parse_recipes("onnx, openvino"), tmp_path, dataset=dataset)
    )
    for row in report.rows:
        assert row.status == "ok", (row.variant, row.message)
        manifest = load_variant(row.folder).manifest
        assert all(spec.shape[0] is None for spec in manifest.signature.inputs), row.variant
        if row.recipe == "fp32":
            assert manifest.agreement.relative_error <= FP32_LIMIT, row.variant
