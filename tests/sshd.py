"""A real sshd on loopback, with host and user keys of its own: the SSH device of the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.profiles import DeviceProfile

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

CONFIG = """\
ListenAddress 127.0.0.1:{port}
{host_keys}
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
LogLevel VERBOSE
{subsystem}
{extra}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path, kind: str = "ed25519") -> str:
    """A key pair without a passphrase; the public part."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f", str(path)], check=True, capture_output=True
    )
    return path.with_suffix(".pub").read_text(encoding="utf-8").strip()


class Sshd:
    """The server: `start`, `stop`; `trust` writes a known_hosts file; `profile` is the device."""

    def __init__(self, folder: Path, *, sftp: bool = True) -> None:
        self.folder = folder
        self.sftp = sftp
        self.extra = ""  # more lines of configuration
        self.port = free_port()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.known_hosts = folder / "known_hosts"
        self.identity = folder / "user_key"
        self.host_public = {"ed25519": make_key(folder / "host_ed25519")}
        (folder / "authorized_keys").write_text(make_key(self.identity) + "\n", encoding="utf-8")
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(
            CONFIG.format(
                port=self.port,
                folder=self.folder,
                host_keys="\n".join(f"HostKey {self.folder}/host_{kind}" for kind in self.host_public),
                subsystem="Subsystem sftp internal-sftp" if self.sftp else "",
                extra=self.extra,
            ),
            encoding="utf-8",
        )
        with (self.folder / "sshd.log").open("ab") as log:
            self._server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._server.poll() is not None:
                    break
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"sshd did not start: {(self.folder / 'sshd.log').read_text(encoding='utf-8')[-2000:]}")

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(timeout=10)
            self._server = None

    def drop_connections(self) -> None:
        """Kill the sessions of this server, as a device that loses power does, and keep listening."""
        assert self._server is not None
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text(encoding="ascii")
        for child in children.split():
            os.kill(int(child), 9)

    def trust(self, *kinds: str) -> None:
        lines = [f"[127.0.0.1]:{self.port} {self.host_public[kind]}" for kind in kinds or self.host_public]
        self.known_hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def profile(self, **changes: object) -> DeviceProfile:
        values: dict[str, object] = {
            "name": "loopback",
            "transport": "ssh",
            "host": "127.0.0.1",
            "port": self.port,
            "user": self.user,
            "identity_file": str(self.identity),
            "known_hosts": str(self.known_hosts),
            "work_folder": str(self.folder / "work"),
            "connect_timeout_s": 10.0,
        }
        return DeviceProfile.model_validate(values | changes)


def require_sshd() -> None:
    if not Path(SSHD).exists() or shutil.which("ssh-keygen") is None:
        pytest.skip("sshd is missing: install openssh-server")
    pytest.importorskip("asyncssh", reason="asyncssh is missing: install the extra 'ssh'")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A running server whose key is trusted."""
    require_sshd()
    folder = tmp_path / "sshd"
    folder.mkdir()
    server = Sshd(folder)
    server.start()
    server.trust()
    yield server
    server.stop()
