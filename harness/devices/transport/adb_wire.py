"""The ADB wire protocol on one connection: many streams at once, each packet acknowledged, over TCP or USB.

`adb_connect.py` shakes hands and gives the pipe to a WireLink. One thread reads, one writes: so neither side can block the
other. What is small and goes without waiting is written at once, by whoever asks: a change of threads costs more.
"""

from __future__ import annotations

import queue
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from harness.devices.transport.adb_stream import OPEN_TIMEOUT_S, Link, Refused, Stream

CNXN, AUTH, STLS, OPEN, OKAY, CLSE, WRTE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"STLS", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
HEADER = struct.Struct("<6I")
#: From this version on payloads carry no checksum.
VERSION_SKIP_CHECKSUM = 0x01000001
MAX_PAYLOAD_BYTES = 1 << 20
#: A stream that nobody reads holds the device back beyond that.
INBOX_LIMIT_BYTES = 8 << 20
#: Written at once, so that progress shows on a slow link.
SLICE_BYTES = 256 * 1024
#: A packet up to that size need not wait for the writing thread when that has nothing to do.
SMALL_BYTES = 16 * 1024
JOIN_TIMEOUT_S = 0.5


class ProtocolBrokenError(OSError):
    """What came is no ADB packet."""


class Packet(NamedTuple):
    """One packet: command, its two arguments, its payload."""

    command: int
    arg0: int
    arg1: int
    payload: bytes = b""


def header_of(packet: Packet, *, checksum: bool) -> bytes:
    """What goes before the payload."""
    total = sum(packet.payload) & 0xFFFFFFFF if checksum else 0
    return HEADER.pack(
        packet.command, packet.arg0, packet.arg1, len(packet.payload), total, packet.command ^ 0xFFFFFFFF
    )


class Pipe(ABC):
    """Bytes to and from the daemon; `read` and `write` are each called by one thread at a time."""

    #: monotonic seconds; until it is None reads and writes must end by then
    deadline: float | None = None

    @abstractmethod
    def read(self, size_bytes: int) -> bytes:
        """Exactly so many bytes. Raises OSError (TimeoutError beyond the deadline), EOFError."""

    @abstractmethod
    def write(self, data: memoryview) -> None:
        """All of it. Raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """End reads and writes, also those under way; harmless twice."""

    def write_packet(self, packet: Packet, *, checksum: bool, moved: Callable[[], None] = lambda: None) -> None:
        """Send a packet; `moved` is called as it gets on. Raises OSError.

        Header and payload go together, but for a payload that would be costly to copy.
        """
        data = memoryview(packet.payload)
        head = min(len(data), SLICE_BYTES)
        self.write(memoryview(header_of(packet, checksum=checksum) + data[:head]))
        moved()
        for start in range(head, len(data), SLICE_BYTES):
            self.write(data[start : start + SLICE_BYTES])
            moved()

    def write_now(self, packet: Packet, *, checksum: bool) -> bytes | None:
        """What is left of the packet after writing as much as goes without waiting; None where nothing went."""
        del packet, checksum
        return None

    def read_packet(self, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES, checksum: bool = False) -> Packet:
        """The next packet. Raises ProtocolBrokenError, OSError, EOFError."""
        command, arg0, arg1, size, total, magic = HEADER.unpack(self.read(HEADER.size))
        if magic != command ^ 0xFFFFFFFF or size > max_payload_bytes:
            raise ProtocolBrokenError("it sent what is no ADB packet")
        payload = self.read(size) if size else b""
        if checksum and sum(payload) & 0xFFFFFFFF != total:
            raise ProtocolBrokenError("a packet arrived damaged (wrong checksum)")
        return Packet(command, arg0, arg1, payload)


class WireLink(Link):
    """The connection after the handshake. `max_payload_bytes` is what the daemon takes at once."""

    def __init__(
        self,
        label: str,
        place: str,
        pipe: Pipe,
        *,
        features: frozenset[str],
        max_payload_bytes: int,
        checksum: bool,
    ) -> None:
        self.label, self.place, self.features = label, place, features
        self.max_payload_bytes = max_payload_bytes
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.progress = 0
        self._pipe = pipe
        self._checksum = checksum
        self._closed = False
        self._streams: dict[int, WireStream] = {}
        self._abandoned: set[int] = set()
        self._last_id = 0
        self._outgoing: queue.SimpleQueue[Packet | bytes | None] = queue.SimpleQueue()
        self._queued = 0  # counted up with `changed` held
        self._written = 0  # counted up by the writing thread; equal: it is idle
        self._threads = [
            threading.Thread(target=work, name=f"adb {label}", daemon=True) for work in (self._read, self._write)
        ]
        pipe.deadline = None
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        """See Link."""
        return self.error is None and not self._closed

    def open(self, service: bytes, timeout_s: float = OPEN_TIMEOUT_S) -> WireStream:
        """See Link."""
        payload = service + b"\0"
        with self.changed:
            self.check()
            self._last_id = self._last_id % 0xFFFFFFFF + 1
            stream = self._streams[self._last_id] = WireStream(self, self._last_id)
            self.put(Packet(OPEN, stream.local_id, 0, payload))
            try:
                self.wait(lambda: stream.remote_id != 0 or stream.ended, timeout_s)
                if stream.remote_id == 0:
                    raise Refused
            except BaseException:
                self.forget(stream)
                self._abandoned.add(stream.local_id)
                raise
        return stream

    def check(self) -> None:
        """Raise TransportError when the connection is gone."""
        if not self.alive():
            raise self.lost(self.error)

    def wait(self, condition: Callable[[], object], timeout_s: float) -> None:
        """With `changed` held: until the condition holds. Raises TimeoutError, TransportError."""
        met = self.changed.wait_for(lambda: condition() or not self.alive(), timeout_s)
        if not condition():
            self.check()
            if not met:
                raise TimeoutError

    def put(self, packet: Packet) -> None:
        """With `changed` held: send a packet, after those before it."""
        rest: Packet | bytes = packet
        if self._queued == self._written and len(packet.payload) <= SMALL_BYTES:
            left = self._pipe.write_now(packet, checksum=self._checksum)
            if left == b"":
                return
            rest = packet if left is None else left
        self._queued += 1
        self._outgoing.put(rest)

    def forget(self, stream: WireStream) -> None:
        """The stream's number is not listened to any more."""
        self._streams.pop(stream.local_id, None)

    def _write(self) -> None:
        try:
            while (packet := self._outgoing.get()) is not None:
                if isinstance(packet, bytes):
                    self._pipe.write(memoryview(packet))
                else:
                    self._pipe.write_packet(packet, checksum=self._checksum, moved=self._moved)
                self._written += 1
        except OSError as error:
            self._fail(error)

    def _moved(self) -> None:
        self.progress += 1

    def _read(self) -> None:
        try:
            while True:
                packet = self._pipe.read_packet(checksum=self._checksum)
                self._moved()
                with self.changed:
                    self._dispatch(packet)
                    self.changed.notify_all()
        except (OSError, EOFError) as error:
            self._fail(error)

    def _dispatch(self, packet: Packet) -> None:
        stream = self._streams.get(packet.arg1)
        if stream is None:
            # Of a stream closed here, of which the daemon learns by the CLSE under way; or opened after its time was up.
            if packet.command == OKAY and packet.arg1 in self._abandoned:
                self._abandoned.discard(packet.arg1)
                self.put(Packet(CLSE, packet.arg1, packet.arg0))
            return
        if packet.command == OKAY:
            stream.remote_id = stream.remote_id or packet.arg0
            stream.acknowledged()
        elif packet.command == WRTE:
            stream.arrived(packet.payload)
        elif packet.command == CLSE:
            stream.ended = True
            self.forget(stream)
            if stream.remote_id:
                self.put(Packet(CLSE, stream.local_id, stream.remote_id))

    def _fail(self, error: BaseException) -> None:
        with self.changed:
            if self.error is None:
                self.error = error
            self.changed.notify_all()
        self._outgoing.put(None)
        self._pipe.close()

    def close(self) -> None:
        """See Link. What was queued (the last CLSE above all) is given a moment to leave."""
        if self._closed:
            return
        self._outgoing.put(None)
        self._threads[1].join(JOIN_TIMEOUT_S)
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._pipe.close()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)


