"""Messages of the agent become records: pure functions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.agent.protocol import ProtocolError
from harness.collectors.accuracy import evaluate, top_classes
from harness.collectors.latency import blocks_of, loads_of
from harness.collectors.memory import memory_of
from harness.errors import MeasurementError


def block(**changes: Any) -> dict[str, Any]:
    return {
        "type": "block",
        "t_ns": 1,
        "id": "a",
        "index": 0,
        "phase": "measure",
        "started_ns": 5,
        "wall_ns": [3, 1, 2],
        "cpu_ns": [2, 1, 2],
        "cpu_clock": "thread",
    } | changes


def test_samples_keep_their_order_and_type() -> None:
    warm = {k: v for k, v in block(type="warmup").items() if k not in ("index", "phase")}
    found = blocks_of([warm, block(index=1), block(index=0, phase="settle"), {"type": "done"}])
    assert [(b.index, b.phase) for b in found] == [(-1, "warmup"), (1, "measure"), (0, "settle")]
    assert found[0].wall_ns.tolist() == [3, 1, 2]
    assert found[0].wall_ns.dtype == np.int64
    assert found[0].started_ns == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_ns": [1]},
        {"wall_ns": [1, -1, 2]},
        {"wall_ns": ["x", 1, 2]},
        {"wall_ns": 3, "cpu_ns": 3},
        {"started_ns": None},
    ],
)
def test_a_block_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        blocks_of([block(**changes)])


def test_loads_have_their_memory() -> None:
    messages = [
        {"type": "loaded", "id": "a", "load_ns": 10, "first_inference_ns": 4, "facts": {"precision": "f32"}},
        {"type": "loaded", "id": "b", "load_ns": 11, "first_inference_ns": None, "facts": {}},
        {"type": "memory", "id": "a", "memory": {"peak": 100, "arena": None, "arena_reason": "not told"}},
    ]
    a, b = loads_of(messages)
    assert (a.load_ns, a.first_inference_ns, a.memory["peak"], a.memory["arena_reason"]) == (10, 4, 100, "not told")
    assert (b.first_inference_ns, b.memory) == (None, {})


@pytest.mark.parametrize("value", [-1, 1.5, True, "7"])
def test_memory_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError):
        memory_of([{"type": "memory", "id": "a", "memory": {"peak": value}}])


def test_ties_go_to_the_lower_class() -> None:
    assert top_classes(np.array([[0.0, 1.0, 1.0, 0.5], [2.0, 2.0, 2.0, 2.0]])).tolist() == [[1, 2, 3, 0], [0, 1, 2, 3]]
    assert top_classes(np.array([[0, 200, 100]], np.uint8)).tolist() == [[1, 2, 0]]
    assert top_classes(np.array([[-128, 127, 0]], np.int8), k=1).tolist() == [[1]]


@given(st.integers(1, 6), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_top_classes_agree_with_a_plain_sort(rows: int, classes: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, size=(rows, classes)).astype(np.float32)
    expected = [sorted(range(classes), key=lambda c, row=row: (-row[c], c))[:5] for row in scores.tolist()]
    assert top_classes(scores).tolist() == expected


@pytest.mark.parametrize("outputs", [np.zeros((3, 1)), np.zeros(3), np.full((2, 3), np.nan), np.zeros((0, 3))])
def test_what_ranks_no_classes_is_refused(outputs: np.ndarray) -> None:
    with pytest.raises(MeasurementError):
        top_classes(outputs)


def test_evaluate_reduces_by_task(tmp_path: Path) -> None:
    outputs = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    path = tmp_path / "o.npy"
    np.save(path, outputs)
    digest = hashlib.sha256(outputs.tobytes()).hexdigest()
    classes = evaluate(path, variant="a", task="classification", rows=7, outputs_sha256=digest)
    assert classes.top is not None
    assert classes.top[:, 0].tolist() == outputs.argmax(axis=1).tolist()
    assert (classes.outputs, classes.outputs_sha256) == (None, digest)
    numbers = evaluate(path, variant="a", task="regression", rows=7, outputs_sha256=digest)
    assert numbers.outputs is not None
    assert np.array_equal(numbers.outputs, outputs)
    with pytest.raises(MeasurementError, match="not 8 rows"):
        evaluate(path, variant="a", task="classification", rows=8, outputs_sha256=digest)
    with pytest.raises(MeasurementError, match="sha256 differs"):
        evaluate(path, variant="a", task="classification", rows=7, outputs_sha256="0" * 64)
    infinite = np.array([[1.0, np.inf]], np.float32)
    np.save(path, infinite)
    digest = hashlib.sha256(infinite.tobytes()).hexdigest()
    with pytest.raises(MeasurementError, match="infinity"):
        evaluate(path, variant="a", task="regression", rows=1, outputs_sha256=digest)


def test_evaluate_refuses_what_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "o.npy"
    for content in (b"", b"garbage", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(MeasurementError):
            evaluate(path, variant="a", task="regression", rows=1, outputs_sha256="")
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(MeasurementError):
        evaluate(path, variant="a", task="regression", rows=1, outputs_sha256="")
