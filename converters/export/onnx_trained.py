"""Completes the QDQ graph of a model that was trained with rounding: its own scales on kernels, biases and what passes integers on.

Used by `converters.export.onnx` in place of ONNX Runtime's quantizer. The exported graph already holds a pair of QuantizeLinear and
DequantizeLinear for each trained range of an activation; kernels are still float32 constants on their grid. ONNX Runtime
computes an operator in integers only when pairs stand on all its inputs and its output, so the pairs go on behind operators
that pass integers on.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from converters.errors import ToolError
from converters.export.onnx_rewrites import share_equal_constants
from converters.export.trained import EIGHT, Array, Trained, packed_bytes

# Give values of their input and nothing else, so that its scale is theirs.
_PASSING = frozenset(
    {
        *("MaxPool", "GlobalMaxPool", "ReduceMax", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat"),
        *("Slice", "Split", "Pad", "Identity"),
    }
)
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_MIDDLE = 128  # between uint8's zero point and int8's
# Widths of integers that kernels are stored in; int16 has no integer kernel but a form.
WIDTHS = (2, 4, 8, 16)
WIDTHS_WHY = "ONNX has integers of 2, 4, 8 and 16 bits"
_INT8 = 3  # onnx.TensorProto.INT8
# Since which version of ONNX's operators Cast knows integers of so many bits, and DequantizeLinear 16; and the file's own version then.
_OPSETS = {2: 25, 4: 21, 16: 21}
_IR_VERSIONS = {21: 10, 25: 13}
Pair = tuple[str, str]  # names of scale and zero point


class _Editor:
    """The graph, who makes and who reads each tensor, and its constants; changes go to the graph at once."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.outputs = {info.name for info in self.graph.output}
        self._count = 0
        self.look()

    def look(self) -> None:
        """Who makes and who reads what, anew."""
        self.maker = {name: node for node in self.graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)

    def value(self, name: str) -> Array | None:
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def constant(self, values: Array, bits: int | None = None) -> str:
        """A new constant; its name. `bits`: 4 or 2, for integers that are to be stored in so few."""
        from onnx import TensorProto, numpy_helper

        self._count += 1
        if bits is None:
            tensor = numpy_helper.from_array(np.array(values, order="C"), f"q{self._count}")
        else:
            tensor = TensorProto(name=f"q{self._count}", dims=values.shape, raw_data=packed_bytes(values, bits))
            tensor.data_type = getattr(TensorProto, f"INT{bits}")
        self.graph.initializer.append(tensor)
        self.constants[tensor.name] = tensor
        return str(tensor.name)

    def needs_opset(self, version: int) -> None:
        """Declare at least this version of ONNX's operators."""
        own = next(each for each in self.model.opset_import if each.domain in ("", "ai.onnx"))
        if own.version < version:
            own.version = version
            self.model.ir_version = max(self.model.ir_version, _IR_VERSIONS[version])

    def pair_of(self, name: str) -> Pair | None:
        """Scale and zero point of a tensor that was just dequantized from one scale."""
        node = self.maker.get(name)
        if node is None or node.op_type != _DEQUANTIZE or node.input[0] in self.constants:
            return None
        return node.input[1], node.input[2]

    def insert(self, node: Any, after: Any | None) -> None:
        """Add a node right behind another, or at the front."""
        index = 0 if after is None else list(self.graph.node).index(after) + 1
        self.graph.node.insert(index, node)


def with_trained_scales(model: Any, trained: Trained, *, signed: bool) -> int:
    """Complete `model` (an onnx.ModelProto, changed in place); returns how many kernels have their trained scales.

    `signed`: activations as int8, else uint8. Raises ToolError when a kernel that was trained is not found.
    """
    editor = _Editor(model)
    if signed:
        _sign(editor)
    _pass_on(editor)
    found = _kernels(editor, trained)
    missing = [kernel.name for kernel in trained.kernels if kernel.name not in found]
    if missing:
        raise ToolError(f"the exported graph has no constant kernel of {missing[0]}, which was trained for integers")
    del model.graph.value_info[:]  # dtypes and names have changed
    share_equal_constants(model)
    return len(found)


def _sign(editor: _Editor) -> None:
    """Zero points of activations from uint8 to int8: the same levels, counted from −128."""
    changed: dict[str, str] = {}
    for node in editor.graph.node:
        if node.op_type not in (_QUANTIZE, _DEQUANTIZE) or len(node.input) < 3:  # noqa: PLR2004
            continue
        zero = editor.value(node.input[2])
        if zero is not None and zero.dtype == np.uint8:
            name = node.input[2]
            if name not in changed:
                changed[name] = editor.constant((zero.astype(np.int16) - _MIDDLE).astype(np.int8))
            node.input[2] = changed[name]
    editor.look()


