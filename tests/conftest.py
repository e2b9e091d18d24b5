"""Fixtures shared by the tests."""

from __future__ import annotations

from adbd import adb_device, adb_key, adb_server, locked_adb_device
from sshd import sshd

__all__ = ["adb_device", "adb_key", "adb_server", "locked_adb_device", "sshd"]
