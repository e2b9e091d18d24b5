"""Canonical Huffman codes for arrays of symbols: lengths, coding in blocks, and decoding of many blocks side by side.

Used by `converters.entropy_file`. numpy only. A code is known by its lengths alone (canonical: Schwartz and Kallick, CACM 7(3), 1964);
they are limited to 15 bits by package-merge (Larmore and Hirschberg, JACM 37(3), 1990), so that one look into a table decodes a
symbol. Symbols are coded in blocks whose sizes in bytes are known: decoding goes through all blocks of all tensors in step,
one symbol of each at a time, which is what makes it fast without compiled code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MAX_BITS = 15
MAX_ALPHABET = 1 << MAX_BITS
BLOCK_SYMBOLS = 4096
# A block of 4096 symbols of 15 bits: its size fits 16 bits.
BLOCK_BYTES = BLOCK_SYMBOLS * MAX_BITS // 8
_ENCODED_AT_ONCE = 256 * BLOCK_SYMBOLS
# Decoding tables, and symbols, of one pass: more are decoded in several.
_TABLE_ENTRIES = 1 << 22
_PASS_SYMBOLS = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Symbols as bits. `lengths`: uint8 [alphabet], 0 for a symbol that does not occur. `count`: symbols. `blocks`: bytes of each
    block of 4096 symbols (the last may be shorter), int64. `payload`: the blocks, each filled up to whole bytes with 0."""

    lengths: Array
    count: int
    blocks: Array
    payload: bytes


