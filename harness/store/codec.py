"""Samples → bytes and back, without loss: what a block's wall and CPU times take in the store.

Below `harness.store.schema`. Times of one variant lie close together, so of each only the distance to the smallest is kept,
in units of the clock's step; of CPU times, the distance to their wall times. What is left is mostly noise, which nothing
makes smaller, in the low bytes, and mostly zeros in the high ones: the bytes are therefore laid out plane by plane (all
lowest bytes, then all second ones, …), as many planes as the largest value needs, and then compressed.

A blob: one byte MAGIC, one byte with the number of planes and the flags, offset and step as variable-length integers, the
planes, and a CRC-32 of everything before it. Blobs of the first kind (zlib over the plain int64) begin with another byte
and are still read; arrays other than samples are still written so.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]

# No zlib stream begins with this byte: its low four bits would have to be 8.
MAGIC = 0x01
_PLANES, _RESIDUAL, _DEFLATED = 0x0F, 0x10, 0x20
_WORD = 8
_CRC = struct.Struct("<I")
_MODULUS = 1 << 64
# A clock that ticks in steps shows it at once; only then are all samples looked at.
_TRIED = 16
_SMALL, _SMALL_SIZE = np.uint32, 4
_FEW = 4
_ALONE = "stored CPU times need the wall times that they were stored against"


class BlobError(ValueError):
    """A stored array that does not hold what its row says."""


def pack(array: NDArray[Any]) -> bytes:
    """An array's little-endian bytes, compressed by zlib: what arrays other than samples are stored as."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    # Level 1: a higher one buys 2 % for much time.
    return zlib.compress(little.tobytes(), 1)


