"""What operators an ONNX graph has and which precision they compute in, read from the file without the onnx package.

ONNX Runtime does not tell what it runs, but can write out the graph after its optimizations (fused, quantized, cast). A device
has no onnx package, so this reads the few protobuf fields that matter: nodes, the types of weights, the attribute
of 4-bit products. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

# Field numbers of ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto and TypeProto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_VALUES = 1, 5, (11, 12, 13)
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 1, 3, 6, 11
_TENSOR_TYPE, _TENSOR_NAME = 2, 8
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT = 1, 2, 1, 1

_FLOATS = {1: "f32", 10: "f16", 11: "f64", 16: "bf16"}
_FLOAT_OPERATORS = frozenset(
    {"Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv"}
    | {"Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Einsum"}
    | {"LSTM", "GRU", "RNN", "Attention", "MultiHeadAttention"}
)
_STATIC = frozenset({"QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm", "QAttention"})
_DYNAMIC = frozenset(
    {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
)
_ACCURACY_LEVELS = {1: "f32", 2: "f16", 3: "bf16", 4: "int8-dynamic"}


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a varint has no high bit
            return value, place
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of one protobuf message: number and value. Raises ValueError when it is damaged."""
    place = 0
    try:
        while place < len(data):
            key, place = _varint(data, place)
            number, wire = key >> 3, key & 7
            if wire == 0:
                integer, place = _varint(data, place)
                yield number, integer
                continue
            if wire == 2:  # noqa: PLR2004 - protobuf's wire types: 2 is length-delimited, 1 and 5 are fixed
                size, place = _varint(data, place)
            else:
                size = {1: 8, 5: 4}[wire]
            if place + size > len(data):
                raise ValueError("not a whole protobuf message")
            yield number, data[place : place + size]
            place += size
    except (IndexError, KeyError) as error:
        raise ValueError("not a protobuf message") from error


def _text(value: memoryview | int) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else str(value)


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    for found, value in _fields(data):
        if found == number and isinstance(value, memoryview):
            yield value


def _element_type(value: memoryview) -> tuple[str, int]:
    """Name and element type of a ValueInfoProto."""
    name, element = "", 0
    for number, part in _fields(value):
        if number == _VALUE_NAME:
            name = _text(part)
        elif number == _VALUE_TYPE and isinstance(part, memoryview):
            for tensor in _messages(part, _TYPE_TENSOR):
                element = next((v for n, v in _fields(tensor) if n == _TENSOR_ELEMENT and isinstance(v, int)), 0)
    return name, element


def _initializer(value: memoryview) -> tuple[str, int]:
    """Name and element type of a TensorProto."""
    name, element = "", 0
    for number, part in _fields(value):
        if number == _TENSOR_NAME:
            name = _text(part)
        elif number == _TENSOR_TYPE and isinstance(part, int):
            element = part
    return name, element


class _Node:
    """What matters of a NodeProto."""

    def __init__(self, data: memoryview) -> None:
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.name = ""
        self.op = ""
        self.integers: dict[str, int] = {}
        self.subgraphs: list[memoryview] = []
        for number, value in _fields(data):
            if number == _NODE_INPUT:
                self.inputs.append(_text(value))
            elif number == _NODE_OUTPUT:
                self.outputs.append(_text(value))
            elif number == _NODE_NAME:
                self.name = _text(value)
            elif number == _NODE_OP:
                self.op = _text(value)
            elif number == _NODE_ATTRIBUTE and isinstance(value, memoryview):
                self._attribute(value)

    def _attribute(self, data: memoryview) -> None:
        name = ""
        for number, value in _fields(data):
            if number == _ATTRIBUTE_NAME:
                name = _text(value)
            elif number == _ATTRIBUTE_INT and isinstance(value, int):
                self.integers[name] = value
            elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and isinstance(value, memoryview):
                self.subgraphs.append(value)


def _precision(node: _Node, types: dict[str, int]) -> str | None:
    """The precision of a compute operator; None for any other operator."""
    if node.op in _STATIC:
        return "int8"
    if node.op in _DYNAMIC:
        return "int8-dynamic"
    if node.op == "MatMulNBits":  # weights are unpacked block by block; the level says what the product runs in
        return _ACCURACY_LEVELS.get(node.integers.get("accuracy_level", 0), "f32")
    if node.op not in _FLOAT_OPERATORS:
        return None
    kinds = [_FLOATS[types[name]] for name in node.inputs if types.get(name) in _FLOATS]
    # Weights are initializers, so nearly always known. A product of two activations has the type of what made them.
    return kinds[0] if kinds else "f32"


def _count(graph: memoryview, outer: dict[str, int], found: Counter[str]) -> None:
    types = dict(outer)
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number in _GRAPH_VALUES:
            types.update([_element_type(value)])
        elif number == _GRAPH_INITIALIZER:
            types.update([_initializer(value)])
    for data in _messages(graph, _GRAPH_NODE):
        node = _Node(data)
        precision = _precision(node, types)
        if precision is not None:
            found[precision] += 1
        for subgraph in node.subgraphs:
            _count(subgraph, types, found)


def compute_precisions(model: bytes) -> Counter[str]:
    """Compute operators of an ONNX file (ModelProto) by precision, those of subgraphs included.

    Raises ValueError when the bytes are no protobuf message.
    """
    found: Counter[str] = Counter()
    for graph in _messages(memoryview(model), _MODEL_GRAPH):
        _count(graph, {}, found)
    return found


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node of the main graph: its name, operator, and the names of its tensors (constants among the inputs too)."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def graph_nodes(model: bytes) -> list[GraphNode]:
    """The nodes of an ONNX file's (ModelProto) main graph, in their order; those of subgraphs are left out.

    Raises ValueError when the bytes are no protobuf message.
    """
    found = []
    for graph in _messages(memoryview(model), _MODEL_GRAPH):
        for data in _messages(graph, _GRAPH_NODE):
            node = _Node(data)
            named = tuple(name for name in node.inputs if name), tuple(name for name in node.outputs if name)
            found.append(GraphNode(node.name, node.op, *named))
    return found
