"""Fixtures shared by the tests."""

from __future__ import annotations

import pytest
from adbd import adb_device, adb_key, adb_server, locked_adb_device
from sshd import sshd

__all__ = ["adb_device", "adb_key", "adb_server", "locked_adb_device", "sshd"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What `--dist loadgroup` keeps on one process, one after the other: a file, unless its tests say another group.

    Guests are one group: two at a time would starve each other, and files share what they booted. They take longest and come first.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        if item.get_closest_marker("emulator") is not None:
            item.add_marker(pytest.mark.xdist_group("guests"))
        elif item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("emulator") is None)


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to the user's journal of devices, or reads it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))
