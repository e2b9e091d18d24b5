"""The ONNX toolchain on small graphs: no needless Transpose, right numbers, honest notes, named refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_models as models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from converters.check import agreement, run_artifact
from converters.errors import RefusedError, ToolError
from converters.export import onnx_ranges
from converters.export.onnx import OnnxToolchain
from converters.export.onnx_graph import count_ops, prepare, signature, weight_dtypes
from converters.export.onnx_ranges import ActivationRanges, BatchReader, entropy_range, percentile_range
from converters.recipe import matrix
from converters.recipe_words import parse_recipes

FP32_LIMIT = 1e-5


def recipe(name: str):
    return parse_recipes(f"onnx:{name}")[0]


def export(source, name: str, folder: Path):
    folder.mkdir(parents=True)
    return OnnxToolchain(source, 0).export(recipe(name), folder)


def weights(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.fixture
def cnn(tmp_path):
    return models.source(tmp_path / "source", models.channels_last_cnn())


# --- the graph


def test_no_transpose_is_left_and_the_numbers_stay(cnn, tmp_path):
    prepared = prepare(cnn, tmp_path / "scratch")
    assert (prepared.transposes_before, prepared.transposes) == (4, 0)
    assert prepared.input_axes == {"x": (0, 3, 1, 2)}
    exported = export(cnn, "fp32", tmp_path / "out")
    assert agreement(tmp_path / "out" / exported.artifact, "onnx", exported.signature, cnn).relative_error <= FP32_LIMIT
    (x,) = exported.signature.inputs
    assert (x.shape, x.layout, x.axes, x.source) == ((None, 3, 8, 6), "NCHW", (0, 3, 1, 2), "x")


def test_an_output_is_given_untransposed_and_says_how_to_turn_it_back(tmp_path):
    source = models.source(tmp_path / "source", models.segmenter())
    exported = export(source, "fp32", tmp_path / "out")
    (mask,) = exported.signature.outputs
    assert (mask.shape, mask.axes) == ((None, 2, 8, 8), (0, 2, 3, 1))
    result = agreement(tmp_path / "out" / "model.onnx", "onnx", exported.signature, source)
    assert result.relative_error <= FP32_LIMIT
    assert result.argmax_agreement is None


def test_axes_of_an_input_exported_as_nchw_are_those_from_the_bases_nhwc(tmp_path):
    model = models.graph(
        [("Conv", ["x", "w"], ["y"], {})],
        {"x": (None, 3, 6, 5)},
        {"y": (None, 2, 6, 5)},
        {"w": models.random(2, 3, 1, 1)},
    )
    source = models.source(tmp_path / "source", model, nchw_inputs=("x",))
    exported = export(source, "fp32", tmp_path / "out")
    assert exported.signature.inputs[0].axes == (0, 3, 1, 2)
    assert exported.signature.inputs[0].layout == "NCHW"
    assert agreement(tmp_path / "out" / "model.onnx", "onnx", exported.signature, source).relative_error <= FP32_LIMIT


def test_a_transpose_of_dimensions_of_one_goes_and_a_real_one_stays(tmp_path):
    def model(height):
        return models.graph(
            [
                ("Conv", ["x", "w"], ["a"], {}),
                ("Transpose", ["a"], ["b"], {"perm": [0, 2, 3, 1]}),
                ("Reshape", ["b", "shape"], ["c"], {}),
                ("Softmax", ["c"], ["y"], {"axis": 1}),
            ],
            {"x": (None, 3, height, 1)},
            {"y": (None, 4 * height)},
            {"w": models.random(4, 3, 1, 1), "shape": np.array([-1, 4 * height], np.int64)},
        )

    for height, left in ((1, 0), (2, 1)):
        source = models.source(tmp_path / str(height), model(height))
        prepared = prepare(source, tmp_path / "scratch")
        assert prepared.transposes == left
        exported = export(source, "fp32", tmp_path / f"out{height}")
        assert agreement(
            tmp_path / f"out{height}" / "model.onnx", "onnx", exported.signature, source
        ).relative_error <= (FP32_LIMIT)


def test_a_spatial_mean_becomes_pooling_with_or_without_its_dimensions(tmp_path):
    for keep in (0, 1):
        model = models.graph(
            [
                ("Conv", ["x", "w"], ["a"], {}),
                ("ReduceMean", ["a", "axes"], ["y"], {"keepdims": keep}),
            ],
            {"x": (None, 3, 4, 4)},
            {"y": (None, 2, 1, 1) if keep else (None, 2)},
            {"w": models.random(2, 3, 1, 1), "axes": np.array([2, 3], np.int64)},
        )
        source = models.source(tmp_path / f"source{keep}", model)
        prepared = prepare(source, tmp_path / "scratch")
        assert count_ops(prepared.model)["GlobalAveragePool"] == 1
        expected = source.check_rows()[1]["y"]
        found = models.run(prepared.model, {"x": source.check_rows()[0]["x"]})["y"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_tensor_that_a_branch_reads_by_name_keeps_its_place(tmp_path):
    """The subgraph of an If reads the transposed tensor from outside: that Transpose must stay."""
    then = helper.make_graph(
        [helper.make_node("Identity", ["t"], ["then_y"])],
        "then",
        [],
        [helper.make_tensor_value_info("then_y", 1, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["t"], ["else_y"])], "else", [], [helper.make_tensor_value_info("else_y", 1, None)]
    )
    model = models.graph(
        [
            ("Transpose", ["x"], ["t"], {"perm": [0, 2, 1]}),
            ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
            ("Greater", ["sum", "zero"], ["positive"], {}),
            ("If", ["positive"], ["y"], {"then_branch": then, "else_branch": other}),
        ],
        {"x": (None, 3, 2)},
        {"y": (None, 2, 3)},
        {"zero": np.zeros((), np.float32)},
    )
    source = models.source(tmp_path / "source", model)
    prepared = prepare(source, tmp_path / "scratch")
    assert prepared.input_axes == {}
    x = source.check_rows()[0]["x"]
    for sign in (1, -1):
        found = models.run(prepared.model, {"x": np.abs(x) * sign})["y"]
        np.testing.assert_allclose(found, np.abs(x).transpose(0, 2, 1), atol=1e-6)


def test_names_are_short_but_those_of_inputs_and_outputs(cnn, tmp_path):
    prepared = prepare(cnn, tmp_path / "scratch")
    names = [name for node in prepared.model.graph.node for name in (node.name, *node.input, *node.output)]
    assert max(map(len, names)) < 25
    assert prepared.model.graph.input[0].name == "x"
    assert prepared.model.graph.output[0].name == "logits"


def test_the_batch_is_one_free_dimension(cnn, tmp_path):
    exported = export(cnn, "fp32", tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {i.type.tensor_type.shape.dim[0].dim_param for i in (*model.graph.input, *model.graph.output)} == {"batch"}
    for rows in (1, 3):
        x = cnn.check_rows()[0]["x"][:rows]
        outputs = run_artifact(tmp_path / "out" / "model.onnx", "onnx", exported.signature, {"x": x})
        assert outputs["logits"].shape == (rows, 5)


def test_garbage_and_foreign_tensors_are_one_line(cnn, tmp_path):
    cnn.onnx.write_bytes(b"\x08\x07garbage" * 50)
    with pytest.raises(ToolError, match=r"model\.onnx") as caught:
        prepare(cnn, tmp_path / "scratch")
    assert "\n" not in str(caught.value)
    model = models.channels_last_cnn()
    model.graph.input.append(helper.make_tensor_value_info("captured:0", 1, [1]))
    onnx.save(model, cnn.onnx)
    with pytest.raises(ToolError, match="captured:0"):
        prepare(cnn, tmp_path / "scratch")


# --- the recipes


def test_every_recipe_of_the_matrix_runs_and_leaves_nothing_behind(cnn, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    toolchain = OnnxToolchain(cnn, 0)
    for each in matrix(["onnx"]):
        folder = tmp_path / "out" / each.name
        folder.mkdir(parents=True)
        exported = toolchain.export(each, folder)
        assert {path.name for path in folder.iterdir()} == set(exported.files)
        found = agreement(folder / exported.artifact, "onnx", exported.signature, cnn)
        limit = {"f32": FP32_LIMIT, "f16": 5e-3, "i8": 0.1, "i4": 0.2}[each.weights]
        assert found.relative_error <= limit, (each.name, found)
        assert exported.signature.inputs[0].dtype == "float32"
        assert exported.signature.inputs[0].shape[0] is None
    assert list((tmp_path / "cwd").iterdir()) == []
    assert set(toolchain.versions()) >= {"onnx", "onnxruntime"}


def test_what_the_tensors_hold(cnn, tmp_path):
    held = {
        name: export(cnn, name, tmp_path / name).weight_dtypes for name in ("fp32", "fp16", "weight_only_wi4_afp32")
    }
    assert held["fp32"]["float32"] == 4 * 27 + 4 + 6 * 16 + 72 * 5 + 5
    assert held["fp16"]["float16"] == held["fp32"]["float32"]
    assert held["weight_only_wi4_afp32"]["int4"] == 72 * 5
    static = export(cnn, "static_wi8_ai8", tmp_path / "static").weight_dtypes
    assert static["int8"] >= 4 * 27 + 6 * 16 + 72 * 5
    assert static["int32"] >= 4 + 5  # biases


def test_granularity_and_range_of_static_weights(cnn, tmp_path):
    export(cnn, "static_wi8_ai8_full_range", tmp_path / "channel")
    export(cnn, "static_wi8_ai8_per_tensor_full_range", tmp_path / "tensor")
    export(cnn, "static_wi8_au8", tmp_path / "reduced")
    kernels = {
        name: [w for w in weights(tmp_path / name / "model.onnx").values() if w.dtype == np.int8 and w.ndim == 4]
        for name in ("channel", "tensor", "reduced")
    }
    assert all(np.abs(w).max() == 127 for w in kernels["tensor"])
    assert all((np.abs(w).max(axis=(1, 2, 3)) == 127).all() for w in kernels["channel"])
    assert all(np.abs(w).max() <= 64 for w in kernels["reduced"])
    assert any(w.dtype == np.uint8 for w in weights(tmp_path / "reduced" / "model.onnx").values())


def test_symmetric_activations_have_zero_points_of_zero(cnn, tmp_path):
    asymmetric, symmetric = "static_wi8_ai8", "static_wi8_ai8_symmetric"
    for name in (asymmetric, symmetric):
        export(cnn, name, tmp_path / name)
    zeros = {
        name: {int(w) for w in weights(tmp_path / name / "model.onnx").values() if w.dtype == np.int8 and w.ndim == 0}
        for name in (asymmetric, symmetric)
    }
    assert zeros[symmetric] == {0}
    assert zeros[asymmetric] - {0}


@pytest.mark.parametrize("name", ["weight_only_wi4_afp32", "dynamic_wi8_afp32"])
def test_convolutions_alone_have_no_such_precision_and_the_reason_is_named(tmp_path, name):
    source = models.source(tmp_path / "source", models.segmenter())
    with pytest.raises(RefusedError, match="this model has none"):
        export(source, name, tmp_path / "out")


def test_nothing_to_quantize_is_a_reason(tmp_path):
    model = models.graph([("Relu", ["x"], ["y"], {})], {"x": (None, 3)}, {"y": (None, 3)}, {})
    source = models.source(tmp_path / "source", model)
    with pytest.raises(RefusedError, match="static int8 applies to"):
        export(source, "static_wi8_ai8", tmp_path / "out")


def test_dynamic_keeps_convolutions_in_float_and_says_so(cnn, tmp_path):
    exported = export(cnn, "dynamic_wi8_afp32", tmp_path / "out")
    ops = count_ops(onnx.load(tmp_path / "out" / "model.onnx"))
    assert ops["Conv"] == 2
    assert ops["ConvInteger"] == 0
    assert ops["MatMulInteger"] + ops["DynamicQuantizeMatMul"] == 1
    assert any("convolutions stay float32" in note for note in exported.notes)


def test_an_lstm_keeps_its_signed_weights_within_seven_bits(tmp_path):
    """ONNX Runtime quantizes LSTM weights to int8 whatever it is told; full-range ones saturate on CPUs without VNNI."""
    model = models.graph(
        [("LSTM", ["x", "w", "r"], ["y"], {"hidden_size": 4}), ("Squeeze", ["y", "axis"], ["z"], {})],
        {"x": (None, 3, 5)},
        {"z": (None, 3, 4)},
        {"w": models.random(1, 16, 5, scale=2), "r": models.random(1, 16, 4, scale=2), "axis": np.array([1], np.int64)},
    )
    source = models.source(tmp_path / "source", model)
    exported = export(source, "dynamic_wi8_afp32", tmp_path / "out")
    signed = [w for w in weights(tmp_path / "out" / "model.onnx").values() if w.dtype == np.int8 and w.ndim == 3]
    assert signed
    assert all(np.abs(w).max() <= 64 for w in signed)
    assert agreement(tmp_path / "out" / "model.onnx", "onnx", exported.signature, source).relative_error < 0.05


def test_float16_says_what_it_clipped(tmp_path):
    model = models.graph(
        [("MatMul", ["x", "w"], ["y"], {})],
        {"x": (None, 3)},
        {"y": (None, 2)},
        {"w": np.array([[1, 2], [3, 1e5], [-2e5, 1]], np.float32)},
    )
    source = models.source(tmp_path / "source", model)
    exported = export(source, "fp16", tmp_path / "out")
    assert any(note.startswith("2 weights lie outside") for note in exported.notes)


def test_calibration_rows_that_are_not_numbers_are_an_error(cnn, tmp_path):
    rows, _ = cnn.calibration_rows()
    rows["x"][3, 0, 0, 0] = np.nan
    np.savez(cnn.folder / "calibration.npz", **{"in:x": rows["x"]})
    with pytest.raises(ToolError, match="NaN or infinity"):
        export(cnn, "static_wi8_ai8", tmp_path / "out")


def test_a_fixed_batch_is_kept_and_calibrated_in_its_own_size(tmp_path):
    model = models.channels_last_cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    free = models.source(tmp_path / "source", models.channels_last_cnn())
    onnx.save(model, free.onnx)
    exported = export(free, "static_wi8_au8", tmp_path / "out")
    assert exported.signature.inputs[0].shape[0] == 1
    assert agreement(tmp_path / "out" / "model.onnx", "onnx", exported.signature, free).relative_error < 0.1


def test_the_signature_is_read_from_the_artifact(cnn, tmp_path):
    prepared = prepare(cnn, tmp_path / "scratch")
    model = onnx.ModelProto()
    model.CopyFrom(prepared.model)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 99
    assert signature(model, cnn, prepared).inputs[0].shape == (None, 3, 99, 6)
    assert weight_dtypes(model) == weight_dtypes(prepared.model)


# --- ranges


def test_rows_come_in_batches_and_each_once():
    reader = BatchReader({"x": np.arange(10), "y": np.arange(10) * 2}, 4)
    feeds = list(reader)
    assert [len(feed["x"]) for feed in feeds] == [4, 4, 2]
    assert np.concatenate([feed["y"] for feed in feeds]).tolist() == list(range(0, 20, 2))
    assert reader.get_next() is None


def test_ranges_are_exact_whatever_the_batch(cnn, tmp_path, monkeypatch):
    prepared = prepare(cnn, tmp_path / "scratch")
    rows = {"x": cnn.calibration_rows()[0]["x"].transpose(0, 3, 1, 2)}
    found = []
    for limit in (1, 10**9):
        monkeypatch.setattr(onnx_ranges, "BATCH_BYTES", limit)
        ranges = ActivationRanges(prepared.model, ("Conv", "Relu", "Gemm"), rows, tmp_path / f"r{limit}")
        found.append({method: ranges.get(method) for method in ("minmax", "entropy", "percentile")})
    for method, one in found[0].items():
        for name, bounds in one.items():
            np.testing.assert_allclose(bounds, found[1][method][name], rtol=1e-4, atol=1e-5)
    logits = cnn.check_rows()[1]["logits"]
    for method in found[0]:
        np.testing.assert_allclose(found[0][method]["logits"], (logits.min(), logits.max()), rtol=1e-5)
        assert found[0][method]["x"] == (pytest.approx(rows["x"].min()), pytest.approx(rows["x"].max()))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=60), st.integers(0, 2**16))
def test_chosen_ranges_lie_inside_the_measured_and_hold_almost_everything(extra, seed):
    values = np.concatenate([np.random.default_rng(seed).standard_normal(500), np.array(extra)])
    low, high = float(values.min()), float(values.max())
    histogram = np.histogram(values, onnx_ranges.BINS, (low, high))[0].astype(float)
    for choose, share in ((percentile_range, 0.995), (entropy_range, 0.98)):
        left, right = choose(histogram, low, high)
        assert low - 1e-9 <= left < right <= high + 1e-9
        width = 2 * (high - low) / onnx_ranges.BINS
        assert np.mean((values >= left - width) & (values <= right + width)) >= share


def test_a_lone_outlier_is_cut_by_percentile_and_entropy_not_by_minmax():
    values = np.append(np.random.default_rng(0).standard_normal(200_000), 100.0)
    low, high = float(values.min()), float(values.max())
    histogram = np.histogram(values, onnx_ranges.BINS, (low, high))[0].astype(float)
    assert percentile_range(histogram, low, high)[1] < 6
    assert entropy_range(histogram, low, high)[1] < 20


def test_mass_at_zero_does_not_decide_the_entropy_cut():
    spread = np.abs(np.random.default_rng(1).standard_normal(50_000)) * 2
    high = float(spread.max())
    alone = np.histogram(spread, onnx_ranges.BINS, (0, high))[0].astype(float)
    with_zeros = alone.copy()
    with_zeros[0] += 500_000
    assert entropy_range(with_zeros, 0.0, high) == entropy_range(alone, 0.0, high)


def test_recipes_of_other_parameters_are_honoured(cnn, tmp_path):
    wide = dataclasses.replace(recipe("weight_only_wi4_afp32"), group_size=64, symmetric_weights=False)
    for index, each in enumerate((recipe("weight_only_wi4_afp32"), wide)):
        folder = tmp_path / str(index)
        folder.mkdir()
        OnnxToolchain(cnn, 0).export(each, folder)
        (node,) = [n for n in onnx.load(folder / "model.onnx").graph.node if n.op_type == "MatMulNBits"]
        attributes = {a.name: a.i for a in node.attribute}
        assert (attributes["block_size"], len(node.input)) == ((32, 3), (64, 4))[index]
