"""Cuts a .tflite file after some of its operators, so that an engine without a profiler can be timed piece by piece.

A .tflite file is a flatbuffer: tables whose fields are found through offsets, vectors that begin with their length. Operators stand
in the order of their execution. A cut shortens the vector of operators in place and points the graph's outputs at a new
vector, written behind the file, of the tensors that the removed operators would have read. Standard library only, so that a
device needs no flatbuffers package. Field numbers are those of TFLite's public schema.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_MODEL_SUBGRAPHS, _MODEL_SIGNATURES = 2, 7
_GRAPH_OUTPUTS, _GRAPH_OPERATORS = 2, 3
_OPERATOR_INPUTS, _OPERATOR_OUTPUTS = 1, 2


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Reads tables and vectors. Raises ValueError outside the file."""

    data: bytes

    def u32(self, place: int) -> int:
        return self._unpack("<I", place)

    def _unpack(self, kind: str, place: int) -> int:
        try:
            return int(struct.unpack_from(kind, self.data, place)[0])
        except struct.error as error:
            raise ValueError("not a whole .tflite file") from error

    def field(self, table: int, number: int) -> int | None:
        """Where a table's field stands; None when it has its default."""
        vtable = table - self._unpack("<i", table)
        if 4 + 2 * number >= self._unpack("<H", vtable):
            return None
        offset = self._unpack("<H", vtable + 4 + 2 * number)
        return table + offset if offset else None

    def vector(self, table: int, number: int) -> int | None:
        """Where a vector (its length) stands that a table's field points at."""
        place = self.field(table, number)
        return None if place is None else place + self.u32(place)

    def tables(self, vector: int) -> list[int]:
        """Where the tables of a vector stand."""
        places = [vector + 4 + 4 * index for index in range(self.u32(vector))]
        return [place + self.u32(place) for place in places]

    def integers(self, table: int, number: int) -> list[int]:
        """A field that is a vector of int32; [] when it has its default."""
        vector = self.vector(table, number)
        if vector is None:
            return []
        return [self._unpack("<i", vector + 4 + 4 * index) for index in range(self.u32(vector))]


class Cutter:
    """The main graph of a .tflite file, ready to be cut. Raises ValueError for what is no such file, or has no operators."""

    def __init__(self, data: bytes) -> None:
        self._buffer = buffer = _Buffer(data)
        self._model = buffer.u32(0)
        graphs = buffer.vector(self._model, _MODEL_SUBGRAPHS)
        if data[4:8] != b"TFL3" or graphs is None or not buffer.u32(graphs):
            raise ValueError("not a .tflite file")
        self._graph = buffer.tables(graphs)[0]
        operators = buffer.vector(self._graph, _GRAPH_OPERATORS)
        outputs = buffer.field(self._graph, _GRAPH_OUTPUTS)
        if operators is None or outputs is None:
            raise ValueError("the .tflite file's main graph has no operators or no outputs")
        self._operators, self._outputs_field = operators, outputs
        tables = buffer.tables(operators)
        self._reads = [set(buffer.integers(table, _OPERATOR_INPUTS)) - {-1} for table in tables]
        self._writes = [buffer.integers(table, _OPERATOR_OUTPUTS) for table in tables]
        self._outputs = set(buffer.integers(self._graph, _GRAPH_OUTPUTS))

    @property
    def operators(self) -> int:
        """How many operators the main graph has."""
        return len(self._writes)

    def after(self, count: int) -> bytes:
        """The file cut after its first `count` operators. What is still needed then are its outputs."""
        needed = self._outputs.union(*self._reads[count:])
        kept = [tensor for written in self._writes[:count] for tensor in written if tensor in needed]
        data = bytearray(self._buffer.data)
        struct.pack_into("<I", data, self._operators, count)
        data += bytes(-len(data) % 4)
        struct.pack_into("<I", data, self._outputs_field, len(data) - self._outputs_field)
        data += struct.pack(f"<I{len(kept)}i", len(kept), *kept)
        signatures = self._buffer.vector(self._model, _MODEL_SIGNATURES)
        if signatures is not None:
            struct.pack_into("<I", data, signatures, 0)  # they name the whole model's outputs
        return bytes(data)
