"""Samples survive their compression to the last bit, damage is noticed, and stores of the first version are still read."""

from __future__ import annotations

import copy
import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_session import VARIANTS, sample_session
from test_store import assert_equal, fill

from harness.errors import SpecError
from harness.records import SessionData
from harness.store import Store
from harness.store.codec import BlobError, pack, pack_samples, sum_samples, unpack_samples
from harness.table import build_rows

INT64 = st.integers(-(2**63), 2**63 - 1)
PAIRS = st.lists(st.tuples(INT64, INT64), max_size=200)


def times(count: int, seed: int = 0, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Wall and CPU times as devices give them: close together, with a tail."""
    rng = np.random.default_rng(seed)
    wall = (1_400_000 * np.exp(rng.normal(0, 0.01, count)) + rng.exponential(20_000, count)).astype(np.int64)
    return wall // step * step, (wall - rng.integers(60, 300, count)) // step * step


@given(PAIRS, st.sampled_from([1, 100, 1_000]))
@settings(max_examples=40, deadline=None)
def test_samples_survive_to_the_last_bit(pairs: list[tuple[int, int]], step: int) -> None:
    wall = np.array([wall // 2 // step * step for wall, _ in pairs], dtype=np.int64)
    cpu = np.array([cpu for _, cpu in pairs], dtype=np.int64)
    for array, against in ((wall, None), (cpu, wall), (wall, wall)):
        blob = pack_samples(array, against)
        # The sum that is found without putting the samples together wraps around as numpy's does.
        assert sum_samples(blob, array.size, None if against is None else int(against.sum())) == int(array.sum())
        back = unpack_samples(blob, array.size, against)
        assert back.dtype == np.int64
        assert np.array_equal(back, array)
        back += 1  # writable


@given(PAIRS.filter(bool), st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_a_changed_byte_is_noticed(pairs: list[tuple[int, int]], where: int, change: int) -> None:
    blob = bytearray(pack_samples(np.array([wall for wall, _ in pairs], dtype=np.int64)))
    blob[where % len(blob)] ^= change
    for read in (unpack_samples, sum_samples):
        with pytest.raises(BlobError):
            read(bytes(blob), len(pairs))


@pytest.mark.parametrize("count", [0, 4, 6])
def test_another_number_of_samples_is_noticed(count: int) -> None:
    blob = pack_samples(np.array([7, 900, 31, 2, 5], dtype=np.int64))
    for read in (unpack_samples, sum_samples):
        with pytest.raises(BlobError):
            read(blob, count)


def test_parts_and_strangers_are_refused() -> None:
    wall, cpu = times(50)
    blob = pack_samples(cpu, wall)
    for damaged in (b"", blob[:5], blob[:-1], b"\x01", b"\x07" + blob[1:]):
        with pytest.raises(BlobError):
            unpack_samples(damaged, 50, wall)
        with pytest.raises(BlobError):
            sum_samples(damaged, 50, int(wall.sum()))
    for read in (unpack_samples, sum_samples):
        with pytest.raises(BlobError, match="need the wall times"):
            read(blob, 50)


def test_blobs_of_the_first_kind_are_read() -> None:
    wall, _ = times(50)
    assert np.array_equal(unpack_samples(pack(wall), 50), wall)
    assert sum_samples(pack(wall), 50) == int(wall.sum())


DAMAGE = {
    "wall_ns": "UPDATE block SET wall_ns = ? WHERE rowid = ?",
    "cpu_ns": "UPDATE block SET cpu_ns = ? WHERE rowid = ?",
}


@pytest.mark.parametrize("column", DAMAGE)
def test_damage_is_found_when_a_session_is_read_not_when_its_samples_are(tmp_path: Path, column: str) -> None:
    data = sample_session(runs=1, rounds=1, block_s=0.01, devices=("laptop",), variants=VARIANTS[:1])
    path = tmp_path / "harness.sqlite"
    with Store.open(path) as store:
        fill(store, data)
        with closing(sqlite3.connect(path)) as raw, raw:
            blobs = raw.execute("SELECT rowid, wall_ns, cpu_ns FROM block").fetchall()
            at = ("wall_ns", "cpu_ns").index(column) + 1
            damaged = [(row[at][:-5] + bytes([row[at][-5] ^ 1]) + row[at][-4:], row[0]) for row in blobs]
            raw.executemany(DAMAGE[column], damaged)
        with pytest.raises(SpecError, match="is damaged"):
            store.load(data.session.id)


def test_blocks_put_their_cpu_times_together_when_they_are_read(tmp_path: Path) -> None:
    data = sample_session(runs=1, rounds=2, block_s=0.01, devices=("laptop",), variants=VARIANTS[:2])
    with Store.open(tmp_path / "harness.sqlite") as store:
        fill(store, data)
        loaded = store.load(data.session.id)
    pairs = [
        (one, two)
        for a, b in zip(loaded.runs, data.runs, strict=True)
        for one, two in zip(a.blocks, b.blocks, strict=True)
    ]
    assert pairs
    for block, made in pairs:
        assert (block.wall_sum_ns, block.cpu_sum_ns) == (made.wall_sum_ns, made.cpu_sum_ns)
        again = dataclasses.replace(block, index=99)
        assert again.cpu_ns is block.cpu_ns
        assert np.array_equal(copy.copy(block).cpu_ns, made.cpu_ns)
        assert again.cpu_sum_ns == made.cpu_sum_ns
        with pytest.raises(AttributeError, match="no attribute 'gpu_ns'"):
            _ = block.gpu_ns  # type: ignore[attr-defined]
        for samples in (block.wall_ns, block.cpu_ns):
            with pytest.raises(ValueError, match="read-only"):
                samples[0] = 1


def test_samples_take_less_than_a_third_of_their_size() -> None:
    wall, cpu = times(2000)
    assert len(pack_samples(wall)) + len(pack_samples(cpu, wall)) < 0.3 * (wall.nbytes + cpu.nbytes)
    # A clock of 1 µs: its step costs nothing.
    coarse, _ = times(2000, step=1000)
    assert len(pack_samples(coarse)) < len(pack_samples(wall)) - 2000


@pytest.fixture
def old_store(tmp_path: Path) -> tuple[Path, SessionData]:
    """A store as version 1 wrote it."""
    data = sample_session(runs=2, rounds=2, block_s=0.01, devices=("laptop",), variants=VARIANTS[:2])
    path = tmp_path / "old.sqlite"
    with Store.open(path) as store:
        fill(store, data)
    blobs = [
        (pack(block.wall_ns), pack(block.cpu_ns), run.id, position)
        for run in data.runs
        for position, block in enumerate(run.blocks)
    ]
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.executemany("UPDATE block SET wall_ns = ?, cpu_ns = ? WHERE run_id = ? AND position = ?", blobs)
        raw.execute("ALTER TABLE block DROP COLUMN document")
        raw.execute("UPDATE harness_store SET version = 1")
    return path, data


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as raw:
        return int(raw.execute("SELECT version FROM harness_store").fetchone()[0])


def test_a_store_of_the_first_version_is_read_as_it_is(old_store: tuple[Path, SessionData]) -> None:
    path, data = old_store
    with Store.open(path) as store:
        assert_equal(store.load(data.session.id), data)
    assert version(path) == 1


def test_it_is_brought_up_to_date_by_the_first_run_written_to_it(old_store: tuple[Path, SessionData]) -> None:
    path, data = old_store
    more = sample_session(session_id="more", runs=2, rounds=2, block_s=0.01, devices=("laptop",), variants=VARIANTS[:2])
    with Store.open(path) as store, Store.open(path) as other:
        fill(store, more)
        for reader in (store, other):
            assert_equal(reader.load(data.session.id), data)
            assert_equal(reader.load("more"), more)
            assert build_rows(reader.load("more")) == build_rows(more)
    assert version(path) == 3
