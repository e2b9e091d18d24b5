"""A device over ADB, by one of three routes: directly over TCP, through an adb server, or directly over USB.

The route gives a Link (`adb_stream.py`); everything here is the same for all. One connection serves commands, streams and
files, several at once. A command says its process number first, by which its whole group can be killed later.
"""

from __future__ import annotations

import re
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness.devices.transport.adb_process import AdbProcess
from harness.devices.transport.adb_stream import SHELL_V2, STAT_V2, Link, Refused
from harness.devices.transport.adb_sync import SyncRefusedError, file_size_bytes, receive_file, send_file
from harness.devices.transport.base import Transport
from harness.devices.transport.remote_shell import SHA256_SH, RemoteShell
from harness.errors import DeviceError, TransportError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

START_TIMEOUT_S = 30.0
CHECK_TIMEOUT_S = 10.0
#: A missing device is refused within five seconds, whatever the profile says.
MAX_CONNECT_S = 4.0
#: A longer command goes in through stdin: services have short names on old daemons, and in the server's protocol.
MAX_SERVICE_BYTES = 3500
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Reads as many lines as $n says, as a script, and leaves the rest of stdin to it: sh reads byte by byte there.
_LONG = 'c=; while [ $n -gt 0 ]; do IFS= read -r l; c="$c$l\n"; n=$((n-1)); done; eval "$c"'


