"""The agent's memory messages → what each variant used, in bytes. Pure; used by `harness.collectors.latency`.

A value the device does not give stays None, with its reason under "<key>_reason"; a value that cannot be is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.agent.protocol import ProtocolError

BYTE_KEYS = (
    *(
        "baseline",
        "after_load",
        "after_first",
        "after_steady",
        "load_peak",
        "first_peak",
        "steady_peak",
        "inference_peak",
    ),
    *("peak", "pss_baseline", "pss", "arena", "accelerator"),
)


def memory_of(messages: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Variant → its memory record as the agent gave it (BYTE_KEYS: bytes or None).

    Raises ProtocolError for a byte count that is no non-negative integer.
    """
    found: dict[str, dict[str, Any]] = {}
    for message in messages:
        if message["type"] != "memory":
            continue
        memory = dict(message["memory"])
        for key in BYTE_KEYS:
            value = memory.get(key)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ProtocolError(f"memory {key} of {message['id']!r} is {value!r}, no number of bytes")
        found.setdefault(str(message["id"]), {}).update(memory)
    return found
