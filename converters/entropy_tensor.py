"""How one tensor is written in few bytes, and read back bit for bit: the smallest of several ways, chosen by counting.

Used by `converters.entropy_file`, whose format this is a part of. numpy only. After Han et al., arXiv:1510.00149: where most weights
are zero, the distances between the others are coded (or a map of bits), else all weights; few distinct values become a codebook and
indices; many are cut into planes of bytes, of which those of sign and exponent are worth coding. Distances and values have
Huffman codes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.huffman import BLOCK_SYMBOLS, MAX_ALPHABET, Coded, code_lengths, coded_bits, encode

Array = npt.NDArray[Any]
# Where the values are: all of them, or those whose bits are not all 0, by distances along rows or columns, or by a map of bits.
ALL, GAPS, GAPS_BY_COLUMN, BITMAP = range(4)
# What the values are: their bytes by plane, or indices into a codebook.
PLANES, CODEBOOK = range(2)
BYTES = 256
# A distance of 255 zeros with no value after it: longer distances go on.
ESCAPE = 255
# Above that, sorting and its codebook cost more than they can save.
MAX_CODEBOOK = MAX_ALPHABET // 2


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Symbols in a file: Huffman-coded, or (bytes only) as they are."""

    raw: bytes | None = None
    coded: Coded | None = None

    @property
    def payload(self) -> bytes:
        """The bytes that it takes in the file, its table apart."""
        return self.raw if self.raw is not None else self.coded.payload if self.coded is not None else b""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One tensor as it is written. `positions`, `values`: ways. `count`: values that are stored. `codebook`: their distinct bit
    patterns, ascending, as unsigned integers; empty for PLANES. `where`: the stream of positions, None for ALL. `what`: one stream
    of indices, or one per byte of a value, the lowest byte first."""

    positions: int
    values: int
    count: int
    codebook: Array
    where: Stream | None
    what: tuple[Stream, ...]


def pack(array: Array) -> Packed:
    """The smallest way found to write `array` (of a dtype of 1, 2, 4 or 8 bytes)."""
    bits = np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")
    some = np.flatnonzero(bits)
    all_cost, all_way = _value_cost(bits)
    best, positions, where = all_cost, ALL, None
    if 0 < len(some) < len(bits):
        some_cost, some_way = _value_cost(bits[some])
        for way, symbols in _position_ways(array, bits, some):
            cost = _stream_cost(symbols, BYTES) + some_cost
            if cost < best:
                best, positions, where = cost, way, symbols
    stored, way = (bits, all_way) if positions == ALL else (_ordered(array, positions), some_way)
    codebook, streams = _written(stored, way)
    return Packed(positions, way, len(stored), codebook, None if where is None else _stream(where, BYTES), streams)


def _ordered(array: Array, positions: int) -> Array:
    """The bit patterns that are not 0, in the order in which `positions` names them."""
    flat = array.reshape(-1, order="F" if positions == GAPS_BY_COLUMN else "C")
    bits = np.ascontiguousarray(flat).view(f"u{array.dtype.itemsize}")
    return np.asarray(bits[bits != 0])


def _position_ways(array: Array, bits: Array, some: Array) -> list[tuple[int, Array]]:
    mask = (bits != 0).reshape(array.shape)
    ways = [(GAPS, gaps(some)), (BITMAP, np.packbits(mask))]
    if array.ndim > 1:
        ways.append((GAPS_BY_COLUMN, gaps(np.flatnonzero(mask.reshape(-1, order="F")))))
    return ways


def gaps(positions: Array) -> Array:
    """Ascending positions [n] as zeros skipped before each: uint8 [n + escapes], where 255 skips 255 and ends at no value."""
    zeros = np.diff(positions, prepend=-1) - 1
    escapes = zeros // ESCAPE
    symbols = np.full(len(zeros) + int(escapes.sum()), ESCAPE, np.uint8)
    symbols[np.cumsum(escapes + 1) - 1] = zeros % ESCAPE
    return symbols


def positions_of(symbols: Array, count: int, size: int) -> Array:
    """What `gaps` coded: int64 [count], below `size`. Raises ValueError when it cannot be."""
    ends = np.cumsum(symbols.astype(np.int64) + (symbols != ESCAPE)) - 1
    positions = ends[symbols != ESCAPE]
    if len(positions) != count or (count and (positions[-1] >= size or symbols[-1] == ESCAPE)):
        raise ValueError("the distances do not lead to the values that are there")
    return np.asarray(positions)


def _table_bytes(counts: Array) -> int:
    return (len(counts) + 1) // 2


def _stream_cost(symbols: Array, alphabet: int) -> int:
    """Bytes of a stream with its table; blocks are not counted."""
    counts = np.bincount(symbols, minlength=alphabet)
    counts = counts[: int(counts.nonzero()[0][-1]) + 1]
    coded = coded_bits(counts, code_lengths(counts)) // 8 + _table_bytes(counts)
    return min(coded, len(symbols)) if alphabet <= BYTES else coded


def _value_cost(bits: Array) -> tuple[int, int]:
    """Bytes of these values, and the way to get by with that."""
    if not len(bits):
        return 0, PLANES
    planes = sum(_stream_cost(plane, BYTES) for plane in _planes(bits))
    distinct, index = _codebook(bits)
    if len(distinct) > MAX_CODEBOOK:
        return planes, PLANES
    shared = _stream_cost(index, len(distinct)) + distinct.nbytes
    return (shared, CODEBOOK) if shared < planes else (planes, PLANES)


def _codebook(bits: Array) -> tuple[Array, Array]:
    # Most tensors with too many distinct values tell so in their first ones, without sorting the whole.
    few = np.unique(bits[: 4 * MAX_CODEBOOK])
    if len(few) > MAX_CODEBOOK:
        return few, few
    distinct, index = np.unique(bits, return_inverse=True)
    return distinct, index.reshape(-1)


def _planes(bits: Array) -> list[Array]:
    width = bits.dtype.itemsize
    rows = bits.astype(bits.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1, width)
    return [rows[:, byte] for byte in range(width)]


def _written(bits: Array, way: int) -> tuple[Array, tuple[Stream, ...]]:
    if way == PLANES:
        return np.empty(0, bits.dtype), tuple(_stream(plane, BYTES) for plane in _planes(bits))
    distinct, index = _codebook(bits)
    return distinct, (_stream(index, len(distinct)),)


def _stream(symbols: Array, alphabet: int) -> Stream:
    counts = np.bincount(symbols, minlength=alphabet)
    trimmed = int(counts.nonzero()[0][-1]) + 1 if len(symbols) else 0
    if alphabet <= BYTES:
        lengths = code_lengths(counts[:trimmed])
        blocks = 2 * (-(-len(symbols) // BLOCK_SYMBOLS))
        # Noise, such as the low bytes of floats, is not worth the time to code it.
        if len(symbols) <= coded_bits(counts[:trimmed], lengths) // 8 + (trimmed + 1) // 2 + blocks:
            return Stream(raw=symbols.astype(np.uint8).tobytes())
    return Stream(coded=encode(symbols, trimmed))


def blocks_of(coded: Coded) -> int:
    """How many blocks a stream has to have, by its count and code."""
    return -(-coded.count // BLOCK_SYMBOLS) if np.count_nonzero(coded.lengths) > 1 else 0


def unpack(packed: Packed, where: Array | None, what: Sequence[Array], shape: tuple[int, ...], dtype: Any) -> Array:
    """The array, from the decoded symbols of its streams. Raises ValueError when they do not fit together."""
    size = int(np.prod(shape, dtype=np.int64))
    bits = _values(packed, what, np.dtype(f"u{dtype.itemsize}"))
    if dtype == np.bool_ and bits.size and bits.max() > 1:
        raise ValueError("a truth value is neither 0 nor 1")
    if where is None:
        return np.asarray(bits.view(dtype).reshape(shape))
    if packed.positions == BITMAP:
        mask = np.unpackbits(where.astype(np.uint8), count=size).view(bool)
        if int(np.count_nonzero(mask)) != packed.count:
            raise ValueError("the map of bits names another number of values than there are")
        positions = np.flatnonzero(mask)
    else:
        positions = positions_of(where, packed.count, size)
    full = np.zeros(size, bits.dtype)
    full[positions] = bits
    order: Any = "F" if packed.positions == GAPS_BY_COLUMN else "C"
    return np.asarray(np.ascontiguousarray(full.view(dtype).reshape(shape, order=order)).reshape(shape))


def _values(packed: Packed, what: Sequence[Array], unsigned: Any) -> Array:
    if packed.values == PLANES:
        rows = np.stack([plane.astype(np.uint8) for plane in what], axis=-1)
        little = np.ascontiguousarray(rows).view(unsigned.newbyteorder("<")).reshape(-1)
        return np.asarray(little.astype(unsigned))
    (index,) = what
    if len(index) and int(index.max()) >= len(packed.codebook):
        raise ValueError("an index points beyond the codebook")
    return np.asarray(packed.codebook.astype(unsigned)[index])