def unpack(blob: bytes, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """Inverse of `pack`, writable and in native byte order. Raises BlobError when the bytes do not fit dtype and shape."""
    kind = np.dtype(dtype)
    expected = math.prod(shape) * kind.itemsize
    if kind.kind not in "iufb" or expected < 0:
        raise BlobError(f"an array of {dtype} {list(shape)} is none of ours")
    raw = _inflate(blob, expected, zlib.MAX_WBITS, f"{dtype} {list(shape)}")
    return np.frombuffer(raw, dtype=kind.newbyteorder("<")).astype(kind, copy=True).reshape(tuple(shape))


def pack_samples(samples: Int64Array, wall: Int64Array | None = None) -> bytes:
    """int64 [n] → bytes. With `wall`, int64 [n], only the difference to it is kept, and `unpack_samples` wants it too."""
    values = samples if wall is None else _difference(wall, samples)
    offset = int(values.min()) if values.size else 0
    # Distances between int64 may need 64 bits: they are counted modulo 2^64, without sign.
    above = values.view(np.uint64) - np.uint64(offset % _MODULUS)
    step = _step(above)
    if step > 1:
        above //= np.uint64(step)
    planes = max(1, (int(above.max()).bit_length() + 7) // 8) if above.size else 0
    raw = above.astype("<u8").view(np.uint8).reshape(-1, _WORD)[:, :planes].T.tobytes()
    deflated = _deflate(raw, above.size)
    flags = planes | (0 if wall is None else _RESIDUAL) | (_DEFLATED if len(deflated) < len(raw) else 0)
    body = bytes((MAGIC, flags)) + _varint(_zigzag(offset)) + _varint(step)
    body += deflated if flags & _DEFLATED else raw
    return body + _CRC.pack(zlib.crc32(body))


def unpack_samples(blob: bytes, count: int, wall: Int64Array | None = None) -> Int64Array:
    """Inverse of `pack_samples`, and of `pack` for int64 [count]. Raises BlobError for anything that does not fit."""
    if _is_first_kind(blob, count):
        return unpack(blob, "int64", [count])
    body, planes, step, offset, residual = _opened(blob, count)
    if residual and (wall is None or wall.size != count):
        raise BlobError(_ALONE)
    found = _values(body, count, planes, step, offset)
    return _difference(wall, found) if residual and wall is not None else found


def sum_samples(blob: bytes, count: int, wall_sum: int | None = None) -> int:
    """What `int(unpack_samples(…).sum())` is, which wraps around at 64 bits, in half the time.

    `wall_sum`: that of the wall times, for CPU times that were stored against them. Raises BlobError whenever `unpack_samples` does.
    """
    if _is_first_kind(blob, count):
        return int(unpack(blob, "int64", [count]).sum())
    body, planes, step, offset, residual = _opened(blob, count)
    if residual and wall_sum is None:
        raise BlobError(_ALONE)
    total = offset * count
    if planes:
        sums = np.frombuffer(body, dtype=np.uint8).reshape(planes, count).sum(axis=1, dtype=np.uint64).tolist()
        total += step * sum(value << 8 * place for place, value in enumerate(sums))
    if residual and wall_sum is not None:
        total = wall_sum - total
    return (total + _MODULUS // 2) % _MODULUS - _MODULUS // 2


def _is_first_kind(blob: bytes, count: int) -> bool:
    if count < 0 or not blob:
        raise BlobError(f"{count} samples in {len(blob)} bytes are none of ours")
    return blob[0] != MAGIC


def _opened(blob: bytes, count: int) -> tuple[bytes, int, int, int, bool]:
    """The planes of a blob of ours and how many they are, step, offset, and whether they are differences to wall times."""
    planes, residual, deflated = _flags(blob, empty=count == 0)
    offset, at = _read_varint(blob, 2)
    step, at = _read_varint(blob, at)
    body, expected = blob[at : -_CRC.size], planes * count
    if deflated:
        body = _inflate(body, expected, -zlib.MAX_WBITS, f"{count} samples")
    if len(body) != expected:
        raise BlobError(f"stored samples have {len(body)} bytes, not the {expected} of {count} samples")
    return body, planes, step, _unzigzag(offset), residual


def _values(body: bytes, count: int, planes: int, step: int, offset: int) -> Int64Array:
    """The planes put together again."""
    if count <= _FEW:
        # A block of two or three samples: numpy's preparations would cost more than the work.
        some = [offset + step * int.from_bytes(body[index::count], "little") for index in range(count)]
        return np.array([value % _MODULUS for value in some], dtype=np.uint64).view(np.int64)
    # In the smallest words that hold them: twice as many of those are worked on at once.
    words = (
        np.frombuffer(body, dtype=np.uint8)
        .reshape(planes, count)
        .astype(_SMALL if planes <= _SMALL_SIZE else np.uint64)
    )
    found = words[planes - 1]
    for plane in words[planes - 2 :: -1] if planes > 1 else ():
        found <<= 8
        found |= plane
    values: UInt64Array = found.astype(np.uint64)
    if step > 1:
        values *= np.uint64(step)
    values += np.uint64(offset % _MODULUS)
    return values.view(np.int64)


def _flags(blob: bytes, *, empty: bool) -> tuple[int, bool, bool]:
    if len(blob) < 4 + _CRC.size or _CRC.unpack(blob[-_CRC.size :])[0] != zlib.crc32(memoryview(blob)[: -_CRC.size]):
        raise BlobError("stored samples are damaged: their checksum differs")
    flags = blob[1]
    planes = flags & _PLANES
    if planes > _WORD or (planes == 0) != empty or flags & ~(_PLANES | _RESIDUAL | _DEFLATED):
        raise BlobError(f"stored samples have flags {flags:#x} that do not fit")
    return planes, bool(flags & _RESIDUAL), bool(flags & _DEFLATED)


def _difference(one: Int64Array, other: Int64Array) -> Int64Array:
    """One − other, modulo 2^64: exact again when subtracted from `one`."""
    return (one.view(np.uint64) - other.view(np.uint64)).view(np.int64)


def _step(above: UInt64Array) -> int:
    """The largest number that divides all values; 1 where there is none, or nothing to divide."""
    if not above.size or int(np.gcd.reduce(above[:_TRIED])) == 1:
        return 1
    return int(np.gcd.reduce(above)) or 1


def _deflate(raw: bytes, plane: int) -> bytes:
    """One stream; each plane, of so many bytes, gets a code of its own: noise would spoil that of zeros, and the other way round."""
    engine = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    found = []
    for start in range(0, len(raw), plane or 1):
        found += [engine.compress(raw[start : start + plane]), engine.flush(zlib.Z_BLOCK)]
    return b"".join((*found, engine.flush()))


def _inflate(blob: bytes, expected: int, wbits: int, what: str) -> bytes:
    """Exactly `expected` bytes. Never more than was promised is decompressed, whatever a hostile file holds."""
    engine = zlib.decompressobj(wbits)
    try:
        raw = engine.decompress(blob, expected + 1)
    except zlib.error as error:
        raise BlobError(f"a stored array cannot be decompressed: {error}") from error
    if len(raw) != expected or not engine.eof:
        raise BlobError(f"a stored array has {len(raw)} bytes, not the {expected} of {what}")
    return raw


def _zigzag(value: int) -> int:
    return value * 2 if value >= 0 else -value * 2 - 1


def _unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that more follow."""
    found = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _read_varint(blob: bytes, at: int) -> tuple[int, int]:
    if blob[at] <= 0x7F:  # noqa: PLR2004 - most are a single byte
        return blob[at], at + 1
    value = shift = 0
    while True:
        if at >= len(blob) - _CRC.size or shift > 63:  # noqa: PLR2004 - a word has no more bits
            raise BlobError("stored samples end in their head")
        byte = blob[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value % _MODULUS, at
