"""Emulators that outlive a session: started at the first one that asks, at rest between them, stopped at the end.

For a search, which measures in many short sessions: a guest boots in half a minute, a trial is measured in a few seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from harness.devices.emulators import RunningEmulator, start_emulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.profiles import DeviceProfile


class _Lent:
    """An emulator for one session: at its end it goes to rest instead of stopping."""

    def __init__(self, emulator: RunningEmulator) -> None:
        self._emulator = emulator

    @property
    def profile(self) -> DeviceProfile:
        """See RunningEmulator."""
        return self._emulator.profile

    def revive(self) -> DeviceProfile:
        """See RunningEmulator."""
        return self._emulator.revive()

    def rest(self) -> None:
        """See RunningEmulator."""
        self._emulator.rest()

    def wake(self) -> None:
        """See RunningEmulator."""
        self._emulator.wake()

    def stop(self) -> None:
        """Let it stand still until the next session asks for it."""
        self._emulator.rest()


class KeptEmulators:
    """Starts each emulator once. One session at a time may have it. Use it as a context manager: at its end all are stopped."""

    def __init__(self, start: Callable[[DeviceProfile], RunningEmulator] = start_emulator) -> None:
        self._start = start
        self._running: dict[str, RunningEmulator] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._running:
            self._running.popitem()[1].stop()

    def lend(self, profile: DeviceProfile) -> RunningEmulator:
        """The emulator of that profile, awake and answering; started first, or again if it has died. Raises DeviceError."""
        emulator = self._running.get(profile.name)
        if emulator is None:
            emulator = self._running[profile.name] = self._start(profile)
        else:
            emulator.wake()
            emulator.revive()
        return _Lent(emulator)
