"""A file of tensors in few bytes, read back bit for bit: pruned and shared weights as Han et al., arXiv:1510.00149, store them.

Written by the step `entropy` (`weights.huf`), measured by the ledger. numpy only. `converters.entropy_tensor` chooses a way for each
tensor, `converters.huffman` codes symbols. All integers are little-endian:

    magic 8 bytes · version 1 byte · SHA-256 of all that follows, 32 bytes
    bytes of the directory, plain and compressed, 4 bytes each · directory (zlib) · payloads of all streams, in its order

The directory holds varints (7 bits a byte, the lowest first): the number of tensors, and for each its name, dtype, shape, ways, count
of stored values, codebook and streams; for each stream whether it is coded, and if so its number of symbols, code lengths (4 bits each)
and sizes of blocks. Nothing in a file is trusted: every size is checked against what is there, before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from converters.entropy_tensor import (
    ALL,
    BITMAP,
    BYTES,
    CODEBOOK,
    ESCAPE,
    MAX_CODEBOOK,
    PLANES,
    Array,
    Packed,
    Stream,
    blocks_of,
    pack,
    unpack,
)
from converters.errors import ConversionInputError
from converters.huffman import Coded, decode

MAGIC = b"\x89HUF\r\n\x1a\n"
VERSION = 1
# Most bytes that a file may unfold to unless the caller says otherwise: few bytes can name very many equal values.
LIMIT_BYTES = 1 << 30
MAX_DIRECTORY_BYTES = 64 << 20
MAX_NAME_BYTES = 1024
MAX_RANK = 16
_HEAD = struct.Struct("<8sB32s")
_SIZES = struct.Struct("<II")
_NUMPY_DTYPES = (
    *(
        "float32",
        "float16",
        "float64",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "bool",
    ),
)
# Of the package ml_dtypes, which every toolchain brings along.
_OTHER_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
_DTYPES = (*_NUMPY_DTYPES, *_OTHER_DTYPES)
_VARINT_BYTES = 9


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What became of one tensor: its way in words, its bytes before and in the file (its part of the directory before compression
    included), and how many of its values were stored."""

    name: str
    way: str
    bytes_before: int
    bytes_coded: int
    stored_values: int
    codebook_values: int


def pack_all(arrays: Mapping[str, Array]) -> tuple[bytes, tuple[TensorReport, ...]]:
    """The file's bytes for arrays by name, and a report on each. Raises ConversionInputError for a dtype that has no place in it."""
    directory, payloads, reports = bytearray(), [], []
    _put(directory, len(arrays))
    for name, given in arrays.items():
        if given.dtype.name not in _DTYPES or given.ndim > MAX_RANK or len(name.encode()) > MAX_NAME_BYTES:
            raise ConversionInputError(f"tensor {name}: {given.dtype} of rank {given.ndim} cannot be written")
        array = given.astype(given.dtype.newbyteorder("="), copy=False)
        packed = pack(array)
        begun = len(directory)
        _put_tensor(directory, name, array, packed)
        streams = _streams(packed)
        payloads += [stream.payload for stream in streams]
        size = len(directory) - begun + sum(len(stream.payload) for stream in streams)
        reports.append(TensorReport(name, _way(packed), array.nbytes, size, packed.count, len(packed.codebook)))
    plain = bytes(directory)
    if len(plain) > MAX_DIRECTORY_BYTES:
        raise ConversionInputError(f"{len(arrays)} tensors need a directory of {len(plain)} bytes: too many")
    compressed = zlib.compress(plain, 9)
    body = b"".join([_SIZES.pack(len(plain), len(compressed)), compressed, *payloads])
    return _HEAD.pack(MAGIC, VERSION, hashlib.sha256(body).digest()) + body, tuple(reports)


def coded_size_bytes(arrays: Mapping[str, Array]) -> int:
    """The size of the file that these arrays would make."""
    return len(pack_all(arrays)[0])


def write(path: Path, arrays: Mapping[str, Array]) -> tuple[TensorReport, ...]:
    """Write the file, and report on each tensor. Raises ConversionInputError, OSError."""
    data, reports = pack_all(arrays)
    path.write_bytes(data)
    return reports