def code_lengths(counts: Array) -> Array:
    """The best lengths, uint8 [n], for symbols that occur `counts` [n] times, none above 15 bits. A symbol that does not occur has
    0; a sole one has 1, and needs no bits at all. Raises ValueError when more than 32,768 symbols occur."""
    lengths = np.zeros(len(counts), np.uint8)
    used = np.flatnonzero(counts)
    if len(used) > MAX_ALPHABET:
        raise ValueError(f"{len(used)} symbols are more than {MAX_ALPHABET}")
    if len(used) < 2:  # noqa: PLR2004
        lengths[used] = 1
        return lengths
    used = used[np.argsort(np.asarray(counts)[used], kind="stable")]
    leaves = np.asarray(counts)[used].astype(np.int64)
    weights, levels = leaves, [np.ones(len(leaves), bool)]
    for _ in range(MAX_BITS - 1):
        pairs = weights[: len(weights) // 2 * 2]
        merged = np.concatenate([leaves, pairs[::2] + pairs[1::2]])
        order = np.argsort(merged, kind="stable")
        weights = merged[order]
        levels.append(order < len(leaves))
    take = 2 * len(leaves) - 2
    for is_leaf in reversed(levels):
        taken = int(np.count_nonzero(is_leaf[:take]))
        lengths[used[:taken]] += 1
        take = 2 * (take - taken)
    return lengths


def coded_bits(counts: Array, lengths: Array) -> int:
    """Bits of the symbols alone, before blocks are filled up."""
    if np.count_nonzero(lengths) < 2:  # noqa: PLR2004  a sole symbol needs none
        return 0
    return int(np.dot(np.asarray(counts, np.int64), lengths.astype(np.int64)))


def encode(symbols: Array, alphabet: int) -> Coded:
    """Code `symbols` (integers in [0, alphabet))."""
    lengths = code_lengths(np.bincount(symbols, minlength=alphabet))
    if np.count_nonzero(lengths) < 2:  # noqa: PLR2004
        return Coded(lengths, len(symbols), np.empty(0, np.int64), b"")
    codes = _codes(lengths)
    parts, blocks = [], []
    for start in range(0, len(symbols), _ENCODED_AT_ONCE):
        payload, sizes = _encode_blocks(symbols[start : start + _ENCODED_AT_ONCE], codes, lengths)
        parts.append(payload)
        blocks.append(sizes)
    return Coded(lengths, len(symbols), np.concatenate(blocks), b"".join(parts))


def _encode_blocks(symbols: Array, codes: Array, lengths: Array) -> tuple[bytes, Array]:
    bits = lengths[symbols].astype(np.int64)
    before = np.cumsum(bits) - bits
    starts = np.arange(0, len(symbols), BLOCK_SYMBOLS)
    sizes = -(-np.add.reduceat(bits, starts) // 8)
    shift = (np.cumsum(sizes) - sizes) * 8 - before[starts]
    position = before + np.repeat(shift, BLOCK_SYMBOLS)[: len(symbols)]
    code = codes[symbols]
    plain = np.zeros(int(sizes.sum()) * 8, np.uint8)
    for bit in range(int(bits.max())):
        has = np.flatnonzero(bits > bit)
        plain[position[has] + bit] = (code[has] >> (bits[has] - 1 - bit)) & 1
    return np.packbits(plain).tobytes(), sizes


def _order(lengths: Array) -> Array:
    """The symbols that occur, in the order of their codes: by length, then by number."""
    used = np.flatnonzero(lengths)
    return used[np.argsort(lengths[used], kind="stable")]


def _codes(lengths: Array) -> Array:
    """The canonical code of each symbol, in its lowest bits: int64 [alphabet]."""
    order = _order(lengths)
    spans = 1 << (MAX_BITS - lengths[order].astype(np.int64))
    codes = np.zeros(len(lengths), np.int64)
    codes[order] = (np.cumsum(spans) - spans) >> (MAX_BITS - lengths[order].astype(np.int64))
    return codes


def check(coded: Coded) -> None:
    """Raise ValueError unless lengths and blocks can be what `encode` makes: a complete code, and sizes that add up."""
    lengths, count = coded.lengths, coded.count
    used = int(np.count_nonzero(lengths))
    if lengths.size > MAX_ALPHABET or (lengths.size and lengths.max() > MAX_BITS):
        raise ValueError("a code is longer than 15 bits, or has too many symbols")
    if (count > 0) != (used > 0):
        raise ValueError("a code has no symbols, or symbols that never occur")
    if used < 2:  # noqa: PLR2004
        if used == 1 and lengths.max() != 1:
            raise ValueError("the code of a sole symbol is not one bit long")
        if len(coded.blocks) or coded.payload:
            raise ValueError("a sole symbol needs no bits, and has some")
        return
    if int((1 << (MAX_BITS - lengths[lengths > 0].astype(np.int64))).sum()) != 1 << MAX_BITS:
        raise ValueError("the code is not complete: its lengths cannot belong together")
    if len(coded.blocks) != -(-count // BLOCK_SYMBOLS) or int(coded.blocks.sum()) != len(coded.payload):
        raise ValueError("the blocks do not add up to the bytes that are there")
    if coded.blocks.min() < 1 or coded.blocks.max() > BLOCK_BYTES:
        raise ValueError("a block is empty, or longer than any can be")


def decode(streams: Sequence[Coded]) -> list[Array]:
    """The symbols of each stream: uint16 [count]. Raises ValueError for what `encode` cannot have made."""
    for coded in streams:
        check(coded)
    results = [
        np.full(coded.count, np.argmax(coded.lengths) if coded.count else 0, np.uint16)
        if not len(coded.blocks)
        else np.empty(0, np.uint16)
        for coded in streams
    ]
    waiting = [index for index, coded in enumerate(streams) if len(coded.blocks)]
    for some in _passes(waiting, streams):
        for index, symbols in zip(some, _decode_pass([streams[index] for index in some]), strict=True):
            results[index] = symbols
    return results


def _passes(waiting: Iterable[int], streams: Sequence[Coded]) -> Iterator[list[int]]:
    """The streams in portions whose tables and symbols fit into memory."""
    some: list[int] = []
    entries = symbols = 0
    for index in waiting:
        table, count = 1 << int(streams[index].lengths.max()), streams[index].count
        if some and (entries + table > _TABLE_ENTRIES or symbols + count > _PASS_SYMBOLS):
            yield some
            some, entries, symbols = [], 0, 0
        some.append(index)
        entries, symbols = entries + table, symbols + count
    if some:
        yield some


def _decode_pass(streams: Sequence[Coded]) -> list[Array]:
    widths = np.array([int(coded.lengths.max()) for coded in streams])
    lanes_each = np.array([len(coded.blocks) for coded in streams])
    table = np.concatenate([_table(coded.lengths) for coded in streams])
    bases = np.concatenate([[0], np.cumsum(1 << widths)[:-1]])
    sizes = np.concatenate([coded.blocks for coded in streams])
    counts = np.full(len(sizes), BLOCK_SYMBOLS)
    counts[np.cumsum(lanes_each) - 1] = [(coded.count - 1) % BLOCK_SYMBOLS + 1 for coded in streams]
    begins = (np.cumsum(sizes) - sizes) * 8
    # The longest first: those that are still busy are then always the first ones.
    order = np.argsort(-counts, kind="stable")
    width = np.repeat(widths, lanes_each)[order]
    base = np.repeat(bases, lanes_each)[order]
    payload = b"".join(coded.payload for coded in streams)
    entries, ends = _walk(payload, begins[order], counts[order], width, base, table)
    back = np.argsort(order)
    ends = ends[back]
    _check_ends(payload, begins, ends, sizes)
    symbols = (entries >> 4).astype(np.uint16)
    cuts = np.cumsum(lanes_each)[:-1]
    return [
        np.ascontiguousarray(symbols[:, lanes].T).reshape(-1)[: coded.count]
        for lanes, coded in zip(np.split(back, cuts), streams, strict=True)
    ]


def _table(lengths: Array) -> Array:
    """What each pattern of bits begins with, as symbol · 16 + length: uint32 [2 ** longest length]."""
    order = _order(lengths)
    bits = lengths[order].astype(np.int64)
    return np.repeat((order.astype(np.uint32) << 4) | bits.astype(np.uint32), 1 << (int(bits.max()) - bits))


def _walk(payload: bytes, begins: Array, counts: Array, width: Array, base: Array, table: Array) -> tuple[Array, Array]:
    """Table entries [symbols of the longest block, blocks] and the bit after the last symbol of each block.

    A block that is damaged may run on into what follows, at most as far as the longest block is: hence the zeros at the end.
    """
    raw = np.frombuffer(payload + bytes(BLOCK_BYTES + 3), np.uint8).astype(np.uint32)
    window = (raw[:-2] << 16) | (raw[1:-1] << 8) | raw[2:]
    entries = np.zeros((int(counts.max()), len(counts)), np.uint32)
    position, shift, mask = begins.copy(), 24 - width, (1 << width) - 1
    active = np.searchsorted(-counts, -np.arange(len(entries)), side="left")
    for step, busy in enumerate(active):
        at = position[:busy]
        found = table[((window[at >> 3] >> (shift[:busy] - (at & 7))) & mask[:busy]) + base[:busy]]
        entries[step, :busy] = found
        position[:busy] += found & 15
    return entries, position


def _check_ends(payload: bytes, begins: Array, ends: Array, sizes: Array) -> None:
    if not np.array_equal(-(-(ends - begins) // 8), sizes):
        raise ValueError("a block ends where it should not: the bits are damaged")
    last = np.frombuffer(payload, np.uint8)[begins // 8 + sizes - 1]
    if (last & ((1 << (-ends % 8)) - 1)).any():
        raise ValueError("a block is filled up with other bits than 0")
