"""The agent's messages → loads and blocks of samples. Pure; part of host-side collection, used by `harness.runner`.

Nothing is filtered, sorted or summed here: samples stay raw and in time order, warm-ups stay apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from harness.agent.protocol import ProtocolError
from harness.collectors.memory import memory_of
from harness.records import WARMUP, Block, Load

Message = Mapping[str, Any]


def _block(message: Message, index: int, phase: str) -> Block:
    try:
        wall = np.asarray(message["wall_ns"], dtype=np.int64)
        cpu = np.asarray(message["cpu_ns"], dtype=np.int64)
        started_ns = int(message["started_ns"])
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"a block of {message['id']!r} is no list of integers: {error}") from error
    if wall.ndim != 1 or wall.shape != cpu.shape:
        raise ProtocolError(f"a block of {message['id']!r} has {wall.shape} wall and {cpu.shape} CPU times")
    if (wall < 0).any() or (cpu < 0).any():
        raise ProtocolError(f"a block of {message['id']!r} has negative times")
    return Block(str(message["id"]), index, phase, started_ns, wall, cpu, str(message["cpu_clock"]))


def blocks_of(messages: Iterable[Message]) -> tuple[Block, ...]:
    """Warm-ups (index -1) and blocks, in the order they came; wall and CPU times int64 [samples], ns.

    Raises ProtocolError for a block whose samples are no such arrays.
    """
    blocks = []
    for message in messages:
        if message["type"] == "warmup":
            blocks.append(_block(message, -1, WARMUP))
        elif message["type"] == "block":
            blocks.append(_block(message, int(message["index"]), str(message["phase"])))
    return tuple(blocks)


def loads_of(messages: Iterable[Message]) -> tuple[Load, ...]:
    """Each model's load and first inference in ns, what the engine says of it, and its memory, in order of loading."""
    messages = list(messages)
    memory = memory_of(messages)
    return tuple(
        Load(
            variant=str(message["id"]),
            load_ns=int(message["load_ns"]),
            first_inference_ns=None if message["first_inference_ns"] is None else int(message["first_inference_ns"]),
            facts=dict(message["facts"]),
            memory=memory.get(str(message["id"]), {}),
        )
        for message in messages
        if message["type"] == "loaded"
    )