class AdbTransport(Transport):
    """A device reached over ADB. `link` is connected already."""

    def __init__(self, label: str, link: Link) -> None:
        self.label = label
        self._link = link
        self._processes: set[AdbProcess] = set()
        self._folders: set[str] = set()
        self._marker = f"harness-{secrets.token_hex(8)}:"
        self._shell = RemoteShell(label, lambda: self.start(["sh"]), link.lost, self._check)
        if SHELL_V2 not in link.features:
            link.close()
            raise DeviceError(
                f"{label}: the device speaks only ADB's first shell protocol (Android 6 or older): no exit codes, no"
                " separate stderr, no end-of-file on stdin",
                remedy="use a device with Android 7 or newer",
            )

    @classmethod
    def from_profile(cls, profile: DeviceProfile) -> AdbTransport:
        """The transport a device profile asks for, connected. Raises DeviceError in less than five seconds."""
        return cls(profile.name, _connect(profile))

    def _command(self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> bytes:
        """A line for the device's sh. `exec`, so that the number said first is the program's own and signals reach it.

        `echo`, `cd` and `export` are built into every sh; `env` and `printf` are not on every device.
        """
        script = f"echo {self._marker}$$; "
        if cwd is not None:
            script += f"cd {shlex.quote(cwd)} || exit 126; "
        for key, value in (env or {}).items():
            if not _IDENTIFIER.fullmatch(key):
                raise TransportError(f"{self.label}: {key!r} is no name for an environment variable")
            script += f"export {key}={shlex.quote(value)}; "
        return (script + "exec " + shlex.join(argv)).encode("utf-8", "surrogateescape")

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AdbProcess:
        """See Transport."""
        command = self._command(argv, cwd, env)
        if len(command) > MAX_SERVICE_BYTES:
            lines = command.count(b"\n") + 1
            stdin = command + b"\n" + stdin
            command = f"n={lines}; {_LONG}".encode()
        with self._speaking("start a command"):
            process = AdbProcess(
                self._link, self._link.open(b"shell,v2,raw:" + command, START_TIMEOUT_S), self._processes.discard
            )
            self._processes.add(process)
            try:
                process.write(stdin)
                process.read_pid(self._marker.encode(), START_TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        return process

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """What the layers below raise while the device is asked for something becomes a TransportError."""
        try:
            yield
        except Refused as error:
            raise TransportError(f"{self.label}: the device refuses to {doing}: {error}", transient=True) from error
        except TimeoutError as error:
            self._link.close()  # whatever else was asked of it would only wait as long again
            raise TransportError(
                f"{self.label}: {self._link.place} stopped answering (asked to {doing})", transient=True
            ) from error
        except EOFError as error:
            raise self._link.lost(error) from error

    def _check(self) -> None:
        """Raise TransportError when the device does not answer any more."""
        with self._speaking("run `true`"):
            self._link.probe(CHECK_TIMEOUT_S)

    def _make_folder(self, remote: str) -> None:
        folder = str(PurePosixPath(remote).parent)
        if folder not in self._folders:
            self._shell.must("cannot make the folder", 'mkdir -p "$1"', folder)
            self._folders.add(folder)

    def push(self, path: Path, remote: str) -> None:
        """See Transport. Executable there (0755) if it is here, else 0644."""
        part = f"{remote}.part-{secrets.token_hex(8)}"
        try:
            facts = path.stat()
            self._make_folder(remote)
            mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
            with self._speaking(f"write {remote}"):
                digest = send_file(self._link, path, part, mode, self._reporter(remote, facts.st_size))
            found = self._shell.quick_digest(part, facts.st_size) or self.sha256([part]).get(part)
            if found != digest:
                raise TransportError(f"{self.label}: {remote} arrived damaged (sha256 {found})", transient=True)
            # The daemon gives group and others what the owner has, whatever mode was sent.
            self._shell.must("cannot rename", 'chmod "$1" "$2" && mv -f "$2" "$3"', f"{mode:o}", part, remote)
        except BaseException as error:
            self._folders.clear()
            self._tidy(part)
            if isinstance(error, SyncRefusedError):
                raise TransportError(
                    f"{self.label}: cannot write {remote}: {error.message}", remedy=error.remedy
                ) from error
            if isinstance(error, OSError):
                raise TransportError(f"{self.label}: cannot read {path}: {error.strerror}") from error
            raise

    def _tidy(self, part: str) -> None:
        """Remove what was begun, where the device still answers."""
        try:
            if self._link.alive():
                self._shell.remove(part)
        except DeviceError:
            return  # gone, too: the sweep of the next session removes it

    def pull(self, remote: str, path: Path) -> None:
        """See Transport."""
        part = path.with_name(f"{path.name}.part-{secrets.token_hex(8)}")
        try:
            wanted = self.sha256([remote]).get(remote)
            if wanted is None:
                raise TransportError(f"{self.label}: there is no {remote} on the device")
            total = self.size_bytes(remote) or 0
            with self._speaking(f"read {remote}"):
                found = receive_file(self._link, remote, part, self._reporter(remote, total))
            if found != wanted:
                raise TransportError(f"{self.label}: {remote} arrived damaged (sha256 {found})", transient=True)
            part.replace(path)
        except SyncRefusedError as error:
            raise TransportError(f"{self.label}: cannot read {remote}: {error.message}", remedy=error.remedy) from error
        except OSError as error:
            raise TransportError(f"{self.label}: cannot write {path}: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)

    def _reporter(self, remote: str, total_bytes: int) -> Callable[[int], None]:
        progress = self.progress
        if progress is None:
            return lambda _done_bytes: None
        return lambda done_bytes: progress(remote, done_bytes, total_bytes)

    def size_bytes(self, remote: str) -> int | None:
        """Size of a file, also beyond 4 GiB; None where there is none. Raises TransportError."""
        if STAT_V2 in self._link.features:
            with self._speaking(f"look at {remote}"):
                return file_size_bytes(self._link, remote)
        code, said = self._shell.ask('[ -f "$1" ] && stat -L -c %s "$1"', remote)
        return int(said) if code == 0 else None

    def sha256(self, remotes: Sequence[str]) -> dict[str, str]:
        """See Transport."""
        if not remotes:
            return {}
        code, said = self._shell.ask(SHA256_SH, *remotes)
        if code != 0:
            raise TransportError(
                f"{self.label}: cannot compute sha256 on the device: {said[-300:]!r}",
                remedy="the device needs sha256sum (toybox has it since Android 7)",
            )
        return self._shell.digests(remotes, said)

    def remove(self, remote: str) -> None:
        """See Transport."""
        self._folders.clear()
        self._shell.remove(remote)

    def close(self) -> None:
        """See Transport."""
        self._shell.close()
        for process in list(self._processes):
            process.kill()
        self._link.close()


def _connect(profile: DeviceProfile) -> Link:
    """By the route the profile names, or the one it implies."""
    route = profile.adb_route
    if route == "auto":
        route = "direct" if profile.host else "server"
    # An emulator of ours may be slow, and was seen alive just now; everything else is refused quickly.
    limit_s = profile.connect_timeout_s if profile.emulator else min(profile.connect_timeout_s, MAX_CONNECT_S)
    serial = profile.serial
    if route == "server":
        from harness.devices.transport.adb_choose import ServerTarget, connect_server

        if serial is None and profile.host is not None:
            host = f"[{profile.host}]" if ":" in profile.host else profile.host
            serial = f"{host}:{profile.port or 5555}"
        return connect_server(ServerTarget(profile.name, serial, profile.adb_server, profile.adb_key, limit_s))
    try:
        from harness.devices.transport.adb_connect import Target, connect_tcp, connect_usb

        if route == "usb":
            return connect_usb(Target(profile.name, serial=serial, key=profile.adb_key, limit_s=limit_s))
        return connect_tcp(Target(profile.name, profile.host, profile.port, serial, profile.adb_key, limit_s))
    except ImportError as error:
        raise DeviceError(
            f"{profile.name}: an ADB connection needs adb-shell: {error}",
            remedy="install the extra 'adb' (pip install 'ondevice-harness[adb]')",
        ) from error
