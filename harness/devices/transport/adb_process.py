"""A command on a device over ADB: the second version of the shell protocol on one stream.

Made by `adb.py`. Packets carry stdin, stdout, stderr, the end of stdin and the exit code, each with its kind and length.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable

from harness.devices.transport.adb_stream import Link, Refused, Stream
from harness.devices.transport.base import Process, Tail
from harness.devices.transport.remote_shell import said_pid
from harness.errors import DeviceError

_HEADER = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
STDIN_PIECE_BYTES = 64 * 1024
KILL_TIMEOUT_S = 5.0
_PACKET_LIMIT_BYTES = 64 << 20
# The daemon's exit code is one byte; a process that a signal ended has this added to the signal's number, as in a shell.
_SIGNALLED = 128
_LAST_SIGNAL = 64


class AdbProcess(Process):
    """A command on a stream opened for it. `forget` is told when it is let go of."""

    def __init__(self, link: Link, stream: Stream, forget: Callable[[AdbProcess], None]) -> None:
        super().__init__()
        self._link = link
        self._stream = stream
        self._forget = forget
        self._received = bytearray()
        self._stdout: deque[bytes] = deque()
        self._stderr = Tail()
        self._code: int | None = None
        self._over = False
        self._stdin_open = True
        self._released = False
        self.pid: int | None = None

    def read_pid(self, marker: bytes, timeout_s: float) -> None:
        """Skip what the shell prints of its own, up to the line with the process number."""
        remedy = "check that `adb shell` works there, and that 'work_folder' exists"
        self.pid, rest = said_pid(self, self._link.label, marker, timeout_s, remedy)
        if rest:
            self._stdout.appendleft(rest)

    def _step(self, timeout_s: float) -> None:
        """Take in what comes next. Raises TimeoutError, TransportError."""
        data = self._stream.receive(timeout_s)
        if not data:
            self._over = True
            if self._code is None and not self._released and not self._link.alive():
                raise self._link.lost()
            return
        self._received += data
        at = 0
        while len(self._received) - at >= _HEADER.size:
            kind, size = _HEADER.unpack_from(self._received, at)
            if size > _PACKET_LIMIT_BYTES:
                raise self._link.lost(OSError("the daemon broke the shell protocol"))
            end = at + _HEADER.size + size
            if end > len(self._received):
                break
            self._take(kind, bytes(memoryview(self._received)[at + _HEADER.size : end]))
            at = end
        del self._received[:at]

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == _STDOUT and payload:
            self._stdout.append(payload)
        elif kind == _STDERR:
            self._stderr.feed(payload)
        elif kind == _EXIT:
            self._over = True
            code = payload[0] if payload else 0
            signalled = _SIGNALLED < code <= _SIGNALLED + _LAST_SIGNAL
            self._code = _SIGNALLED - code if signalled else code

    def read_chunk(self, timeout_s: float) -> bytes:
        """See Process."""
        deadline = time.monotonic() + timeout_s
        while not self._stdout:
            if self._over:
                return b""
            self._step(max(0.0, deadline - time.monotonic()))
        return self._stdout.popleft()

    def write(self, data: bytes) -> None:
        """Send more to stdin; returns at once."""
        for start in range(0, len(data), STDIN_PIECE_BYTES):
            piece = data[start : start + STDIN_PIECE_BYTES]
            self._stream.send(_HEADER.pack(_STDIN, len(piece)) + piece)

    def close_stdin(self) -> None:
        """See Process."""
        if self._stdin_open and not self._over:
            self._stdin_open = False
            self._stream.send(_HEADER.pack(_CLOSE_STDIN, 0))

    def wait(self, timeout_s: float) -> int:
        """See Process. What remains of stdout is dropped."""
        deadline = time.monotonic() + timeout_s
        while not self._over:
            self._step(max(0.0, deadline - time.monotonic()))
        if self._code is None:
            raise self._link.lost(OSError("the command ended without an exit code"))
        return self._code

    def kill(self) -> None:
        """See Process. Without a connection there is nothing to do: the other side sees end-of-file on its stdin."""
        if self._released:
            return
        self._released = True
        self._forget(self)
        try:
            if self._still_runs() and self.pid is not None:
                self._kill_group(self.pid)
        except (TimeoutError, Refused, DeviceError):
            return  # no way to the device any more: then it ends itself
        finally:
            self._stream.close()

    def _still_runs(self) -> bool:
        """Look at what has come already, without waiting: most often it has ended by itself."""
        try:
            while not self._over:
                self._step(0.0)
        except TimeoutError:
            return self._link.alive()
        return self._code is None and self._link.alive()

    def _kill_group(self, pid: int) -> None:
        command = f"shell,v2,raw:kill -KILL -{pid} 2>/dev/null || kill -KILL {pid} 2>/dev/null"
        stream = self._link.open(command.encode("ascii"), KILL_TIMEOUT_S)
        try:
            deadline = time.monotonic() + KILL_TIMEOUT_S
            while stream.receive(max(0.0, deadline - time.monotonic())):
                continue
        finally:
            stream.close()

    def stderr_tail(self) -> bytes:
        """See Process."""
        return self._stderr.get()
