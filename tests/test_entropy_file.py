"""The file of entropy-coded tensors: exact, small, quick to read, and not to be fooled."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from converters.entropy_file import coded_size_bytes, pack_all, read, unpack_all, write
from converters.entropy_tensor import gaps, positions_of
from converters.errors import ConversionInputError
from converters.huffman import BLOCK_SYMBOLS, MAX_BITS, Coded, code_lengths, decode, encode

HEAD = 41


def exact(arrays: dict[str, np.ndarray]) -> int:
    """Write and read back, bit for bit; the size."""
    data, _ = pack_all(arrays)
    again = unpack_all(data)
    assert list(again) == list(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()
    return len(data)


def kraft(lengths: np.ndarray) -> float:
    return float((0.5 ** lengths[lengths > 0].astype(float)).sum())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=60))
def test_codes_are_complete_and_within_a_bit_of_the_entropy(numbers: list[int]) -> None:
    counts = np.array(numbers)
    lengths = code_lengths(counts)
    used = counts > 0
    assert ((lengths > 0) == used).all()
    if used.sum() < 2:
        assert lengths.sum() == used.sum()
        return
    assert kraft(lengths) == 1
    share = counts[used] / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    mean = (share * lengths[used]).sum()
    assert entropy <= mean + 1e-12
    assert mean < entropy + 1
    # More frequent symbols never have longer codes.
    order = np.argsort(-counts[used], kind="stable")
    assert all(
        a <= b
        for a, b, x, y in zip(
            lengths[used][order], lengths[used][order][1:], counts[used][order], counts[used][order][1:], strict=False
        )
        if x > y
    )


def test_lengths_are_those_of_huffman_and_no_longer_than_15_bits() -> None:
    # The example of Huffman's algorithm in every textbook: a 45, b 13, c 12, d 16, e 9, f 5 → 224 bits.
    counts = np.array([45, 13, 12, 16, 9, 5])
    assert code_lengths(counts).tolist() == [1, 3, 3, 3, 4, 4]
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(np.array(fibonacci))
    assert lengths.max() == MAX_BITS
    assert kraft(lengths) == 1
    with pytest.raises(ValueError, match="more than 32768"):
        code_lengths(np.ones(32769, int))


@settings(max_examples=40, deadline=None)
@given(st.lists(hnp.arrays(np.uint16, st.integers(0, 300), elements=st.integers(0, 40)), max_size=4))
def test_streams_of_any_lengths_decode_side_by_side(streams: list[np.ndarray]) -> None:
    decoded = decode([encode(symbols, 41) for symbols in streams])
    assert [a.tolist() for a in decoded] == [b.tolist() for b in streams]


@pytest.mark.compression
def test_blocks_of_many_streams_and_large_alphabets() -> None:
    rng = np.random.default_rng(0)
    sizes = (1, 7, BLOCK_SYMBOLS - 1, BLOCK_SYMBOLS, BLOCK_SYMBOLS + 1, 3 * BLOCK_SYMBOLS + 5)
    streams = [np.minimum(rng.geometric(0.001, size), 4999) for size in sizes]
    for found, wanted in zip(decode([encode(symbols, 5000) for symbols in streams]), streams, strict=True):
        np.testing.assert_array_equal(found, wanted)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 3000), max_size=40))
def test_distances_lead_back_to_positions(found: set[int]) -> None:
    positions = np.array(sorted(found), np.int64)
    np.testing.assert_array_equal(positions_of(gaps(positions), len(positions), 3001), positions)


DTYPES = st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int32", "uint16", "int64", "bool"])


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """Arrays of all kinds: dense, sparse, of few values or many; NaN, infinities and -0 among them."""
    dtype = np.dtype(draw(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = rng.integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8)
    if dtype == np.bool_:
        bits &= 1
    array = np.ascontiguousarray(bits).view(dtype).reshape(shape)
    if draw(st.booleans()) and array.size:
        array = rng.choice(array.reshape(-1)[: draw(st.integers(1, 5))], shape).reshape(shape).astype(dtype)
    density = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    return np.asarray(np.where(rng.random(shape) < density, array, np.zeros((), dtype)))


@pytest.mark.compression
@settings(max_examples=60, deadline=None)
@given(st.lists(tensors(), max_size=4))
def test_any_tensors_come_back_bit_for_bit(arrays: list[np.ndarray]) -> None:
    exact({f"tensor/{index}": array for index, array in enumerate(arrays)})


@settings(max_examples=10, deadline=None)
@given(tensors())
def test_a_tensor_comes_back_bit_for_bit(array: np.ndarray) -> None:
    exact({"tensor": array})


def test_special_numbers_and_layouts_come_back() -> None:
    special = np.float32([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45] * 50)
    exact({"special": special, "": np.float32(3.5).reshape(()), "none": np.empty((0, 5), np.float32)})
    fortran = np.asfortranarray(np.random.default_rng(1).normal(size=(7, 9)))
    data, _ = pack_all({"fortran": fortran, "swapped": fortran.astype(">f4")})
    again = unpack_all(data)
    np.testing.assert_array_equal(again["fortran"], fortran)
    np.testing.assert_array_equal(again["swapped"], fortran.astype("f4"))


def test_bfloat16_is_read_where_its_package_is() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    exact({"half": np.arange(300).astype(ml_dtypes.bfloat16), "byte": np.arange(9).astype(ml_dtypes.float8_e5m2)})


def sparse_clustered(shape: tuple[int, ...], density: float, values: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    book = rng.normal(size=values).astype(np.float32)
    return np.where(rng.random(shape) < density, book[rng.integers(0, values, shape)], 0).astype(np.float32)


def entropy_bits(share: float) -> float:
    return float(-(share * np.log2(share) + (1 - share) * np.log2(1 - share)))


@pytest.mark.compression
def test_sizes_come_near_what_is_possible() -> None:
    rng = np.random.default_rng(2)
    size = 80_000
    # 8 % of the weights left, 16 values: positions cost H(0.08) per weight, values 4 bits each.
    sparse = sparse_clustered((200, 400), 0.08, 16)
    least = size * entropy_bits(0.08) / 8 + 0.08 * size * 4 / 8
    assert least < exact({"w": sparse}) < 1.03 * least + 300
    # Half of them, of two values: a map of bits, and a bit each.
    half = sparse_clustered((200, 400), 0.5, 2)
    assert exact({"w": half}) < 1.01 * size * 1.5 / 8 + 300
    # All of them of 16 values: 4 bits each.
    dense = rng.choice(rng.normal(size=16), size).astype(np.float32)
    assert exact({"w": dense}) < size / 2 + 500
    # Pruned by whole rows: few long distances.
    rows = np.zeros((200, 400), np.float32)
    rows[::20] = rng.normal(size=(10, 400)).astype(np.float32)
    assert exact({"w": rows}) < 10 * 400 * 4 + 400
    assert abs(exact({"w": np.ascontiguousarray(rows.T)}) - exact({"w": rows})) < 20
    # Untouched weights: sign and exponent are worth coding; noise is not, and costs nothing beyond itself.
    weights = rng.normal(0, 0.05, size).astype(np.float32)
    assert exact({"w": weights}) < 0.9 * weights.nbytes
    noise = rng.integers(0, 256, size, dtype=np.uint8)
    assert exact({"w": noise}) < size + 200
    # Constants cost next to nothing.
    assert exact({"ones": np.ones(10_000, np.float32), "zeros": np.zeros((50, 50))}) < 150


def test_reports_say_what_was_done(tmp_path: Path) -> None:
    arrays = {"sparse": sparse_clustered((50, 60), 0.1, 4), "noise": np.arange(256, dtype=np.uint8)}
    sparse, noise = write(tmp_path / "w.huf", arrays)
    assert (sparse.name, sparse.codebook_values, sparse.bytes_before) == ("sparse", 4, 12_000)
    assert sparse.stored_values == np.count_nonzero(arrays["sparse"])
    assert sparse.way.startswith("distances")
    assert sparse.way.endswith("codebook with Huffman codes")
    assert noise.way == "all weights, bytes"
    assert (tmp_path / "w.huf").stat().st_size == coded_size_bytes(arrays)
    assert read(tmp_path / "w.huf").keys() == arrays.keys()


def test_the_same_weights_give_the_same_bytes() -> None:
    arrays = {"w": sparse_clustered((90, 60), 0.1, 7)}
    assert pack_all(arrays)[0] == pack_all(arrays)[0]


SAMPLE = {
    "sparse": sparse_clustered((40, 50), 0.1, 6),
    "half": sparse_clustered((300,), 0.5, 300),
    "few": np.random.default_rng(0).integers(0, 9, (5, 60), dtype=np.int8),
    "noise": np.random.default_rng(1).normal(size=33).astype(np.float32),
}
DATA, _ = pack_all(SAMPLE)


def sealed(body: bytes) -> bytes:
    """A file with that body and a SHA-256 that fits: what somebody with bad intent would send."""
    return DATA[:9] + hashlib.sha256(body).digest() + body


def directory_and_payload() -> tuple[bytes, bytes]:
    body = DATA[HEAD:]
    _, coded = struct.unpack("<II", body[:8])
    return zlib.decompress(body[8 : 8 + coded]), body[8 + coded :]


def with_directory(directory: bytes, payload: bytes) -> bytes:
    compressed = zlib.compress(directory)
    return sealed(struct.pack("<II", len(directory), len(compressed)) + compressed + payload)


@pytest.mark.parametrize("cut", [0, 5, 8, 40, 48, 60, len(DATA) - 1])
def test_a_file_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    (tmp_path / "w.huf").write_bytes(DATA[:cut])
    with pytest.raises(ConversionInputError, match="damaged"):
        read(tmp_path / "w.huf")


def test_any_changed_byte_is_found() -> None:
    for at in range(0, len(DATA), 7):
        changed = bytearray(DATA)
        changed[at] ^= 0x10
        with pytest.raises(ValueError):
            unpack_all(bytes(changed))


def test_another_version_is_named() -> None:
    with pytest.raises(ValueError, match=r"version 2 .* reads version 1"):
        unpack_all(DATA[:8] + b"\x02" + DATA[9:])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_hostile_directories_raise_one_kind_of_error(data: st.DataObject) -> None:
    directory, payload = directory_and_payload()
    changed = bytearray(directory)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 4))
    try:
        found = unpack_all(with_directory(bytes(changed), payload[: len(payload) - cut]), limit_bytes=1 << 20)
    except ValueError:
        return
    assert sum(array.nbytes for array in found.values()) <= 1 << 20


@pytest.mark.compression
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_hostile_payloads_raise_or_decode(data: st.DataObject) -> None:
    directory, payload = directory_and_payload()
    changed = bytearray(payload)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = unpack_all(with_directory(directory, bytes(changed)))
    except ValueError:
        return
    assert found.keys() == SAMPLE.keys()


def test_bombs_are_refused_before_memory_is_taken() -> None:
    data, _ = pack_all({"w": np.zeros(1 << 20, np.float32)})
    assert len(data) < 200
    with pytest.raises(ValueError, match="more bytes than allowed"):
        unpack_all(data, limit_bytes=1 << 20)
    body = struct.pack("<II", 100, 1 << 30) + bytes(50)
    with pytest.raises(ValueError, match="larger than it may be"):
        unpack_all(sealed(body))
    bomb = zlib.compress(bytes(1 << 20))
    with pytest.raises(ValueError, match="not as long as it says"):
        unpack_all(sealed(struct.pack("<II", 1000, len(bomb)) + bomb))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": np.uint8([1, 1, 1])}, "not complete"),
        ({"lengths": np.uint8([2, 2, 2])}, "not complete"),
        ({"lengths": np.uint8([0, 0, 0])}, "no symbols"),
        ({"lengths": np.uint8([0, 3, 0])}, "sole symbol"),
        ({"blocks": np.array([2])}, "add up"),
        ({"blocks": np.array([1, 1])}, "add up"),
        ({"payload": b"\x00\x00", "blocks": np.array([2])}, "ends where it should not"),
        ({"payload": b"\x5f"}, "filled up"),
    ],
)
def test_codes_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    good = encode(np.array([0, 1, 2, 0]), 3)
    assert good.payload == b"\x58"
    fields = {"lengths": good.lengths, "count": good.count, "blocks": good.blocks, "payload": good.payload}
    assert decode([good])[0].tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match=message):
        decode([Coded(**{**fields, **changes})])
