"""Devices that the harness starts and stops itself: QEMU guests, an empty root under qemu-user, Android virtual devices.

`start_emulator` gives a RunningEmulator whose profile says how to reach it; `harness.devices.device` stops it at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

__all__ = ["RunningEmulator", "start_emulator"]


class RunningEmulator(Protocol):
    """An emulator that answers."""

    @property
    def profile(self) -> DeviceProfile:
        """The profile it was started from, completed with the address, port and keys to reach it."""

    def revive(self) -> DeviceProfile:
        """Start it again if it has died; how to reach it now. Raises DeviceError."""

    def rest(self) -> None:
        """Let it stand still: an idle guest too takes time from what is measured on the same host. Harmless twice."""

    def wake(self) -> None:
        """Let it go on. Harmless when it never rested."""

    def stop(self) -> None:
        """End it and remove what it left. Harmless twice, and after it has died."""


def start_emulator(profile: DeviceProfile) -> RunningEmulator:
    """Start the emulator that `profile.emulator` describes, and wait until it answers. Raises DeviceError."""
    kind = None if profile.emulator is None else profile.emulator.kind
    if kind == "qemu-system":
        from harness.devices.emulators.qemu_system import QemuSystem

        return QemuSystem(profile)
    if kind == "qemu-user":
        from harness.devices.emulators.qemu_user import QemuUser

        return QemuUser(profile)
    if kind == "android":
        from harness.devices.emulators.android import AndroidEmulator

        return AndroidEmulator(profile)
    raise DeviceError(f"{profile.name} is no emulator: its profile has no 'emulator'")