def read(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> dict[str, Array]:
    """The arrays of a file, by name, bit for bit as they were written.

    Raises ConversionInputError, in one line, for a file that is no such file, is damaged or hostile, or unfolds to more than
    `limit_bytes`; OSError when it cannot be read.
    """
    try:
        return unpack_all(path.read_bytes(), limit_bytes=limit_bytes)
    except ValueError as error:
        raise ConversionInputError(f"{path}: {error}", remedy="write the file again") from error


def unpack_all(data: bytes, *, limit_bytes: int = LIMIT_BYTES) -> dict[str, Array]:
    """The arrays of a file's bytes. Raises ValueError; see `read`."""
    if len(data) < _HEAD.size + _SIZES.size or data[: len(MAGIC)] != MAGIC:
        raise ValueError("not a file of entropy-coded weights, or its beginning is damaged")
    _, version, digest = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"version {version} of the format is unknown here, which reads version {VERSION}")
    body = memoryview(data)[_HEAD.size :]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("the file is damaged: its SHA-256 is another")
    plain_bytes, coded_bytes = _SIZES.unpack_from(body)
    if plain_bytes > MAX_DIRECTORY_BYTES or coded_bytes > len(body) - _SIZES.size:
        raise ValueError("the directory is larger than it may be")
    end = _SIZES.size + coded_bytes
    reader = _Reader(_inflated(bytes(body[_SIZES.size : end]), plain_bytes), bytes(body[end:]), limit_bytes)
    tensors = reader.tensors()
    streams = [stream for _, _, _, packed in tensors for stream in _streams(packed)]
    symbols = iter(decode([stream.coded for stream in streams if stream.coded is not None]))
    read_streams = [
        next(symbols) if stream.raw is None else np.frombuffer(stream.raw, np.uint8).astype(np.uint16)
        for stream in streams
    ]
    return _assembled(tensors, read_streams)


def _assembled(tensors: list[tuple[str, Any, tuple[int, ...], Packed]], streams: list[Array]) -> dict[str, Array]:
    arrays, left = {}, iter(streams)
    for name, dtype, shape, packed in tensors:
        where = None if packed.where is None else next(left)
        arrays[name] = unpack(packed, where, [next(left) for _ in packed.what], shape, dtype)
    return arrays


def _inflated(data: bytes, size: int) -> bytes:
    try:
        inflater = zlib.decompressobj()
        plain = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"the directory is damaged: {error}") from error
    if len(plain) != size or not inflater.eof or inflater.unused_data:
        raise ValueError("the directory is not as long as it says")
    return plain


def _streams(packed: Packed) -> list[Stream]:
    return [*([] if packed.where is None else [packed.where]), *packed.what]


def _way(packed: Packed) -> str:
    where = ("all weights", "distances", "distances by column", "bitmap")[packed.positions]
    what = "codebook" if packed.values == CODEBOOK else "bytes"
    coded = any(stream.coded is not None for stream in packed.what)
    return f"{where}, {what}{' with Huffman codes' if coded else ''}"


def _put(out: bytearray, number: int) -> None:
    """A varint."""
    while number > 0x7F:  # noqa: PLR2004  seven bits
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _put_tensor(out: bytearray, name: str, array: Array, packed: Packed) -> None:
    text = name.encode()
    _put(out, len(text))
    out += text
    out += bytes([_DTYPES.index(array.dtype.name), array.ndim])
    for side in array.shape:
        _put(out, side)
    out.append(packed.positions | packed.values << 4)
    _put(out, packed.count)
    if packed.values == CODEBOOK:
        _put(out, len(packed.codebook))
        out += packed.codebook.astype(packed.codebook.dtype.newbyteorder("<")).tobytes()
    for stream in _streams(packed):
        _put_stream(out, stream)


def _put_stream(out: bytearray, stream: Stream) -> None:
    coded = stream.coded
    if coded is None:
        out.append(0)
        _put(out, len(stream.raw or b""))
        return
    out.append(1)
    _put(out, coded.count)
    _put(out, len(coded.lengths))
    nibbles = np.append(coded.lengths, [0] * (len(coded.lengths) % 2)).astype(np.uint8)
    out += (nibbles[::2] << 4 | nibbles[1::2]).tobytes()
    out += coded.blocks.astype("<u2").tobytes()


