"""The ADB devices of the tests: daemons of our own on loopback, with keys, and a private adb server where one is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import free_port

from harness.devices.transport.testing import DaemonOptions, RunningDaemon

ADB = shutil.which("adb") or "/usr/bin/adb"


def make_adb_key(folder: Path, name: str = "adbkey") -> tuple[Path, str]:
    """A key pair as adb keeps it: the private key's path (`.pub` beside it), and the public line."""
    keygen = pytest.importorskip("adb_shell.auth.keygen", reason="adb-shell is missing: install the extra 'adb'")
    path = folder / name
    keygen.keygen(str(path))
    path.chmod(0o600)
    return path, path.with_suffix(".pub").read_text(encoding="utf-8")


class AdbServer:
    """An adb client with a home, a key and a server port of its own; it never meets the user's."""

    def __init__(self, home: Path, binary: str = ADB) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        self.binary = binary
        self.port = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(home),
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            # Nothing but what a test connects to: no USB, no discovery in the network.
            "ADB_MDNS": "0",
            "ADB_LIBUSB": "0",
        }

    def run(self, *argv: str | Path, stdin: bytes = b"", timeout_s: float = 60.0) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.binary, *map(str, argv)],
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.binary, *map(str, argv)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def connect(self, device: RunningDaemon) -> str:
        """Connect; the serial by which `-s` knows the device."""
        told = self.run("connect", device.serial).stdout.decode()
        assert "connected to" in told, told
        return device.serial

    def states(self) -> dict[str, str]:
        """Serial → state, as `adb devices` has it."""
        lines = self.run("devices").stdout.decode().splitlines()[1:]
        return dict(line.split("\t") for line in lines if line.strip())

    def stop(self) -> None:
        self.run("kill-server")


def require_adb() -> None:
    if not Path(ADB).exists():
        pytest.skip("adb is missing: install Debian's package adb")


@pytest.fixture
def adb_device() -> Iterator[RunningDaemon]:
    """A device without authentication: the files and the shell of this host."""
    with RunningDaemon(DaemonOptions()) as device:
        yield device


@pytest.fixture
def adb_key(tmp_path: Path) -> tuple[Path, str]:
    """A fresh key pair: the private key's path, the public line."""
    return make_adb_key(tmp_path)


@pytest.fixture
def locked_adb_device(adb_key: tuple[Path, str]) -> Iterator[RunningDaemon]:
    """A device that lets `adb_key` in and nobody else."""
    with RunningDaemon(DaemonOptions(keys=(adb_key[1],))) as device:
        yield device


@pytest.fixture
def adb_server(tmp_path: Path) -> Iterator[AdbServer]:
    """Debian's adb with a private server."""
    require_adb()
    server = AdbServer(tmp_path / "adb-home")
    yield server
    server.stop()
