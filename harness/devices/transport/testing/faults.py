"""Faults a test can inject, and the board that says when they strike.

Three kinds. Those that strike once (`times`) after so many bytes, counted from the injection on: DropConnection, Stall,
TruncatePacket. Those that hold until `clear()`: Unauthorized, Offline, NoSpace, SlowLink. And Reboot, which happens at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

Where = Literal["push", "pull", "shell", "any"]


@dataclass(frozen=True, slots=True)
class DropConnection:
    """The connection is reset once more than `after_bytes` went that way."""

    where: Where = "push"
    after_bytes: int = 0
    times: int = 1


@dataclass(frozen=True, slots=True)
class Stall:
    """The connection stays open, but nothing is read or written any more for `duration_s`; None: for ever."""

    where: Where = "push"
    after_bytes: int = 0
    duration_s: float | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class TruncatePacket:
    """The next packet of the device ends in the middle, and with it the connection."""

    where: Where = "push"
    after_bytes: int = 0
    times: int = 1


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """No key is trusted any more, connected ones are sent away: `unauthorized` until cleared."""


@dataclass(frozen=True, slots=True)
class Offline:
    """TCP connects, but the device answers nothing, also on the connections it has."""


@dataclass(frozen=True, slots=True)
class NoSpace:
    """File transfers to the device fail with "No space left on device" after so many bytes altogether."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SlowLink:
    """Each way carries `bytes_per_s` (0: no limit), and each packet comes `latency_s` late."""

    bytes_per_s: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reboot:
    """All connections break, all processes die, and connections are refused for `down_s`."""

    down_s: float = 1.0


Strike = DropConnection | Stall | TruncatePacket
State = Unauthorized | Offline | NoSpace | SlowLink
Fault = Strike | State | Reboot

_NAMES: dict[str, type[Fault]] = {
    "drop": DropConnection,
    "stall": Stall,
    "truncate": TruncatePacket,
    "unauthorized": Unauthorized,
    "offline": Offline,
    "no-space": NoSpace,
    "slow": SlowLink,
    "reboot": Reboot,
}


def parse_fault(text: str) -> Fault:
    """Read a fault as the command line writes it: `drop where=push after_bytes=1000000`. Raises ValueError."""
    name, *words = text.split()
    if name not in _NAMES:
        raise ValueError(f"no fault {name!r}; there are {', '.join(_NAMES)}")
    kind = _NAMES[name]
    known = {field.name for field in fields(kind)}
    values: dict[str, str | int | float] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise ValueError(f"{name}: {word!r} is not one of {', '.join(f'{key}=…' for key in sorted(known))}")
        if key == "where":
            if value not in get_args(Where):
                raise ValueError(f"{name}: where is one of {', '.join(get_args(Where))}")
            values[key] = value
        else:
            values[key] = float(value) if key.endswith("_s") else int(value)
    return kind(**values)  # type: ignore[arg-type]  # checked above, by name


@dataclass(slots=True)
class _Armed:
    fault: Strike
    seen_bytes: int = 0
    left: int = 1


class FaultBoard:
    """What is injected now. `meter` and `take_space` are told of every transfer."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._states: dict[type, State] = {}
        self._written_bytes = 0

    def inject(self, fault: Strike | State) -> None:
        """Arm a fault. A state replaces the one of its kind."""
        if isinstance(fault, (DropConnection, Stall, TruncatePacket)):
            self._armed.append(_Armed(fault, left=fault.times))
            return
        if isinstance(fault, NoSpace):
            self._written_bytes = 0
        self._states[type(fault)] = fault

    def clear(self) -> None:
        """Take all faults back. A connection that stalls goes on."""
        self._armed.clear()
        self._states.clear()

    def meter(self, where: Where, size_bytes: int) -> Strike | None:
        """Count bytes that went that way; the fault that strikes now, if one does."""
        for armed in self._armed:
            if armed.fault.where in {where, "any"}:
                armed.seen_bytes += size_bytes
                if armed.seen_bytes > armed.fault.after_bytes:
                    armed.seen_bytes = 0
                    armed.left -= 1
                    if armed.left <= 0:
                        self._armed.remove(armed)
                    return armed.fault
        return None

    def take_space(self, size_bytes: int) -> bool:
        """Whether the device has room for these bytes."""
        state = self._states.get(NoSpace)
        self._written_bytes += size_bytes
        return not isinstance(state, NoSpace) or self._written_bytes <= state.after_bytes

    @property
    def unauthorized(self) -> bool:
        """Whether no key counts at the moment."""
        return Unauthorized in self._states

    @property
    def offline(self) -> bool:
        """Whether the device is silent at the moment."""
        return Offline in self._states

    def delay_s(self, size_bytes: int) -> float:
        """How long these bytes take on the link that is simulated."""
        state = self._states.get(SlowLink)
        if not isinstance(state, SlowLink):
            return 0.0
        return state.latency_s + (size_bytes / state.bytes_per_s if state.bytes_per_s else 0.0)
