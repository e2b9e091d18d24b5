"""Writes the kernels of an OpenVINO model with the scales that they were trained for.

Used by `converters.export.openvino` in place of NNCF. OpenVINO's TensorFlow front end makes FakeQuantize of the trained ranges of
activations; here each constant kernel becomes int8 × scale (stored in fewer bits where that is wanted), the form from which the CPU plugin makes
integer kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.compress.grids import top_of
from converters.errors import ToolError
from converters.export.trained import EIGHT, Array, Trained

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
# Widths of the integers that kernels are stored in, and OpenVINO's names of them; 16 bits are computed in float.
WIDTHS = (2, 3, 4, 6, 8, 16)
WIDTHS_WHY = "OpenVINO has integers of 2, 3, 4, 6, 8 and 16 bits"
_KINDS = {2: "u2", 3: "u3", 4: "i4", 6: "u6"}


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
        stored = _stored(kernel.counted(values, scales), kernel.container(WIDTHS))
        scaled = ops.multiply(stored, ops.constant(scales.astype(np.float32)))
        node.input(1).replace_source_output(scaled.output(0))
    missing = [kernel.name for kernel in trained.kernels if kernel.name not in found]
    if missing:
        raise ToolError(f"the converted graph has no constant kernel of {missing[0]}, which was trained for integers")
    model.validate_nodes_and_infer_types()
    return len(found)


def _stored(integers: Array, bits: int) -> Any:
    """A kernel's integers as a constant of so many bits, and then float32.

    OpenVINO's CPU plugin (2026.4) computes in float where it meets a constant of 4 or 2 bits; with a conversion to int8 in between,
    which is carried out once, when the model is compiled, it computes in integers.
    """
    import openvino as ov
    from openvino import opset13 as ops

    if bits >= EIGHT:
        return ops.convert(ops.constant(integers, dtype=integers.dtype.type), "f32")
    kind = _KINDS[bits]
    # Unsigned ones count from the least: OpenVINO has no signed integers of these widths but 4.
    zero = 0 if kind.startswith("i") else top_of(bits)
    if np.abs(integers).max(initial=0) > top_of(bits):
        raise ToolError(f"a kernel of more than {bits} bits does not fit into them")
    values = (integers.astype(np.int64) + zero).ravel().tolist()
    constant = ov.op.Constant(getattr(ov.Type, kind), ov.Shape(list(integers.shape)), values)
    whole = ops.convert(constant, "i8")
    return ops.convert(ops.subtract(whole, ops.constant(np.int8(zero))) if zero else whole, "f32")


def _channel_axis(node: Any) -> int:
    """Where the output channels of a kernel lie."""
    if node.get_type_name() != "MatMul":
        return 0
    return 0 if node.get_attributes()["transpose_b"] else 1
