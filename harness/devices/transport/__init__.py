"""Transports: how to run commands and move files on a device. `open_transport` makes the one a profile asks for.

Each kind is imported only when it is used: a host that measures itself needs no SSH library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.devices.transport.base import Completed, Process, Transport

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

__all__ = ["TRANSPORTS", "Completed", "Process", "Transport", "open_transport"]


def _local(profile: DeviceProfile) -> Transport:
    from harness.devices.transport.local import LocalTransport

    return LocalTransport(profile.name)


def _ssh(profile: DeviceProfile) -> Transport:
    from harness.devices.transport.ssh import SshTransport

    return SshTransport.from_profile(profile)


def _adb(profile: DeviceProfile) -> Transport:
    from harness.devices.transport.adb import AdbTransport

    return AdbTransport.from_profile(profile)


TRANSPORTS: dict[str, Callable[[DeviceProfile], Transport]] = {"local": _local, "ssh": _ssh, "adb": _adb}


def open_transport(profile: DeviceProfile) -> Transport:
    """Connect to the device. Raises DeviceError, within `connect_timeout_s` (adb: within five seconds)."""
    return TRANSPORTS[profile.transport](profile)
