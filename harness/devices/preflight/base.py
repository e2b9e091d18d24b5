"""What a knob is: something on the device that the harness may set for a session, and puts back.

reason = knob.available()        # None: it can be set here
before = knob.read()
commands = knob.undo(before)     # for the journal and the guardian, before anything is changed
after = knob.apply(before)       # raises KnobRefusedError
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from harness.devices.preflight.shell import Shell
from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

Command = tuple[str, ...]


class KnobRefusedError(DeviceError):
    """The device does not let a knob be turned, or turning it has no effect; the message says why."""


@dataclass(frozen=True, slots=True)
class State:
    """What a knob stands at: for people, and in values that suffice to put it back."""

    words: str
    values: Mapping[str, str] = field(default_factory=dict)


class Knob(ABC):
    """One thing that may be set. Reads and writes through `shell`, so every method may raise TransportError."""

    name: ClassVar[str]

    def __init__(self, shell: Shell, profile: DeviceProfile) -> None:
        self.shell = shell
        self.profile = profile

    @abstractmethod
    def available(self) -> str | None:
        """Why it cannot be set on this device, or None when it can, as far as can be told without trying."""

    @abstractmethod
    def read(self) -> State:
        """What it stands at now."""

    @abstractmethod
    def undo(self, before: State) -> list[Command]:
        """Commands that put it back to `before`; harmless when nothing was changed, or twice."""

    @abstractmethod
    def apply(self, before: State) -> State:
        """Set it; what it stands at then, read back. Raises KnobRefusedError."""
