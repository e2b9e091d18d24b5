"""Fixtures shared by the tests."""

from __future__ import annotations

import pytest
from adbd import adb_device, adb_key, adb_server, locked_adb_device
from sshd import sshd

__all__ = ["adb_device", "adb_key", "adb_server", "locked_adb_device", "sshd"]


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to the user's journal of devices, or reads it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
