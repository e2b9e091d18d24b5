"""This machine as a device: commands as child processes in sessions of their own, files by copying.

Files are copied even here, so that a run measures the bytes that were checked, whatever happens to the original later.
"""

from __future__ import annotations

import hashlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from converters.variant import sha256_file
from harness.devices.transport.base import Process, Tail, Transport, require_sha256
from harness.errors import TransportError

CHUNK_BYTES = 1 << 20
# How often a silent process is asked whether it still lives: a grandchild may hold its stdout open.
_POLL_S = 0.5


class LocalProcess(Process):
    """A child process that leads its own session, so that Ctrl-C does not reach it and one kill ends the whole group.

    One thread reads it; any thread may kill it, also two at once: what is registered and open is changed under a lock.
    """

    def __init__(self, child: subprocess.Popen[bytes], stdin: bytes, forget: Callable[[LocalProcess], None]) -> None:
        super().__init__()
        self._forget = forget
        self._released = False
        self._pipes = threading.RLock()
        self._signalling = threading.Lock()
        self._child = child
        self._pending = memoryview(stdin)
        self._close_stdin = False
        self._stderr = Tail()
        self._group_killed = False
        self._selector = selectors.DefaultSelector()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is None:
                raise TransportError("a child process has no pipes")
            os.set_blocking(stream.fileno(), False)
        self._stdin_fd, self._stdout_fd, self._stderr_fd = (
            stream.fileno() for stream in (child.stdin, child.stdout, child.stderr) if stream is not None
        )
        self._selector.register(self._stdout_fd, selectors.EVENT_READ)
        self._selector.register(self._stderr_fd, selectors.EVENT_READ)
        if self._pending:
            self._selector.register(self._stdin_fd, selectors.EVENT_WRITE)

    def _write(self) -> None:
        try:
            written = os.write(self._stdin_fd, self._pending[:CHUNK_BYTES])
        except BlockingIOError:
            return
        except BrokenPipeError:
            # The child stopped listening; whether it also died is told by its stdout and its return code.
            written = len(self._pending)
        self._pending = self._pending[written:]
        if not self._pending:
            self._selector.unregister(self._stdin_fd)
            if self._close_stdin:
                self._shut_stdin()

    def _shut_stdin(self) -> None:
        if self._child.stdin is not None and not self._child.stdin.closed:
            self._child.stdin.close()

    def _read(self, fd: int) -> bytes | None:
        """Bytes, empty at the end, None when there are none yet."""
        try:
            return os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return None

    def _step(self, timeout_s: float) -> bytes | None:
        """Wait for one of the pipes and serve it; what came on stdout, or None."""
        chunk: bytes | None = None
        for key, _ in self._selector.select(timeout_s):
            if key.fd == self._stdin_fd and self._pending:
                self._write()
            elif key.fd == self._stderr_fd:
                data = self._read(self._stderr_fd)
                if data == b"":
                    self._selector.unregister(self._stderr_fd)
                elif data:
                    self._stderr.feed(data)
            elif key.fd == self._stdout_fd:
                chunk = self._read(self._stdout_fd)
        return chunk

    def read_chunk(self, timeout_s: float) -> bytes:
        """See Process."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._pipes:
                chunk = self._next_chunk(max(0.0, min(deadline - time.monotonic(), _POLL_S)))
            if chunk is not None:
                return chunk
            if time.monotonic() >= deadline:
                raise TimeoutError

    def _next_chunk(self, timeout_s: float) -> bytes | None:
        """What came on stdout, empty at its end, None when nothing came in time. With the lock held."""
        if self._released or self._stdout_fd not in self._selector.get_map():
            return b""
        died = self._child.poll() is not None
        chunk = self._step(0.0 if died else timeout_s)
        if chunk == b"" or (chunk is None and died):
            self._selector.unregister(self._stdout_fd)
            return b""
        return chunk

    def close_stdin(self) -> None:
        """See Process."""
        with self._pipes:
            self._close_stdin = True
            if not self._pending:
                self._shut_stdin()

    def wait(self, timeout_s: float) -> int:
        """See Process. What remains of stdout is dropped."""
        deadline = time.monotonic() + timeout_s
        while self._child.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            with self._pipes:
                served = not self._released and len(self._selector.get_map()) > 0
                if served and self._step(min(left, 0.01)) == b"":
                    self._selector.unregister(self._stdout_fd)
            if not served:
                time.sleep(min(left, 0.002))
        self._kill_group()
        with self._pipes:
            if not self._released:
                self._drain_stderr()
        return self._child.returncode

    def _drain_stderr(self) -> None:
        while self._stderr_fd in self._selector.get_map():
            data = self._read(self._stderr_fd)
            if data is None:
                return
            if data == b"":
                self._selector.unregister(self._stderr_fd)
            else:
                self._stderr.feed(data)

    def _kill_group(self) -> None:
        """Once: after the leader is reaped its number may become another process's."""
        with self._signalling:
            if self._group_killed:
                return
            self._group_killed = True
            try:
                os.killpg(self._child.pid, signal.SIGKILL)
            except ProcessLookupError:
                return  # nobody is left: the wanted state

    def kill(self) -> None:
        """See Process."""
        # First the signal: a thread that waits for output holds the lock, and the end of the child wakes it.
        self._kill_group()
        with self._pipes:
            if self._released:
                return
            self._child.wait()
            self._drain_stderr()
            self._released = True
            self._selector.close()
            for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
                if stream is not None:
                    stream.close()
        self._forget(self)

    def stderr_tail(self) -> bytes:
        """See Process."""
        return self._stderr.get()


class LocalTransport(Transport):
    """This machine."""

    def __init__(self, label: str = "local") -> None:
        self.label = label
        self._processes: set[LocalProcess] = set()

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> LocalProcess:
        """See Transport."""
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise TransportError(
                f"{self.label}: cannot start {argv[0]!r}: {error.strerror}",
                remedy="check 'python' in the device profile",
            ) from error
        process = LocalProcess(child, stdin, self._processes.discard)
        self._processes.add(process)
        return process

    def push(self, path: Path, remote: str) -> None:
        """See Transport."""
        self._copy(path, Path(remote))

    def pull(self, remote: str, path: Path) -> None:
        """See Transport."""
        self._copy(Path(remote), path)

    def _copy(self, source: Path, target: Path) -> None:
        part = target.with_name(f"{target.name}.part-{uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = _copy_and_hash(source, part)
            require_sha256(part, digest, f"{self.label}: {target.name}")
            part.replace(target)
        except OSError as error:
            raise TransportError(f"{self.label}: cannot copy {source} to {target}: {error.strerror}") from error
        finally:
            if part.is_file():
                part.unlink()

    def sha256(self, remotes: Sequence[str]) -> dict[str, str]:
        """See Transport."""
        found = {}
        for remote in remotes:
            path = Path(remote)
            if path.is_file():
                found[remote] = sha256_file(path)
                os.utime(path)
        return found

    def remove(self, remote: str) -> None:
        """See Transport."""
        path = Path(remote)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise TransportError(f"{self.label}: cannot remove {remote}: {error.strerror}") from error

    def close(self) -> None:
        """See Transport."""
        for process in list(self._processes):
            process.kill()


def _copy_and_hash(source: Path, target: Path) -> str:
    """Copy a file; the digest is of what was read, so that the check of the copy means something."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