def _pass_on(editor: _Editor) -> None:
    """A pair of the input's scale behind each operator that passes integers on."""
    from onnx import helper

    for node in list(editor.graph.node):
        if node.op_type not in _PASSING:
            continue
        data = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        pairs = [editor.pair_of(name) for name in data]
        if pairs[0] is None or any(not _equal(editor, pairs[0], pair) for pair in pairs):
            continue
        for name in list(node.output):
            readers = editor.readers[name]
            if name in editor.outputs or not readers or all(reader.op_type == _QUANTIZE for reader in readers):
                continue
            integers, real = f"{name}_q", f"{name}_dq"
            quantize = helper.make_node(_QUANTIZE, [name, *pairs[0]], [integers], name=integers)
            dequantize = helper.make_node(_DEQUANTIZE, [integers, *pairs[0]], [real], name=real)
            editor.insert(quantize, node)
            editor.insert(dequantize, quantize)
            for reader in readers:
                reader.input[:] = [real if given == name else given for given in reader.input]
            editor.look()


def _equal(editor: _Editor, one: Pair, other: Pair | None) -> bool:
    if other is None:
        return False
    return all(
        (a := editor.value(x)) is not None and (b := editor.value(y)) is not None and np.array_equal(a, b)
        for x, y in zip(one, other, strict=True)
    )


def _kernels(editor: _Editor, trained: Trained) -> set[str]:
    """Constant kernels as int8 with their trained scales, and the biases that go with them as int32; names of those found."""
    found: set[str] = set()
    for node in list(editor.graph.node):
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        values = editor.value(node.input[1])
        kernel = None if values is None or values.dtype != np.float32 else trained.find(values)
        if values is None or kernel is None:
            continue
        found.add(kernel.name)
        axis = _channel_axis(node)
        integers = kernel.integers(values, axis)
        zeros = np.zeros(kernel.scales.shape, integers.dtype)
        one = kernel.scales.size == 1
        names = [
            _stored(editor, integers, kernel.container(WIDTHS), node),
            *(editor.constant(each) for each in ((kernel.scales[0], zeros[0]) if one else (kernel.scales, zeros))),
        ]
        node.input[1] = _dequantized(editor, names, node, None if one else axis)
        pair = editor.pair_of(node.input[0])
        if pair is not None and len(node.input) > 2 and node.input[2]:  # noqa: PLR2004
            _bias(editor, node, kernel.scales, pair)
    editor.look()
    return found


def _stored(editor: _Editor, integers: Array, bits: int, node: Any) -> str:
    """A kernel's integers as a constant of so many bits; its name, or that of its int8 form.

    ONNX Runtime (1.31) has integer kernels for int8 weights only: with a DequantizeLinear of int4 it computes in float, and fails on
    one of int2. A Cast to int8 in between is carried out once, when the file is loaded.
    """
    from onnx import helper

    if bits > EIGHT:
        editor.needs_opset(_OPSETS[bits])
    if bits >= EIGHT:
        return editor.constant(integers)
    name = editor.constant(integers, bits)
    widened = f"{name}_int8"
    made = helper.make_node("Cast", [name], [widened], name=widened, to=_INT8)
    editor.graph.node.insert(list(editor.graph.node).index(node), made)
    editor.needs_opset(_OPSETS[bits])
    return widened


def _channel_axis(node: Any) -> int:
    """Where the output channels of a kernel lie."""
    if node.op_type == "Conv":
        return 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else 1


def _dequantized(editor: _Editor, names: list[str], node: Any, axis: int | None) -> str:
    from onnx import helper

    output = f"{names[0]}_dq"
    options = {} if axis is None else {"axis": axis}
    made = helper.make_node(_DEQUANTIZE, names, [output], name=output, **options)
    editor.graph.node.insert(list(editor.graph.node).index(node), made)
    return output


def _bias(editor: _Editor, node: Any, scales: Array, pair: Pair) -> None:
    """int32 in steps of input scale × kernel scale, as integer kernels add it."""
    values, of_input = editor.value(node.input[2]), editor.value(pair[0])
    beta = next((attribute.f for attribute in node.attribute if attribute.name == "beta"), 1.0)
    if values is None or of_input is None or values.ndim != 1 or beta != 1.0:
        return
    steps = (of_input.astype(np.float64) * scales.astype(np.float64)).astype(np.float32)
    limit = np.iinfo(np.int32).max
    counts = np.clip(np.round(values / steps), -limit, limit).astype(np.int32)
    if steps.size == 1:
        names = [editor.constant(each) for each in (counts, steps[0], np.zeros((), np.int32))]
        node.input[2] = _dequantized(editor, names, node, None)
        return
    names = [editor.constant(each) for each in (counts, steps, np.zeros(steps.shape, np.int32))]
    node.input[2] = _dequantized(editor, names, node, 0)
