"""Small questions to a device with a POSIX shell, asked in one long-lived `sh`, so that its start is paid once.

Shared by the SSH and the ADB transport: hashing, renaming, removing. One command at a time, each in a subshell of its own. And
which number a command's process has there, by what its shell said first.
"""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import NoReturn, Protocol

from harness.devices.transport.base import Process
from harness.errors import TransportError

ANSWER_TIMEOUT_S = 3600.0
# A busy device may take long over a large file; whether it is still there is asked so often.
CHECK_INTERVAL_S = 15.0
# One line per file, in order. `sha256sum < file` keeps odd file names out of its output.
SHA256_SH = (
    'for f do if [ -f "$f" ]; then touch -c "$f" 2>/dev/null; sha256sum < "$f" || exit 127; else echo absent; fi; done'
)
# From here on openssl, which uses a CPU's SHA instructions, beats coreutils' sha256sum.
LARGE_BYTES = 8 << 20
# What a login may print of its own before a command begins.
_NOISE_LIMIT = 1 << 20
REMEDY = "check free space and rights of 'work_folder'"


def said_pid(process: Process, label: str, marker: bytes, timeout_s: float, remedy: str) -> tuple[int, bytes]:
    """The process number that stands behind `marker`, and what came after its line. What the login printed before it is skipped.

    Raises TransportError, with `label` and `remedy`, where the output ends or goes on without it; TimeoutError."""
    deadline = time.monotonic() + timeout_s
    seen = b""
    while True:
        start = seen.find(marker)
        end = seen.find(b"\n", start)
        if start >= 0 and end >= 0:
            return int(seen[start + len(marker) : end]), seen[end + 1 :]
        chunk = process.read_chunk(max(0.0, deadline - time.monotonic()))
        seen += chunk
        if not chunk or len(seen) > _NOISE_LIMIT:
            said = (seen + process.stderr_tail()).decode("utf-8", "replace").strip()[-300:]
            raise TransportError(f"{label}: the device runs no commands" + (f": {said}" if said else ""), remedy=remedy)


class Shell(Protocol):
    """A running `sh` whose stdin can be written."""

    def write(self, data: bytes) -> None:
        """Send more to stdin."""

    def read_chunk(self, timeout_s: float) -> bytes:
        """See Process."""

    def kill(self) -> None:
        """See Process."""


class RemoteShell:
    """Lines of sh on the device. `start` gives a running `sh`; `lost` the error for one that ended; `check` raises
    TransportError when a silent device is gone (where nothing else notices). Several threads may ask: one waits for the other."""

    def __init__(
        self,
        label: str,
        start: Callable[[], Shell],
        lost: Callable[[], TransportError],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._label = label
        self._start = start
        self._lost = lost
        self._check = check
        self._marker = f"harness-{secrets.token_hex(8)}:"
        self._shell: Shell | None = None
        self._has_openssl = True
        self._asking = threading.Lock()

    def ask(self, script: str, *arguments: str) -> tuple[int, bytes]:
        """Run a line of sh with "$@": its code, its stdout with its stderr. Raises TransportError."""
        # Engines of one device are brought there by a thread each; of two answers in one stream nobody could tell which is whose.
        with self._asking:
            return self._ask(script, *arguments)

    def _ask(self, script: str, *arguments: str) -> tuple[int, bytes]:
        if self._shell is None:
            self._shell = self._start()
        mark = b"\n" + self._marker.encode()
        command = (
            f"set -- {shlex.join(arguments)}; ( {script} ) </dev/null 2>&1; code=$?; echo; echo {self._marker}$code\n"
        )
        try:
            self._shell.write(command.encode("utf-8", "surrogateescape"))
            deadline = time.monotonic() + ANSWER_TIMEOUT_S
            seen = b""
            while (at := seen.rfind(mark)) < 0 or not seen.endswith(b"\n"):
                chunk = self._next(self._shell, deadline)
                if not chunk:
                    raise self._lost()
                seen += chunk
        except TimeoutError as error:
            self.close()
            raise TransportError(f"{self._label}: no answer to {script!r}", transient=True) from error
        except BaseException:
            self.close()
            raise
        return int(seen[at + len(mark) :]), seen[:at]

    def _next(self, shell: Shell, deadline: float) -> bytes:
        while True:
            try:
                return shell.read_chunk(CHECK_INTERVAL_S)
            except TimeoutError:
                self._check()
                if time.monotonic() >= deadline:
                    raise

    def must(self, failed: str, script: str, *paths: str) -> None:
        """A line of sh on some paths. Raises TransportError when it fails."""
        code, said = self.ask(script, *paths)
        if code != 0:
            self.fail(failed, paths[-1], said)

    def fail(self, failed: str, path: str, said: bytes) -> NoReturn:
        """Raise TransportError with the device's own words."""
        words = said.decode("utf-8", "replace").strip()[-300:]
        raise TransportError(f"{self._label}: {failed} {path}: {words}", remedy=REMEDY)

    def quick_digest(self, remote: str, size_bytes: int) -> str | None:
        """SHA-256 of a large file by the device's openssl; None for a small one, or where there is no openssl."""
        if size_bytes < LARGE_BYTES or not self._has_openssl:
            return None
        code, said = self.ask('openssl dgst -sha256 -r < "$1"', remote)
        self._has_openssl = code == 0
        return said[:64].decode("ascii", "replace") if code == 0 else None

    def remove(self, remote: str) -> None:
        """Remove a file, or a folder with all in it."""
        if not PurePosixPath(remote).name:
            raise TransportError(f"{self._label}: {remote!r} is not to be removed")
        self.must("cannot remove", 'rm -rf -- "$1"', remote)

    def digests(self, remotes: Sequence[str], said: bytes) -> dict[str, str]:
        """What SHA256_SH printed, by file. Raises TransportError for anything else."""
        lines = said.decode("ascii", "replace").splitlines()
        if len(lines) != len(remotes):
            raise TransportError(f"{self._label}: cannot compute sha256 on the device: {said[-300:]!r}")
        return {name: line[:64] for name, line in zip(remotes, lines, strict=True) if line != "absent"}

    def close(self) -> None:
        """End the shell; the next question starts another."""
        shell, self._shell = self._shell, None
        if shell is not None:
            shell.kill()
