"""Agreement of a variant with its base: adapting inputs, restoring outputs, errors by spread, real engines."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_models as models
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters import check
from converters.check import (
    adapt_input,
    adapt_inputs,
    agreement,
    compare,
    dequantize,
    quantize,
    restore_output,
    run_artifact,
)
from converters.errors import ToolError
from converters.variant import Quantization, Signature, TensorSpec

NCHW = (0, 3, 1, 2)
NHWC = (0, 2, 3, 1)
IMAGE = TensorSpec("serving_x:0", (None, 3, 4, 5), "float32", "x", "NCHW", NCHW)


def test_quantizing_rounds_shifts_and_clips():
    q = Quantization((0.5,), (10,))
    real = np.array([-100.0, -0.3, 0.0, 0.24, 0.26, 1000.0], np.float32)
    assert quantize(real, q, "int8").tolist() == [-128, 9, 10, 10, 11, 127]
    assert quantize(real, q, "uint8").tolist() == [0, 9, 10, 10, 11, 255]
    assert dequantize(np.array([9, 10, 12], np.int8), q).tolist() == [-0.5, 0.0, 1.0]


def test_quantization_along_an_axis():
    q = Quantization((1.0, 0.5), (0, 3), axis=1)
    real = np.array([[2.0, 2.0], [4.0, 1.0]], np.float32)
    integers = quantize(real, q, "int8")
    assert integers.tolist() == [[2, 7], [4, 5]]
    assert dequantize(integers, q).tolist() == real.tolist()


@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-10, 10, width=32)), st.integers(-20, 20))
def test_a_round_trip_is_off_by_half_a_step_at_most(real, zero):
    q = Quantization((0.25,), (zero,))
    assert np.abs(dequantize(quantize(real, q, "int8"), q) - real).max() <= 0.125 + 1e-6


@given(st.permutations([1, 2, 3]))
def test_an_output_turned_back_is_what_an_input_turned_was(order):
    axes = (0, *order)
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    there = adapt_input(TensorSpec("x", (None,), "float32", axes=axes), x)
    back = tuple(int(i) for i in np.argsort(axes))
    assert np.array_equal(restore_output(TensorSpec("y", (None,), "float32", axes=back), there), x)
    assert there.flags.c_contiguous


def test_inputs_are_found_by_source_in_the_engines_order():
    signature = Signature((TensorSpec("b:0", (None, 2), "int32", "b"), IMAGE), ())
    rows = {"x": np.zeros((3, 4, 5, 3), np.float32), "b": np.ones((3, 2), np.int64)}
    b, x = adapt_inputs(signature, rows)
    assert (b.dtype, b.shape, x.shape) == (np.int32, (3, 2), (3, 3, 4, 5))


def test_what_does_not_fit_is_named():
    signature = Signature((IMAGE,), ())
    with pytest.raises(ValueError, match="no values for the input 'x'"):
        adapt_inputs(signature, {"y": np.zeros(1)})
    with pytest.raises(ValueError, match=r"\(3, 3, 4, 4\)"):
        adapt_inputs(signature, {"x": np.zeros((3, 4, 4, 3), np.float32)})
    with pytest.raises(ValueError, match="without a quantization"):
        adapt_input(TensorSpec("x", (None, 2), "int8", "x"), np.array([[0.5, 1.0]], np.float32))
    assert adapt_input(TensorSpec("x", (None, 2), "int8"), np.array([[2.0, 1.0]], np.float32)).dtype == np.int8


def test_integer_values_for_a_quantized_input_are_not_scaled_again():
    spec = TensorSpec("x", (None, 2), "int8", quantization=Quantization((0.5,), (0,)))
    assert adapt_input(spec, np.array([[3, 4]], np.int8)).tolist() == [[3, 4]]


def test_half_precision_outputs_are_widened():
    assert restore_output(TensorSpec("y", (None,), "float16"), np.ones(2, np.float16)).dtype == np.float32


# --- comparing


def test_the_error_is_relative_to_each_outputs_own_spread():
    base = {"big": np.array([[0.0, 1000.0]]), "small": np.array([[0.0], [1.0]])}
    found = compare({"big": base["big"] + 1.0, "small": base["small"] + 0.1}, base)
    assert found.per_output == {"big": pytest.approx(1e-3), "small": pytest.approx(0.1)}
    assert found.relative_error == pytest.approx(0.1)
    assert found.max_abs_error == pytest.approx(1.0)
    assert found.mean_abs_error == pytest.approx((2 * 1.0 + 2 * 0.1) / 4)
    assert found.spread == 1000.0


def test_a_constant_output_is_judged_by_its_magnitude():
    assert compare({"y": np.full((2, 1), 4.4)}, {"y": np.full((2, 1), 4.0)}).relative_error == pytest.approx(0.1)
    assert compare({"y": np.full((2, 1), 0.5)}, {"y": np.zeros((2, 1))}).relative_error == pytest.approx(0.5)


def test_arg_max_is_for_class_scores_only():
    base = np.array([[0.0, 1.0], [1.0, 0.0], [0.2, 0.1], [0.0, 3.0]])
    flipped = base.copy()
    flipped[2] = [0.1, 0.2]
    assert compare({"y": flipped}, {"y": base}).argmax_agreement == 0.75
    assert compare({"y": base[:, :1]}, {"y": base[:, :1]}).argmax_agreement is None
    assert compare({"y": base[:, None]}, {"y": base[:, None]}).argmax_agreement is None


def test_what_is_not_a_number_is_an_error_not_a_figure():
    base = {"y": np.array([[1.0, 2.0]])}
    with pytest.raises(ToolError, match="NaN or infinite"):
        compare({"y": np.array([[1.0, np.nan]])}, base)
    with pytest.raises(ToolError, match="NaN or infinite"):
        compare({"y": np.array([[1.0, np.inf]])}, base)
    with pytest.raises(ToolError, match="lacks the outputs"):
        compare({}, base)
    with pytest.raises(ToolError, match="shape"):
        compare({"y": np.ones((1, 3))}, base)
    masked = {"y": np.array([[1.0, -np.inf]])}
    assert compare({"y": np.array([[1.0, -np.inf]])}, masked).max_abs_error == 0.0


# --- batches and engines


def test_a_fixed_batch_is_fed_whole_and_the_filling_dropped():
    signature = Signature((TensorSpec("x", (4, 1), "float32", "x"),), (TensorSpec("y", (4, 1), "float32", "y"),))
    sizes = []

    def run(feeds):
        sizes.append(feeds[0].shape)
        return [feeds[0] * 2]

    x = np.arange(10, dtype=np.float32).reshape(10, 1)
    (y,) = check._in_batches(run, signature, [x])
    assert sizes == [(4, 1)] * 3
    assert np.array_equal(y, x * 2)


def doubler(batch) -> onnx.ModelProto:
    model = models.graph([("Mul", ["x", "two"], ["y"], {})], {"x": (None, 3)}, {"y": (None, 3)}, {"two": np.float32(2)})
    if batch:
        for info in (*model.graph.input, *model.graph.output):
            info.type.tensor_type.shape.dim[0].dim_value = batch
    return model


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_onnx_runs_in_its_own_batch(tmp_path, batch):
    source = models.source(tmp_path / "source", doubler(None))
    onnx.save(doubler(batch), tmp_path / "model.onnx")
    signature = Signature(
        (TensorSpec("x", (batch, 3), "float32", "x"),), (TensorSpec("y", (batch, 3), "float32", "y"),)
    )
    found = agreement(tmp_path / "model.onnx", "onnx", signature, source)
    assert (found.rows, found.max_abs_error, found.argmax_agreement) == (24, 0.0, 1.0)


def test_openvino_runs_with_inputs_in_its_own_order(tmp_path):
    import openvino as ov
    from openvino import opset13 as ops

    b, a = ops.parameter([-1, 2], np.float32, "b"), ops.parameter([-1, 2], np.float32, "a")
    difference = ops.subtract(a, b)
    difference.output(0).set_names({"difference"})
    for node, name in ((a, "a"), (b, "b")):
        node.output(0).set_names({name})
    ov.save_model(ov.Model([difference], [b, a]), tmp_path / "model.xml", compress_to_fp16=False)
    pair = tuple(TensorSpec(name, (None, 2), "float32", name) for name in ("b", "a"))
    signature = Signature(pair, (TensorSpec("difference", (None, 2), "float32", "difference"),))
    rows = {"a": np.full((3, 2), 5, np.float32), "b": np.full((3, 2), 1.25, np.float32)}
    found = run_artifact(tmp_path / "model.xml", "openvino", signature, rows)
    assert (found["difference"] == 3.75).all()


@pytest.mark.parametrize(("fmt", "name"), [("onnx", "m.onnx"), ("openvino", "m.xml"), ("tflite", "m.tflite")])
def test_garbage_is_one_line_of_the_engines_words(tmp_path, fmt, name):
    (tmp_path / name).write_bytes(b"not a model" * 10)
    signature = Signature((TensorSpec("x", (None, 3), "float32", "x"),), ())
    with pytest.raises(ToolError, match=f"the {fmt} artifact does not run") as caught:
        run_artifact(tmp_path / name, fmt, signature, {"x": np.zeros((1, 3), np.float32)})
    assert "\n" not in str(caught.value)
