"""A device over SSH: one connection, reused for every command, stream and file; a synchronous face on asyncssh.

Every command runs as `sh -c` that first says its process number, by which the whole group can be killed later.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import asyncssh

from converters.variant import sha256_file
from harness.devices.transport.base import Transport, require_sha256
from harness.devices.transport.remote_shell import REMEDY, SHA256_SH, RemoteShell
from harness.devices.transport.ssh_connect import Target, connect
from harness.devices.transport.ssh_process import START_TIMEOUT_S, Link, SshProcess
from harness.errors import TransportError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

TRANSFER_TIMEOUT_S = 3600.0
SFTP_REQUESTS = 64  # blocks in flight: without them a transfer waits a round trip per block

_SHA256_PY = """
import hashlib, os, sys
for name in sys.argv[1:]:
    if not os.path.isfile(name):
        sys.stdout.write("absent\\n")
        continue
    os.utime(name)
    digest = hashlib.sha256()
    with open(name, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    sys.stdout.write(digest.hexdigest() + "\\n")
"""


class SshTransport(Transport):
    """A device reached over SSH. Connects at once. Raises TransportError, HostKeyError."""

    def __init__(self, target: Target, *, python: str = "python3") -> None:
        self.label = target.label
        self._target = target
        self._python = python
        self._marker = f"harness-{secrets.token_hex(8)}:"
        self._shell = RemoteShell(self.label, lambda: self.start(["sh"]), lambda: self._link.lost(None))
        self._sftp: asyncssh.SFTPClient | None = None
        self._has_sftp = True
        self._has_sha256sum = True
        self._link = Link(self.label, target.place, lambda: connect(target), target.connect_timeout_s + 1)

    @classmethod
    def from_profile(cls, profile: DeviceProfile) -> SshTransport:
        """The transport a device profile asks for."""
        if profile.host is None:
            raise TransportError(f"{profile.name}: an ssh device needs 'host'")
        target = Target(
            label=profile.name,
            host=profile.host,
            port=profile.port,
            user=profile.user,
            identity_file=profile.identity_file,
            known_hosts=profile.known_hosts,
            connect_timeout_s=profile.connect_timeout_s,
            # A guest of our own rests between its jobs, and when it ends, so does its connection.
            keepalive=profile.emulator is None,
        )
        return cls(target, python=profile.python or "python3")

    def _command(self, argv: Sequence[str], cwd: str | None, env: Mapping[str, str] | None) -> str:
        """`exec` throughout, so that the number said first is the program's own and signals reach it."""
        script = f"printf '%s%d\\n' {self._marker} $$; "
        if cwd is not None:
            script += f"cd {shlex.quote(cwd)} || exit 126; "
        words = ["env", *(f"{key}={value}" for key, value in env.items())] if env else []
        script += "exec " + shlex.join([*words, *argv])
        return "exec sh -c " + shlex.quote(script)

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> SshProcess:
        """See Transport."""

        async def launch() -> asyncssh.SSHClientProcess[bytes]:
            process = await self._link.connection.create_process(
                self._command(argv, cwd, env), encoding=None, request_pty=False
            )
            if stdin:
                process.stdin.write(stdin)
            return process

        process = SshProcess(self._link, self._link.guarded(launch(), START_TIMEOUT_S))
        self._link.processes.add(process)
        try:
            process.read_pid(self._marker.encode(), START_TIMEOUT_S)
        except TimeoutError as error:
            process.kill()
            raise TransportError(
                f"{self.label}: no command started within {START_TIMEOUT_S:g} s", transient=True
            ) from error
        except BaseException:
            process.kill()
            raise
        return process

    async def _open_sftp(self) -> asyncssh.SFTPClient | None:
        """The one SFTP session, or None where the device has no such service."""
        if self._sftp is None and self._has_sftp:
            try:
                self._sftp = await self._link.connection.start_sftp_client()
            except (asyncssh.ChannelOpenError, asyncssh.SFTPError):
                self._has_sftp = False
        return self._sftp

    async def _put(self, path: Path, part: str) -> bool:
        sftp = await self._open_sftp()
        if sftp is None:
            return False
        await sftp.makedirs(str(PurePosixPath(part).parent), exist_ok=True)
        await sftp.put(str(path), part, max_requests=SFTP_REQUESTS, progress_handler=self._reporter(part))
        return True

    def _reporter(self, remote: str) -> Callable[[bytes, bytes, int, int], None] | None:
        progress = self.progress
        if progress is None:
            return None
        name = remote.partition(".part-")[0]
        return lambda _source, _target, done_bytes, total_bytes: progress(name, done_bytes, total_bytes)

    def push(self, path: Path, remote: str) -> None:
        """See Transport. The file is hashed here while it is under way."""
        part = f"{remote}.part-{secrets.token_hex(8)}"
        try:
            with ThreadPoolExecutor(1, "sha256") as pool:
                hashing = pool.submit(sha256_file, path)
                if not self._transfer(self._put(path, part), f"cannot write {remote}"):
                    self._stream("cannot write", 'mkdir -p "$(dirname "$1")" && cat > "$1"', part, path.read_bytes())
                digest = hashing.result()
            found = self._shell.quick_digest(part, path.stat().st_size) or self.sha256([part]).get(part)
            if found != digest:
                raise TransportError(f"{self.label}: {remote} arrived damaged (sha256 {found})", transient=True)
            self._shell.must("cannot rename", 'mv -f "$1" "$2"', part, remote)
        except BaseException:
            if self._link.alive():
                self.remove(part)
            raise

    async def _get(self, remote: str, part: Path) -> bool:
        sftp = await self._open_sftp()
        if sftp is None:
            return False
        await sftp.get(remote, str(part), max_requests=SFTP_REQUESTS, progress_handler=self._reporter(remote))
        return True

    def pull(self, remote: str, path: Path) -> None:
        """See Transport."""
        part = path.with_name(f"{path.name}.part-{secrets.token_hex(8)}")
        try:
            digest = self.sha256([remote]).get(remote)
            if digest is None:
                raise TransportError(f"{self.label}: there is no {remote} on the device")
            if not self._transfer(self._get(remote, part), f"cannot read {remote}"):
                part.write_bytes(self._stream("cannot read", 'cat "$1"', remote))
            require_sha256(part, digest, f"{self.label}: {remote}")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _transfer(self, coroutine: Coroutine[Any, Any, bool], failed: str) -> bool:
        try:
            return self._link.loop.call(coroutine, TRANSFER_TIMEOUT_S)
        except (OSError, asyncssh.Error) as error:
            if not self._link.alive():
                raise self._link.lost(error) from error
            words = error.reason if isinstance(error, asyncssh.SFTPError) else str(error)
            raise TransportError(f"{self.label}: {failed}: {words}", remedy=REMEDY) from error

    def _stream(self, failed: str, script: str, path: str, stdin: bytes = b"") -> bytes:
        """A line of sh with bytes going in or out: for devices without SFTP."""
        done = self.run(["sh", "-c", script, "sh", path], timeout=TRANSFER_TIMEOUT_S, stdin=stdin)
        if done.returncode != 0:
            self._shell.fail(failed, path, done.stderr)
        return done.stdout

    def sha256(self, remotes: Sequence[str]) -> dict[str, str]:
        """See Transport. Uses the device's sha256sum, or else its Python."""
        if not remotes:
            return {}
        code, said = 1, b""
        if self._has_sha256sum:
            code, said = self._shell.ask(SHA256_SH, *remotes)
            self._has_sha256sum = code == 0
        if code != 0:
            code, said = self._shell.ask(shlex.join([self._python, "-c", _SHA256_PY]) + ' "$@"', *remotes)
        if code != 0:
            raise TransportError(f"{self.label}: cannot compute sha256 on the device: {said[-300:]!r}")
        return self._shell.digests(remotes, said)

    def remove(self, remote: str) -> None:
        """See Transport."""
        self._shell.remove(remote)

    def close(self) -> None:
        """See Transport."""
        self._link.close()
