"""Writes the kernels of an OpenVINO model with the scales that they were trained for.

Used by `converters.export.openvino` in place of NNCF. OpenVINO's TensorFlow front end makes FakeQuantize of the trained ranges of
activations; here each constant kernel becomes int8 × scale, the form from which the CPU plugin makes integer kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.errors import ToolError
from converters.export.trained import Trained

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


def with_trained_scales(model: Any, trained: Trained) -> int:
    """Change the kernels of an `ov.Model` in place; returns how many have their trained scales. Raises ToolError when one that was
    trained is not found."""
    from openvino import opset13 as ops

    found: set[str] = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _WEIGHTED:
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or constant.get_element_type().get_type_name() != "f32":
            continue
        values = np.array(constant.data)
        kernel = trained.find(values)
        if kernel is None:
            continue
        found.add(kernel.name)
        axis = _channel_axis(node)
        if node.get_type_name() == "GroupConvolution" and values.shape[1] > 1:
            # [groups, multiplier, …]: channels of both axes have scales of their own.
            scales = (
                kernel.scales.reshape(*values.shape[:2], *[1] * (values.ndim - 2)) if kernel.scales.size > 1 else None
            )
            scales = kernel.along(0, values.ndim) if scales is None else scales
        else:
            scales = kernel.along(axis, values.ndim)
        integers = np.round(values / scales).astype(np.int8)
        if np.abs(integers * scales - values).max(initial=0) > np.abs(scales).max() * 1e-3:
            raise ToolError(f"the exported kernel of {kernel.name} does not lie on the grid it was trained for")
        stored = ops.convert(ops.constant(integers, dtype=np.int8), "f32")
        scaled = ops.multiply(stored, ops.constant(scales.astype(np.float32)))
        node.input(1).replace_source_output(scaled.output(0))
    missing = [kernel.name for kernel in trained.kernels if kernel.name not in found]
    if missing:
        raise ToolError(f"the converted graph has no constant kernel of {missing[0]}, which was trained for integers")
    model.validate_nodes_and_infer_types()
    return len(found)


def _channel_axis(node: Any) -> int:
    """Where the output channels of a kernel lie."""
    if node.get_type_name() != "MatMul":
        return 0
    return 0 if node.get_attributes()["transpose_b"] else 1