class _Reader:
    """Reads the directory, and takes the payloads in its order. Raises ValueError."""

    def __init__(self, directory: bytes, payload: bytes, limit_bytes: int) -> None:
        self._directory, self._payload, self._limit = directory, payload, limit_bytes
        self._at = self._taken = self._promised = 0

    def tensors(self) -> list[tuple[str, Any, tuple[int, ...], Packed]]:
        """Name, dtype, shape and what stands for it, of each tensor."""
        found: dict[str, tuple[str, Any, tuple[int, ...], Packed]] = {}
        for _ in range(self._number(len(self._directory))):
            tensor = self._tensor()
            if tensor[0] in found:
                raise ValueError(f"tensor {tensor[0]!r} is there twice")
            found[tensor[0]] = tensor
        if self._at != len(self._directory):
            raise ValueError("the directory goes on after its last tensor")
        listed = self._with_payloads(list(found.values()))
        if self._taken != len(self._payload):
            raise ValueError("there are bytes that belong to no tensor")
        return listed

    def _bytes(self, count: int) -> bytes:
        if count > len(self._directory) - self._at:
            raise ValueError("the directory ends too early")
        self._at += count
        return self._directory[self._at - count : self._at]

    def _number(self, most: int) -> int:
        value = 0
        for index in range(_VARINT_BYTES):
            (byte,) = self._bytes(1)
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:  # noqa: PLR2004  the last one
                break
        if value > most:
            raise ValueError(f"a number is {value}, and may be {most} at most")
        return value

    def _tensor(self) -> tuple[str, Any, tuple[int, ...], Packed]:
        name = self._bytes(self._number(MAX_NAME_BYTES)).decode(errors="strict")
        kind, rank = self._bytes(2)
        if kind >= len(_DTYPES) or rank > MAX_RANK:
            raise ValueError(f"tensor {name!r} is of no dtype or rank that is known")
        dtype = _dtype(_DTYPES[kind])
        shape = tuple(self._number(self._limit) for _ in range(rank))
        size = 1
        for side in shape:
            size *= side
        self._limit -= size * dtype.itemsize
        if self._limit < 0:
            raise ValueError("the tensors unfold to more bytes than allowed")
        (ways,) = self._bytes(1)
        positions, values = ways & 0xF, ways >> 4
        if positions > BITMAP or values > CODEBOOK:
            raise ValueError(f"tensor {name!r} is written in a way that is unknown")
        count = self._number(size)
        if positions == ALL and count != size:
            raise ValueError(f"tensor {name!r} has another number of values than its shape")
        codebook = np.empty(0, f"<u{dtype.itemsize}")
        if values == CODEBOOK:
            codebook = np.frombuffer(self._bytes(self._number(MAX_CODEBOOK) * dtype.itemsize), f"<u{dtype.itemsize}")
        where = None if positions == ALL else self._stream(_most_positions(positions, count, size), BYTES)
        if values == PLANES:
            what = tuple(self._stream((count, count), BYTES) for _ in range(dtype.itemsize))
        else:
            what = (self._stream((count, count), len(codebook)),)
        return name, dtype, shape, Packed(positions, values, count, codebook, where, what)

    def _stream(self, counts: tuple[int, int], alphabet: int) -> Stream:
        """A stream without its payload yet; a raw one carries as many zeros."""
        (coded,) = self._bytes(1)
        count = self._number(counts[1])
        if count < counts[0] or coded > 1:
            raise ValueError("a stream has too few symbols, or is of an unknown kind")
        if not coded:
            self._promised += count
            if alphabet > BYTES or self._promised > len(self._payload):
                raise ValueError("a stream that is not coded is larger than it can be")
            return Stream(raw=bytes(count))
        size = self._number(alphabet)
        packed = np.frombuffer(self._bytes((size + 1) // 2), np.uint8)
        lengths = np.stack([packed >> 4, packed & 0xF], axis=-1).reshape(-1)
        if size % 2 and lengths[-1]:
            raise ValueError("a code has one length too many")
        shell = Coded(lengths[:size], count, np.empty(0, np.int64), b"")
        blocks = np.frombuffer(self._bytes(2 * blocks_of(shell)), "<u2").astype(np.int64)
        return Stream(coded=replace(shell, blocks=blocks))

    def _with_payloads(
        self, tensors: list[tuple[str, Any, tuple[int, ...], Packed]]
    ) -> list[tuple[str, Any, tuple[int, ...], Packed]]:
        filled = []
        for name, dtype, shape, packed in tensors:
            where = None if packed.where is None else self._filled(packed.where)
            what = tuple(self._filled(stream) for stream in packed.what)
            filled.append((name, dtype, shape, replace(packed, where=where, what=what)))
        return filled

    def _filled(self, stream: Stream) -> Stream:
        count = len(stream.raw or b"") if stream.coded is None else int(stream.coded.blocks.sum())
        if count > len(self._payload) - self._taken:
            raise ValueError("the file ends before its tensors do")
        payload = self._payload[self._taken : self._taken + count]
        self._taken += count
        return Stream(raw=payload) if stream.coded is None else Stream(coded=replace(stream.coded, payload=payload))


def _most_positions(positions: int, count: int, size: int) -> tuple[int, int]:
    """How many symbols the stream of positions has at least and at most."""
    if positions == BITMAP:
        return -(-size // 8), -(-size // 8)
    return count, count + size // ESCAPE


def _dtype(name: str) -> Any:
    if name in _NUMPY_DTYPES:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ValueError(f"{name} needs the package ml_dtypes") from error
    return np.dtype(getattr(ml_dtypes, name))
