"""An emulator for as long as a block of code runs; a device that is none is left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.devices.emulators import start_emulator

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile


@contextmanager
def running(profile: DeviceProfile) -> Iterator[DeviceProfile]:
    """The profile by which the device is reached, started first if the harness starts it. Raises DeviceError."""
    if profile.emulator is None:
        yield profile
        return
    emulator = start_emulator(profile)
    try:
        yield emulator.profile
    finally:
        emulator.stop()
