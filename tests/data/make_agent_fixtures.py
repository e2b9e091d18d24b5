"""Makes the tiny artifacts that the agent's unit tests load, so that those need no converter.

    python tests/data/make_agent_fixtures.py

One net in all formats, with the same seeded weights: conv 3x3 (1 → 4 channels, "same") · ReLU · dense to 3, on an 8x8 image.
TFLite takes NHWC, ONNX and OpenVINO NCHW; the dense layer's weights are in NHWC order, so ONNX transposes before it.
"""

import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SIZE, CHANNELS, CLASSES = 8, 4, 3
rng = np.random.default_rng(7)
KERNEL = (rng.normal(size=(3, 3, 1, CHANNELS)) * 0.4).astype(np.float32)  # HWIO
DENSE = (rng.normal(size=(SIZE * SIZE * CHANNELS, CLASSES)) * 0.1).astype(np.float32)
CALIBRATION = [rng.random((1, SIZE, SIZE, 1)).astype(np.float32) for _ in range(16)]


def tflite() -> None:
    import tensorflow as tf

    def convert(name, dense=DENSE, **settings):
        @tf.function(input_signature=[tf.TensorSpec((1, SIZE, SIZE, 1), tf.float32, name="image")])
        def net(image):
            hidden = tf.nn.relu(tf.nn.conv2d(image, KERNEL, strides=1, padding="SAME"))
            return tf.matmul(tf.reshape(hidden, (1, -1)), dense)

        converter = tf.lite.TFLiteConverter.from_concrete_functions([net.get_concrete_function()])
        for key, value in settings.items():
            setattr(converter, key, value)
        (HERE / name).write_bytes(converter.convert())

    def representative():
        yield from ([image] for image in CALIBRATION)

    convert("tiny_fp32.tflite")
    optimize = [tf.lite.Optimize.DEFAULT]
    convert("tiny_fp16.tflite", optimizations=optimize, target_spec=tf.lite.TargetSpec(supported_types=[tf.float16]))
    convert(
        "tiny_int8.tflite",
        optimizations=optimize,
        representative_dataset=representative,
        inference_input_type=tf.int8,
        inference_output_type=tf.int8,
    )
    # A dynamic conversion leaves weights of less than 1,024 elements as they are: 6 classes make the product int8.
    convert("tiny_dynamic.tflite", np.concatenate([DENSE, DENSE], axis=1), optimizations=optimize)


def onnx_model(batch):
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("Gemm", ["f", "dense"], ["scores"]),
    ]
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(KERNEL.transpose(3, 2, 0, 1)), "kernel"),
        numpy_helper.from_array(DENSE, "dense"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, SIZE, SIZE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])
    graph = helper.make_graph(nodes, "tiny", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def two_inputs():
    """Token ids (int64, free length) and a mask (bool) → mean of the embeddings, and the sum of the mask."""
    from onnx import TensorProto, helper, numpy_helper

    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("ReduceMean", ["e", "axis"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["m", "axis"], ["kept"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", "length"]),
    ]
    outputs = [
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["batch"]),
    ]
    weights = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1], np.int64), "axis")]
    graph = helper.make_graph(nodes, "two", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def onnx_and_openvino() -> None:
    import onnx
    import openvino
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rows = iter(CALIBRATION)

        def get_next(self):
            row = next(self.rows, None)
            return None if row is None else {"image": row.transpose(0, 3, 1, 2)}

    onnx.save(onnx_model("batch"), HERE / "tiny.onnx")
    onnx.save(two_inputs(), HERE / "two_inputs.onnx")
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / "fixed.onnx"
        onnx.save(onnx_model("batch"), fixed)
        quantize_static(
            fixed,
            HERE / "tiny_qdq.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantize_dynamic(fixed, HERE / "tiny_dynamic.onnx")
    openvino.save_model(openvino.convert_model(HERE / "tiny.onnx"), HERE / "tiny_ov.xml", compress_to_fp16=False)
    openvino.save_model(
        openvino.convert_model(HERE / "tiny_qdq.onnx"), HERE / "tiny_ov_int8.xml", compress_to_fp16=False
    )


if __name__ == "__main__":
    onnx_and_openvino()
    tflite()
