"""The seam between the harness and a device: run a command, stream a process, move files. Everything above is the same
for every kind of device; everything below knows one kind of connection.

A command is always a list of arguments; quoting is the transport's work. Bytes stay bytes. A transport never retries and
never guesses: it raises TransportError, `transient` where the same call may succeed later.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from converters.variant import sha256_file
from harness.errors import TransportError

# What is kept of a process's stderr: its end, where a tool says why it died.
STDERR_TAIL_BYTES = 64 * 1024
# A line longer than this is no message of ours: refuse it before it fills the host's memory.
MAX_LINE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended. `returncode` is negative when a signal killed it; `stderr` holds its last 64 KiB."""

    returncode: int
    stdout: bytes
    stderr: bytes


class LineBuffer:
    """Chunks in, whole lines out, without their newline. A last line without a newline is given at the end."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._lines: deque[bytes] = deque()

    def feed(self, chunk: bytes) -> None:
        """Add what was read. Raises TransportError for a line beyond MAX_LINE_BYTES."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._parts.append(line)
            self._lines.append(b"".join(self._parts))
            self._parts, self._size = [], 0
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > MAX_LINE_BYTES:
                raise TransportError(f"the device sent a line of more than {MAX_LINE_BYTES} bytes")

    def pop(self) -> bytes | None:
        """The next whole line, or None while there is none."""
        return self._lines.popleft() if self._lines else None

    def end(self) -> bytes | None:
        """What was left without a newline, once; then None."""
        rest = b"".join(self._parts)
        self._parts, self._size = [], 0
        return rest or None


class Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int = STDERR_TAIL_BYTES) -> None:
        self._limit = limit
        self._data = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Add bytes and forget the oldest beyond the limit."""
        self._data += chunk
        if len(self._data) > self._limit:
            del self._data[: -self._limit]

    def get(self) -> bytes:
        """What is kept."""
        return bytes(self._data)


class Process(ABC):
    """A command running on the device. Its stdout is read as chunks or as lines; its stdin stays open until
    `close_stdin`, as the life line by which the other side sees that the harness is gone."""

    def __init__(self) -> None:
        self._lines = LineBuffer()
        self._ended = False

    @abstractmethod
    def read_chunk(self, timeout_s: float) -> bytes:
        """The next bytes of stdout; empty at its end. Raises TimeoutError, and TransportError for a lost connection."""

    @abstractmethod
    def close_stdin(self) -> None:
        """Send end-of-file, after everything given to `start` has been written."""

    @abstractmethod
    def wait(self, timeout_s: float) -> int:
        """The return code (negative: the signal), once the process has ended. Raises TimeoutError, TransportError."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the process and its children on the device and let go of it; harmless when it has ended or twice.

        Whoever started a process calls this at the end, also of a process that ended by itself.
        """

    @abstractmethod
    def stderr_tail(self) -> bytes:
        """The end of stderr so far."""

    def read_line(self, timeout_s: float) -> bytes | None:
        """The next line of stdout without its newline; None at the end.

        Raises TimeoutError when no whole line came within `timeout_s`, and TransportError for a lost connection.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            line = self._lines.pop()
            if line is not None or self._ended:
                return line
            chunk = self.read_chunk(max(0.0, deadline - time.monotonic()))
            if chunk:
                self._lines.feed(chunk)
            else:
                self._ended = True
                return self._lines.end()


class Transport(ABC):
    """A way to one device. Not safe for use by several threads at once."""

    #: How errors call the device.
    label: str
    #: Told while a file travels: its name on the device, bytes so far, bytes in all. A transport may have too little to tell.
    progress: Callable[[str, int, int], None] | None = None

    @abstractmethod
    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a command; `stdin` is written and left open. `env` is added to the environment the device gives."""

    @abstractmethod
    def push(self, path: Path, remote: str) -> None:
        """Copy a file to the device: folders made, written under a temporary name, sha256 verified there, renamed."""

    @abstractmethod
    def pull(self, remote: str, path: Path) -> None:
        """Copy a file from the device: temporary name, sha256 verified, renamed. `path` is the caller's alone."""

    @abstractmethod
    def sha256(self, remotes: Sequence[str]) -> dict[str, str]:
        """SHA-256 of those of the files that exist, in one go; marks them as used now."""

    @abstractmethod
    def remove(self, remote: str) -> None:
        """Remove a file, or a folder with all in it; harmless when there is none."""

    @abstractmethod
    def close(self) -> None:
        """Kill what runs, close the connection. May be called twice."""

    def exists_with_sha256(self, remote: str, digest: str) -> bool:
        """Whether the device has that file with those bytes."""
        return self.sha256([remote]).get(remote) == digest

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end. A non-zero return code is an answer, not an error.

        Raises TransportError when it takes more than `timeout` seconds (it is killed on the device) or the way there is lost.
        """
        deadline = time.monotonic() + timeout
        process = self.start(argv, stdin=stdin, cwd=cwd, env=env)
        chunks: list[bytes] = []
        try:
            process.close_stdin()
            while chunk := process.read_chunk(max(0.0, deadline - time.monotonic())):
                chunks.append(chunk)
            returncode = process.wait(max(0.1, deadline - time.monotonic()))
        except TimeoutError as error:
            said = process.stderr_tail().decode("utf-8", "replace").strip()[-500:]
            raise TransportError(
                f"{self.label}: {argv[0]!r} took more than {timeout:g} s and was killed"
                + (f": {said}" if said else ""),
                transient=True,
            ) from error
        finally:
            process.kill()
        return Completed(returncode, b"".join(chunks), process.stderr_tail())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def require_sha256(path: Path, digest: str, what: str) -> None:
    """Raise TransportError unless the file has that digest."""
    found = sha256_file(path)
    if found != digest:
        raise TransportError(f"{what}: arrived with sha256 {found[:16]}…, not {digest[:16]}…", transient=True)
