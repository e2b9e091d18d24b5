"""The agent's `profile` messages → profiles. Pure; part of host-side collection, used by `harness.session`.

What is read here was written by a device: shapes and types are checked, nothing is summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.agent.protocol import ProtocolError
from harness.records import PROFILE_TIMES, OperatorTimes, Profile

Message = Mapping[str, Any]


def _times(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ProtocolError(f"{what} are no list of integers")
    return tuple(values)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _operator(data: Mapping[str, Any]) -> OperatorTimes:
    moved = data["moved_bytes"]
    return OperatorTimes(
        name=str(data["name"]),
        type=str(data["type"]),
        times_ns=_times(data["times_ns"], f"the times of the operator {data['name']!r}"),
        runner=_text(data["runner"]),
        precision=_text(data["precision"]),
        inputs=tuple(map(str, data["inputs"])),
        outputs=tuple(map(str, data["outputs"])),
        moved_bytes=None if moved is None else int(moved),
    )


def profile_of(message: Message) -> Profile:
    """The profile in one `profile` message. Raises ProtocolError for one that is none."""
    try:
        return Profile(
            variant=str(message["id"]),
            method=str(message["method"]),
            operators=tuple(_operator(item) for item in message["operators"]),
            **{key: _times(message[key], f"the times {key}") for key in PROFILE_TIMES},
            graph=dict(message["graph"]),
            notes=tuple(map(str, message["notes"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ProtocolError):
            raise
        raise ProtocolError(f"a profile of {message.get('id')!r} cannot be read: {error!r}") from error


def profiles_of(messages: Iterable[Message]) -> tuple[Profile, ...]:
    """All profiles in a run's messages. Raises ProtocolError."""
    return tuple(profile_of(message) for message in messages if message["type"] == "profile")
