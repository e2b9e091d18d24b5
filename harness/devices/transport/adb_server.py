"""A device through the adb server: USB phones, wireless debugging, whatever `adb devices` lists. One socket per stream.

`adb_choose.py` finds the device and makes the ServerLink. The streams are sockets of our own, because a command needs both
directions at once and time limits on each. Used by `adb.py`.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from harness.devices.transport.adb_stream import OPEN_TIMEOUT_S, Link, Refused, Stream
from harness.errors import TransportError

CHUNK_BYTES = 256 * 1024
ALIVE_TIMEOUT_S = 2.0


class ServerStream(Stream):
    """A socket to the server that has become a stream to the device. Served by whoever calls, never by a thread."""

    def __init__(self, connection: socket.socket, lost: Callable[[BaseException | None], TransportError]) -> None:
        self._socket = connection
        self._lost = lost
        self._outbox: deque[memoryview] = deque()
        self._inbox: deque[bytes] = deque()
        self._ended = False
        self._error: OSError | None = None
        self._closed = False
        connection.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def _write(self) -> None:
        try:
            while self._outbox:
                written = self._socket.send(self._outbox[0])
                if written < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][written:]
                else:
                    self._outbox.popleft()
        except BlockingIOError:
            return
        except OSError:
            # The other side listens no more; why is said by what is yet to be read, or by its end.
            self._outbox.clear()

    def _read(self) -> None:
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._ended, self._error = True, error
            return
        if data:
            self._inbox.append(data)
        else:
            self._ended = True

    def _step(self, timeout_s: float) -> bool:
        """Wait for the socket and serve it; whether anything happened."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        self._selector.modify(self._socket, events)
        ready = self._selector.select(timeout_s)
        for _, mask in ready:
            if mask & selectors.EVENT_READ:
                self._read()
            if mask & selectors.EVENT_WRITE and not self._ended:
                self._write()
        return bool(ready)

    def send(self, data: bytes) -> None:
        """See Stream."""
        if self._closed or self._ended or not data:
            return
        self._outbox.append(memoryview(data))
        if len(self._outbox) == 1:
            self._write()

    def flush(self, stall_s: float) -> None:
        """See Stream."""
        while self._outbox and not self._ended:
            if not self._step(stall_s):
                raise TimeoutError

    def receive(self, timeout_s: float) -> bytes:
        """See Stream."""
        deadline = time.monotonic() + timeout_s
        while not self._inbox:
            if self._ended or self._closed:
                if self._error is not None:
                    raise self._lost(self._error)
                return b""
            left = deadline - time.monotonic()
            if not self._step(max(0.0, left)) and left <= 0:
                raise TimeoutError
        return self._inbox.popleft()

    def close(self) -> None:
        """See Stream. The server tells the daemon."""
        if not self._closed:
            self._closed = True
            self._selector.close()
            self._socket.close()


class ServerLink(Link):
    """A device that the server lists as usable. `address` is the server's host and port."""

    def __init__(self, label: str, serial: str, address: tuple[str, int], features: frozenset[str]) -> None:
        self.label = label
        self.place = f"{serial} through the adb server"
        self.features = features
        self._serial = serial.encode()
        self._address = address
        self._closed = False

    def _connect(self, requests: Sequence[bytes], timeout_s: float) -> socket.socket:
        """A socket on which these requests were granted. Raises Refused for the last one, OSError, EOFError."""
        deadline = time.monotonic() + timeout_s
        connection = socket.create_connection(self._address, timeout_s)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for request in requests:
                try:
                    _request(connection, request, deadline)
                except Refused as error:
                    if request is requests[-1]:
                        raise
                    raise OSError(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def open(self, service: bytes, timeout_s: float = OPEN_TIMEOUT_S) -> ServerStream:
        """See Link."""
        if self._closed:
            raise self.lost()
        try:
            return ServerStream(self._connect([b"host:transport:" + self._serial, service], timeout_s), self.lost)
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:
            raise self.lost(error) from error

    def alive(self) -> bool:
        """See Link. Asks the server."""
        if self._closed:
            return False
        try:
            with self._connect([b"host-serial:" + self._serial + b":get-state"], ALIVE_TIMEOUT_S) as connection:
                return _exactly(connection, 4 + len("device"))[4:] == b"device"
        except (OSError, EOFError, Refused):
            return False

    def close(self) -> None:
        """See Link. The server keeps its connection: others may use it."""
        self._closed = True


def _request(connection: socket.socket, words: bytes, deadline: float) -> None:
    """One request of the server's protocol. Raises Refused with its words, OSError, EOFError."""
    connection.settimeout(max(0.01, deadline - time.monotonic()))
    connection.sendall(b"%04x" % len(words) + words)
    answer = _exactly(connection, 4)
    if answer == b"FAIL":
        raise Refused(_exactly(connection, int(_exactly(connection, 4), 16)).decode("utf-8", "replace"))
    if answer != b"OKAY":
        raise OSError(f"it answers {answer!r}, which is no adb server's word")


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise EOFError("the adb server closed the connection")
        data += chunk
    return data
