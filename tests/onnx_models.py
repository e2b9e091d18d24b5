"""Small ONNX graphs and the sources around them, for tests of the ONNX toolchain without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from converters.export.base import CALIBRATION, CHECK, Source
from converters.variant import TensorSpec

FLOATS = {"x": TensorProto.FLOAT}
NHWC_TO_NCHW, NCHW_TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def graph(nodes, inputs, outputs, constants, opset=18):
    """A model from (op, inputs, outputs, attributes) tuples, {name: shape} dicts (None free) and named arrays."""
    made = [
        helper.make_node(op, list(ins), list(outs), name=f"a/very/long/path/{i}/{op}", **attributes)
        for i, (op, ins, outs, attributes) in enumerate(nodes)
    ]

    def infos(shapes):
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"free_{name}" if d is None else d for d in shape])
            for name, shape in shapes.items()
        ]

    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(made, "g", infos(inputs), infos(outputs), tensors),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    return model


def random(*shape, seed=0, scale=0.5):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def channels_last_cnn():
    """What an exporter makes of conv, relu, conv, flatten, dense in NHWC: Transposes around every convolution."""
    return graph(
        [
            ("Transpose", ["x"], ["a"], {"perm": NHWC_TO_NCHW}),
            ("Conv", ["a", "w1", "b1"], ["b"], {"pads": [1, 1, 1, 1]}),
            ("Transpose", ["b"], ["c"], {"perm": NCHW_TO_NHWC}),
            ("Relu", ["c"], ["d"], {}),
            ("Transpose", ["d"], ["e"], {"perm": NHWC_TO_NCHW}),
            ("Conv", ["e", "w2"], ["f"], {"strides": [2, 2]}),
            ("Transpose", ["f"], ["g"], {"perm": NCHW_TO_NHWC}),
            ("Reshape", ["g", "flat"], ["h"], {}),
            ("MatMul", ["h", "w3"], ["i"], {}),
            ("Add", ["i", "b3"], ["logits"], {}),
        ],
        {"x": (None, 8, 6, 3)},
        {"logits": (None, 5)},
        {
            "w1": random(4, 3, 3, 3, seed=1),
            "b1": random(4, seed=2),
            "w2": random(6, 4, 2, 2, seed=3),
            "flat": np.array([-1, 4 * 3 * 6], np.int64),
            "w3": random(72, 5, seed=4),
            "b3": random(5, seed=5),
        },
    )


def segmenter():
    """Convolutions only, with an NHWC output: nothing for MatMul-only precisions to work on."""
    return graph(
        [
            ("Transpose", ["x"], ["a"], {"perm": NHWC_TO_NCHW}),
            ("Conv", ["a", "w1"], ["b"], {"pads": [1, 1, 1, 1]}),
            ("Relu", ["b"], ["c"], {}),
            ("Conv", ["c", "w2"], ["d"], {}),
            ("Transpose", ["d"], ["mask"], {"perm": NCHW_TO_NHWC}),
        ],
        {"x": (None, 8, 8, 3)},
        {"mask": (None, 8, 8, 2)},
        {"w1": random(4, 3, 3, 3, seed=1), "w2": random(2, 4, 1, 1, seed=2)},
    )


def run(model, feeds):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def source(folder: Path, model, *, rows=24, nchw_inputs=(), labels=None) -> Source:
    """A Source whose base is the ONNX graph itself: check rows and calibration rows are random.

    With `nchw_inputs`, the base's input is NHWC and the graph takes it as NCHW.
    """
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    feeds, inputs = {}, []
    for index, info in enumerate(model.graph.input):
        dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
        feeds[info.name] = random(rows, *dims[1:], seed=100 + index, scale=1.0)
        shape = [dims[i] for i in NCHW_TO_NHWC] if info.name in nchw_inputs else dims
        layout = "NHWC" if len(dims) == 4 else None
        inputs.append(TensorSpec(info.name, (None, *shape[1:]), "float32", info.name, layout))
    outputs = run(model, feeds)
    own = {k: x.transpose(NCHW_TO_NHWC) if k in nchw_inputs else x for k, x in feeds.items()}
    arrays = {f"in:{name}": x for name, x in own.items()}
    np.savez(folder / CHECK, **arrays, **{f"out:{name}": y for name, y in outputs.items()})
    np.savez(folder / CALIBRATION, **arrays, **({} if labels is None else {"labels": labels}))
    specs = tuple(TensorSpec(name, (None, *y.shape[1:]), "float32", name) for name, y in outputs.items())
    made = Source(folder, "tiny", "0" * 64, 1, tuple(inputs), specs, nchw_inputs=tuple(nchw_inputs))
    made.save()
    return made
