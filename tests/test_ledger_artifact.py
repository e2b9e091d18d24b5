"""The ledger of exported files: weights as the file holds them, zero points and packed bits understood, the arena of TFLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.errors import ToolError
from converters.ledger_model import tensors_ledger

SPARSE = np.where(np.random.default_rng(0).random((64, 32)) < 0.25, 0.5, 0).astype(np.float32)


def test_zero_points_stand_for_zero() -> None:
    array = np.uint8([[128, 128, 7], [3, 3, 3]])
    ledger = tensors_ledger({"w": array, "b": np.float32([0, 1])}, {"w": np.uint8([[128], [3]])})
    assert (ledger["parameters"], ledger["non_zeros"], ledger["unique_values"]) == (8, 1 + 1, 3 + 2)
    assert ledger["weights_bytes"] == 6 + 8


@pytest.mark.compression
def test_tflite_files_tell_zeros_and_arena(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    from converters.ledger_artifact import artifact_ledger

    i = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="relu", name="h")(i)
    model = keras.Model(i, keras.layers.Dense(10, name="o")(hidden))
    model.get_layer("h").kernel.assign(SPARSE)
    model.export(
        tmp_path / "saved", "tf_saved_model", verbose=False, input_signature=[keras.InputSpec("float32", (1, 64))]
    )

    def convert(name: str, **settings: Any) -> dict[str, Any]:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
        for key, value in settings.items():
            setattr(converter, key, value)
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(converter.convert())
        return artifact_ledger(path, "tflite")

    weights = SPARSE.size + 32 * 10
    plain = convert("plain")
    # The bias of a layer is zeros here, and the converter drops or keeps it as it likes.
    assert weights <= plain["parameters"] <= weights + 42
    assert plain["non_zeros"] == np.count_nonzero(SPARSE) + 320
    assert plain["arena_missing"] is None
    # Input, hidden and output, each at a multiple of 64 bytes; the last may lie where nothing is needed any more.
    assert 256 + 128 <= plain["arena_bytes"] <= 256 + 128 + 64
    rows = [[row[None]] for row in np.random.default_rng(1).normal(size=(20, 64)).astype(np.float32)]
    int8 = convert(
        "int8",
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: iter(rows),
        target_spec=tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8]),
        inference_input_type=tf.int8,
        inference_output_type=tf.int8,
    )
    assert weights <= int8["parameters"] <= weights + 42
    assert abs(int8["non_zeros"] - plain["non_zeros"]) <= 20
    assert int8["arena_bytes"] < plain["arena_bytes"]
    with pytest.raises(ToolError, match="cannot read"):
        artifact_ledger(tmp_path / "plain.tflite", "coreml")


@pytest.mark.compression
def test_onnx_files_leave_out_scales_and_zero_points(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from converters.ledger_artifact import artifact_ledger

    quantized = np.where(SPARSE > 0, 200, 128).astype(np.uint8)
    tensors = {
        "w": SPARSE.T.copy(),
        "q": quantized,
        "q_scale": np.float32(0.01),
        "q_zero": np.uint8(128),
        "axes": np.int64([0, 1]),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "q_scale", "q_zero"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    ledger = artifact_ledger(tmp_path / "m.onnx", "onnx")
    assert ledger["parameters"] == 2 * SPARSE.size
    assert ledger["non_zeros"] == 2 * np.count_nonzero(SPARSE)
    assert ledger["unique_values"] == 4
    assert ledger["weights_bytes"] == 5 * SPARSE.size
    assert ledger["arena_bytes"] is None
    assert "no arena" in ledger["arena_missing"]


@pytest.mark.compression
def test_openvino_files_unpack_few_bits(tmp_path: Path) -> None:
    import openvino as ov
    from openvino import opset13 as ops

    from converters.ledger_artifact import artifact_ledger

    levels = np.where(SPARSE > 0, 3, 8).astype(np.uint8)
    x = ops.parameter([1, 64], np.float32)
    packed = ov.op.Constant(ov.Type.u4, ov.Shape(list(levels.shape)), levels.reshape(-1).tolist())
    zero = ops.convert(ov.op.Constant(ov.Type.u4, ov.Shape([1]), [8]), "f32")
    wide = ops.multiply(ops.subtract(ops.convert(packed, "f32"), zero), ops.constant(np.float32([0.1])))
    h = ops.matmul(x, wide, transpose_a=False, transpose_b=False)
    y = ops.matmul(h, ops.constant(SPARSE.T.copy()), transpose_a=False, transpose_b=False)
    ov.save_model(ov.Model([y], [x]), tmp_path / "m.xml", compress_to_fp16=False)
    ledger = artifact_ledger(tmp_path / "m.xml", "openvino")
    assert ledger["parameters"] == 2 * SPARSE.size
    assert ledger["non_zeros"] == 2 * np.count_nonzero(SPARSE)
    assert ledger["unique_values"] == 4
