"""The test device as adb-shell (straight to it) and adbutils (through an adb server) see it."""

from __future__ import annotations

import filecmp
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adbd import AdbServer, make_adb_key

from harness.devices.transport.testing import DaemonOptions, RunningDaemon

pytestmark = pytest.mark.adb
BIG_BYTES = 100_000_000


def signer(path: Path) -> Any:
    module = pytest.importorskip("adb_shell.auth.sign_cryptography", reason="install the extra 'adb'")
    return module.CryptographySigner(str(path))


@pytest.fixture
def straight(locked_adb_device: RunningDaemon, adb_key: tuple[Path, str]) -> Iterator[Any]:
    """adb-shell, connected with a key the device knows."""
    from adb_shell.adb_device import AdbDeviceTcp

    device = AdbDeviceTcp("127.0.0.1", locked_adb_device.port, default_transport_timeout_s=20)
    device.connect(rsa_keys=[signer(adb_key[0])], auth_timeout_s=5)
    yield device
    device.close()


@pytest.fixture
def through_server(adb_server: AdbServer, adb_device: RunningDaemon) -> Any:
    """adbutils' device, by way of Debian's adb server."""
    adbutils = pytest.importorskip("adbutils", reason="adbutils is missing: install the extra 'adb'")
    adb_server.connect(adb_device)
    return adbutils.AdbClient(host="127.0.0.1", port=adb_server.port).device(serial=adb_device.serial)


def test_adb_shell_runs_commands(straight: Any) -> None:
    assert straight.shell("echo out; echo err >&2") == "out\nerr\n"
    assert straight.shell("(exit 7); echo rc=$?") == "rc=7\n"
    assert straight.exec_out("printf '\\001\\002'", decode=False) == b"\x01\x02"
    assert list(straight.streaming_shell("for i in 1 2 3; do echo $i; done")) != []


def test_adb_shell_moves_a_large_file(straight: Any, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(os.urandom(BIG_BYTES))
    straight.push(str(source), str(there), mtime=1_600_000_000, read_timeout_s=60)
    assert filecmp.cmp(source, there, shallow=False)
    mode, size, mtime = straight.stat(str(there))
    assert (mode, size, mtime) == (0o100777, BIG_BYTES, 1_600_000_000)
    straight.pull(str(there), str(back), read_timeout_s=60)
    assert filecmp.cmp(source, back, shallow=False)


def test_adb_shell_lists_folders(straight: Any, tmp_path: Path) -> None:
    source, there = tmp_path / "source", tmp_path / "there"
    source.write_bytes(b"22")
    straight.push(str(source), str(there / "below/two"))  # the device makes the folders
    found = {bytes(entry.filename): entry.size for entry in straight.list(str(there / "below"))}
    assert found.keys() == {b".", b"..", b"two"}
    assert found[b"two"] == 2
    assert straight.stat(str(tmp_path / "none")) == (0, 0, 0)


def test_adb_shell_is_told_why_a_push_fails(straight: Any, tmp_path: Path) -> None:
    from adb_shell.exceptions import PushFailedError

    (tmp_path / "source").write_bytes(os.urandom(500_000))
    with pytest.raises(PushFailedError, match="secure_mkdirs failed: No such file or directory"):
        straight.push(str(tmp_path / "source"), "/proc/none/file")
    assert straight.shell("echo still here") == "still here\n"


def test_adb_shell_is_refused_with_a_strange_key_until_it_is_accepted(
    locked_adb_device: RunningDaemon, tmp_path: Path
) -> None:
    from adb_shell.adb_device import AdbDeviceTcp
    from adb_shell.exceptions import DeviceAuthError

    key, _ = make_adb_key(tmp_path, "strange")
    device = AdbDeviceTcp("127.0.0.1", locked_adb_device.port, default_transport_timeout_s=5)
    with pytest.raises(DeviceAuthError):
        device.connect(auth_timeout_s=1)  # no key at all
    device.close()
    device = AdbDeviceTcp("127.0.0.1", locked_adb_device.port, default_transport_timeout_s=5)
    accepted = []

    with pytest.raises(Exception, match=r"."):  # it waits for the user, who does nothing
        device.connect(rsa_keys=[signer(key)], auth_timeout_s=0.3)
    device.close()
    device = AdbDeviceTcp("127.0.0.1", locked_adb_device.port, default_transport_timeout_s=5)

    def tap(_: object) -> None:
        import threading

        threading.Timer(0.2, lambda: accepted.append(locked_adb_device.accept_keys())).start()

    assert device.connect(rsa_keys=[signer(key)], auth_timeout_s=5, auth_callback=tap)
    assert device.shell("echo in") == "in\n"
    assert accepted == [1]
    device.close()


def test_adb_shell_meets_tls_as_an_unknown_command(adb_key: tuple[Path, str]) -> None:
    from adb_shell.adb_device import AdbDeviceTcp
    from adb_shell.exceptions import InvalidCommandError

    with RunningDaemon(DaemonOptions(keys=(adb_key[1],), tls=True)) as daemon:
        device = AdbDeviceTcp("127.0.0.1", daemon.port, default_transport_timeout_s=5)
        with pytest.raises(InvalidCommandError, match="1397511251"):
            device.connect(rsa_keys=[signer(adb_key[0])], auth_timeout_s=2)
        device.close()


def test_a_closed_adb_shell_leaves_no_process(straight: Any, locked_adb_device: RunningDaemon) -> None:
    stream = straight.streaming_shell("echo started; sleep 300")
    assert next(stream) == "started\n"
    assert locked_adb_device.process_ids()
    straight.close()
    with socket.create_connection(("127.0.0.1", locked_adb_device.port)):  # the device lives on
        pass
    locked_adb_device.drop_connections()  # waits until what belonged to the connection has ended
    assert locked_adb_device.process_ids() == []


def test_adbutils_tells_streams_and_codes_apart(through_server: Any) -> None:
    told = through_server.shell2("echo out; echo err >&2; exit 7", v2=True)
    assert (told.returncode, told.stdout, told.stderr) == (7, "out\n", "err\n")
    assert through_server.shell("echo plain") == "plain"


def test_adbutils_moves_a_large_file(through_server: Any, tmp_path: Path) -> None:
    source, there, back = tmp_path / "source", tmp_path / "there", tmp_path / "back"
    source.write_bytes(os.urandom(BIG_BYTES))
    through_server.sync.push(source, str(there))
    assert filecmp.cmp(source, there, shallow=False)
    through_server.sync.pull(str(there), back)
    assert filecmp.cmp(source, back, shallow=False)
    assert through_server.sync.stat(str(there)).size == BIG_BYTES
    assert {entry.path for entry in through_server.sync.list(str(tmp_path))} >= {"source", "there", "back"}
