"""Which rows test, which calibrate: seeded, class-balanced, and never the same row twice. Used by `dataset.py`; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from converters.dataset_source import Source, Split
from converters.preprocessing import Array, DatasetError


def chosen_rows(
    source: Source, labels: dict[int, Array | None], task: str, seed: int, size: int
) -> tuple[Array, Split, Array, tuple[str, ...]]:
    """Rows to test on, the split calibration comes from, its rows there, and notes on rows left out."""
    everything = np.arange(source.test.count)
    nothing = np.arange(0)
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    own = labels[id(source.test)] if task == "classification" else None
    if source.divide:
        digests = row_digests(source.test.take(everything))
        seen: dict[bytes, int] = {}
        for digest in digests:
            seen[digest] = seen.get(digest, 0) + 1
        # A row that occurs twice stays among the test rows: its twin would make calibration touch them.
        order = [i for i in balanced_order(own, len(digests), rng) if seen[digests[i]] == 1]
        most = max(1, len(digests) // 5) if len(digests) > 1 else 0
        calibration = np.sort(np.array(order[: min(size, most)], np.int64))
        return np.setdiff1d(everything, calibration), source.test, calibration, ()
    split = source.calibration or source.train
    if split is None or (size == 0 and source.calibration is None):
        return everything, source.test, nothing, ()
    wanted = split.count if source.calibration is not None else min(size, split.count)
    theirs = labels[id(split)] if task == "classification" else None
    rows, dropped = _apart(split, balanced_order(theirs, split.count, rng), wanted, source.test)
    if source.calibration is not None and not len(rows):
        raise DatasetError(
            "every calibration row is also a test row", remedy="take calibration rows from training data"
        )
    notes = (f"{dropped} rows of {split.where} equal to test rows were not used to calibrate",) if dropped else ()
    return everything, split, np.sort(rows), notes


def _apart(split: Split, order: Array, wanted: int, test: Split) -> tuple[Array, int]:
    """The first `wanted` rows in `order` that equal no test row, and how many were passed over."""
    taken = set(row_digests(test.take(np.arange(test.count))))
    rows: list[int] = []
    position = dropped = 0
    while len(rows) < wanted and position < len(order):
        batch = order[position : position + wanted - len(rows)]
        position += len(batch)
        fresh = [int(i) for i, d in zip(batch, row_digests(split.take(batch)), strict=True) if d not in taken]
        dropped += len(batch) - len(fresh)
        rows += fresh
    return np.array(rows, np.int64), dropped


def limited_rows(rows: Array, labels: Array | None, task: str, limit: int | None, seed: int) -> Array:
    """A seeded, class-balanced sample of `limit` of the rows, in their order."""
    if limit is None or limit >= len(rows):
        return rows
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    own = labels[rows] if labels is not None and task == "classification" else None
    return np.sort(rows[balanced_order(own, len(rows), rng)[:limit]])


def balanced_order(labels: Array | None, count: int, rng: np.random.Generator) -> Array:
    """A random order of `count` rows whose every beginning holds the classes as evenly as they allow."""
    keys = rng.random(count)
    if labels is None:
        return np.argsort(keys, kind="stable")
    order = np.lexsort((keys, labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    turn = np.empty(count, np.int64)  # the how-manieth of its class a row is
    turn[order] = np.arange(count) - np.repeat(starts, counts)
    return np.lexsort((keys, turn))


def row_digests(arrays: Mapping[str, Array]) -> list[bytes]:
    """One digest per row over all inputs."""
    if not all(array.size for array in arrays.values()):
        return []
    flat = [np.ascontiguousarray(a).reshape(len(a), -1).view(np.uint8) for _, a in sorted(arrays.items())]
    rows = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]
