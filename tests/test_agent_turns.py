"""Agents on one machine take turns: real processes, real pipes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agent_process import DATA, finish, of, send, start

from harness.agent.channel import AgentError
from harness.agent.protocol import Data, Job, LatencyPlan, Model, Turn, decode_job, encode_job
from harness.agent.turns import Turns

# Whole sessions or processes: seconds together.
pytestmark = pytest.mark.slow

ROUNDS = 6


def job(turn: Turn, name: str = "a") -> Job:
    model = Model(name, str(DATA / "tiny.onnx"))
    plan = LatencyPlan(
        order=((name,),) * ROUNDS, warmup_samples=1, warmup_s=0.01, block_samples=2, block_s=0.02, turn=turn
    )
    return Job("onnxruntime", (model,), Data(), latency=plan)


def spans(messages: list[dict]) -> dict[int, tuple[int, int]]:
    """Round → first and last instant of its samples; the machine's monotonic clock is the same for all processes."""
    found: dict[int, tuple[int, int]] = {}
    for block in of(messages, "block"):
        begun, ended = block["started_ns"], block["started_ns"] + sum(block["wall_ns"])
        low, high = found.get(block["index"], (begun, ended))
        found[block["index"]] = (min(low, begun), max(high, ended))
    return found


def test_a_turn_survives_the_wire(tmp_path: Path) -> None:
    asked = job(Turn(str(tmp_path), 1, 3, 2.5))
    assert decode_job(encode_job(asked)) == asked
    assert json.loads(encode_job(dataclasses.replace(asked, latency=LatencyPlan(order=()))))["latency"]["turn"] is None


def test_three_agents_never_measure_at_once_and_in_the_same_order_each_round(tmp_path: Path) -> None:
    processes = [start() for _ in range(3)]
    for index, process in enumerate(processes):
        send(process, job(Turn(str(tmp_path), index, 3, 30.0)))
    with ThreadPoolExecutor(3) as pool:  # all are read at once: who cannot write keeps its turn
        results = list(pool.map(finish, processes))
    assert [code for code, _, _ in results] == [0, 0, 0], [of(messages, "error") for _, messages, _ in results]
    ordered = [spans(messages)[index] for index in range(ROUNDS) for _, messages, _ in results]
    assert len(ordered) == 3 * ROUNDS
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ordered))
    waited = [s["values"]["waited_ns"] for s in of(results[2][1], "sensor") if s["name"] == "contention"]
    assert len(waited) == ROUNDS
    # While two others measured 20 ms each, this one slept.
    assert all(ns >= 30_000_000 for ns in waited[1:])


def test_an_agent_whose_circle_is_broken_says_so(tmp_path: Path) -> None:
    process = start()
    send(process, job(Turn(str(tmp_path), 1, 2, 0.3)))
    code, messages, _ = finish(process)
    (error,) = of(messages, "error")
    assert code == 1
    assert error["name"] == "NoTurn"
    assert error["id"] is None


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        Turns(Turn(str(tmp_path / "missing" / "too"), 0, 2, 1.0))
    assert caught.value.kind == "job"