class WireStream(Stream):
    """One stream; its fields are guarded by the link's `changed`."""

    def __init__(self, link: WireLink, local_id: int) -> None:
        self.local_id = local_id
        self.remote_id = 0
        self.ended = False
        self._link = link
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._owes_okay = False
        self._outbox: deque[bytes] = deque()
        self._awaits_okay = True  # for OPEN itself

    def acknowledged(self) -> None:
        """Called by the link: the daemon takes the next packet."""
        self._awaits_okay = False
        self._next()

    def arrived(self, payload: bytes) -> None:
        """Called by the link."""
        self._inbox.append(payload)
        self._inbox_bytes += len(payload)
        self._owes_okay = True
        self._acknowledge()

    def _acknowledge(self) -> None:
        if self._owes_okay and self._inbox_bytes <= INBOX_LIMIT_BYTES and not self.ended:
            self._owes_okay = False
            self._link.put(Packet(OKAY, self.local_id, self.remote_id))

    def _next(self) -> None:
        """Send what waits, as much as one packet takes."""
        if self._awaits_okay or not self._outbox or self.ended:
            return
        limit, parts, size = self._link.max_payload_bytes, [], 0
        while self._outbox and size < limit:
            data = self._outbox.popleft()
            if size + len(data) > limit:
                self._outbox.appendleft(data[limit - size :])
                data = data[: limit - size]
            parts.append(data)
            size += len(data)
        self._awaits_okay = True
        self._link.put(Packet(WRTE, self.local_id, self.remote_id, parts[0] if len(parts) == 1 else b"".join(parts)))

    def send(self, data: bytes) -> None:
        """See Stream."""
        with self._link.changed:
            self._link.check()
            if data and not self.ended:
                self._outbox.append(data)
                self._next()

    def flush(self, stall_s: float) -> None:
        """See Stream. One packet may still be unacknowledged: the next is made ready meanwhile."""
        seen, since = self._link.progress, time.monotonic()
        while True:
            try:
                with self._link.changed:
                    self._link.wait(lambda: not self._outbox or self.ended, min(stall_s, 1.0))
            except TimeoutError:
                if self._link.progress != seen:
                    seen, since = self._link.progress, time.monotonic()
                elif time.monotonic() - since >= stall_s:
                    raise
            else:
                return

    def receive(self, timeout_s: float) -> bytes:
        """See Stream."""
        link = self._link
        with link.changed:
            link.wait(lambda: self._inbox or self.ended, timeout_s)
            if not self._inbox:
                return b""
            chunk = self._inbox.popleft()
            self._inbox_bytes -= len(chunk)
            self._acknowledge()
            return chunk

    def close(self) -> None:
        """See Stream."""
        link = self._link
        with link.changed:
            link.forget(self)
            if not self.ended and link.alive() and self.remote_id:
                link.put(Packet(CLSE, self.local_id, self.remote_id))
            self.ended = True
            self._outbox.clear()
