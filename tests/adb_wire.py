"""A client of the ADB wire protocol that sends what it is told, also nonsense: the hostile one of the tests."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from harness.devices.transport.testing import DaemonOptions, RunningDaemon
from harness.devices.transport.testing.wire import (
    CLSE,
    CNXN,
    HEADER,
    OKAY,
    OPEN,
    VERSION_SKIP_CHECKSUM,
    WRTE,
    Header,
    Packet,
    decode_header,
    encode,
)

MAX_BYTES = 1 << 20


class WireClient:
    """A connection. `packet()` is the next packet of the device; ConnectionError when it hangs up."""

    def __init__(self, port: int, *, version: int = VERSION_SKIP_CHECKSUM, max_data_bytes: int = MAX_BYTES) -> None:
        self.version = version
        self.max_data_bytes = max_data_bytes
        self.last_id = 6
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, command: int, arg0: int = 0, arg1: int = 0, payload: bytes = b"") -> None:
        self.raw(encode(Packet(command, arg0, arg1, payload), with_checksum=True))

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise ConnectionError(f"the device hung up after {len(data)} of {size} bytes")
            data += part
        return data

    def header(self) -> Header:
        return decode_header(self.exactly(HEADER.size), max_data_bytes=MAX_BYTES)

    def packet(self) -> Packet:
        header = self.header()
        return Packet(header.command, header.arg0, header.arg1, self.exactly(header.length_bytes))

    def greet(self) -> Packet:
        self.send(CNXN, self.version, self.max_data_bytes, b"host::features=shell_v2\0")
        return self.packet()

    def open(self, service: str) -> WireStream:
        self.last_id += 1
        self.send(OPEN, self.last_id, 0, service.encode() + b"\0")
        while (answer := self.packet()).arg1 != self.last_id:
            pass  # the end of an earlier stream
        assert answer.command == OKAY, answer
        return WireStream(self, self.last_id, answer.arg0)

    def until_dropped(self) -> None:
        """Read until the device hangs up. Raises ConnectionError, always, or TimeoutError."""
        while True:
            self.exactly(1)


class WireStream:
    """One stream, when it is the only one open of its client."""

    def __init__(self, client: WireClient, local_id: int, remote_id: int) -> None:
        self.client = client
        self.local_id = local_id
        self.remote_id = remote_id
        self.buffer = b""
        self.acknowledged = 0
        self.ended = False

    def _one(self) -> None:
        packet = self.client.packet()
        if packet.arg1 != self.local_id:
            return  # the end of an earlier stream, which may come after this one was opened
        if packet.command == WRTE:
            self.buffer += packet.payload
            self.client.send(OKAY, self.local_id, self.remote_id)
        elif packet.command == OKAY:
            self.acknowledged += 1
        elif packet.command == CLSE:
            self.ended = True

    def write(self, data: bytes) -> None:
        self.client.send(WRTE, self.local_id, self.remote_id, data)
        before = self.acknowledged
        while self.acknowledged == before and not self.ended:
            self._one()

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if self.ended:
                raise EOFError
            self._one()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_all(self) -> bytes:
        while not self.ended:
            self._one()
        data, self.buffer = self.buffer, b""
        return data

    def close(self) -> None:
        self.client.send(CLSE, self.local_id, self.remote_id)
        while not self.ended:
            self._one()

    def sync(self, name: bytes, data: bytes | str = b"") -> None:
        """Send a request of the sync service."""
        raw = data.encode() if isinstance(data, str) else data
        self.write(struct.pack("<4sI", name, len(raw)) + raw)

    def fail(self) -> str:
        """Read a FAIL; its text."""
        name, length = struct.unpack("<4sI", self.read(8))
        assert name == b"FAIL", name
        return self.read(length).decode()


def until(done: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(device: RunningDaemon) -> None:
    """The device serves a new client."""
    with WireClient(device.port) as connection:
        assert connection.greet().command == CNXN
        assert connection.open("shell:echo alive").read_all() == b"alive\n"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A device whose files are a folder."""
    root = tmp_path / "root"
    root.mkdir()
    with RunningDaemon(DaemonOptions(root=root)) as daemon:
        yield daemon


@pytest.fixture
def client(device: RunningDaemon) -> Iterator[WireClient]:
    """A connection to it that has shaken hands."""
    with WireClient(device.port) as connection:
        connection.greet()
        yield connection
