"""One stream of a connection: bytes both ways, one unacknowledged packet each way, as the protocol demands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from .faults import Where
from .wire import CLSE, OKAY, WRTE, Packet, WireError

# A client has to wait for OKAY before its next WRTE; one that does not is cut off here.
MAX_WAITING_PACKETS = 16


class StreamClosed(Exception):  # noqa: N818 - it is no error: the other side hung up
    """The other side closed the stream."""


class Stream:
    """The device's end of a stream. `inbound` and `outbound` say as what faults count its bytes."""

    def __init__(
        self,
        send: Callable[[Packet, Where | None], Awaitable[None]],
        *,
        local_id: int,
        remote_id: int,
        max_data_bytes: int,
        inbound: Where,
        outbound: Where,
    ) -> None:
        self._send = send
        self.local_id = local_id
        self.remote_id = remote_id
        self.inbound = inbound
        self.outbound = outbound
        self._max_data_bytes = max_data_bytes
        self._inbox: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._writing = asyncio.Lock()
        self.closed = asyncio.Event()

    def deliver(self, payload: bytes) -> None:
        """A packet came. Raises WireError when the client floods the stream."""
        if len(self._inbox) >= MAX_WAITING_PACKETS:
            raise WireError("data was sent without waiting for OKAY")
        self._inbox.append(payload)
        self._arrived.set()

    def acknowledge(self) -> None:
        """The other side took our last packet."""
        self._may_write.set()

    def hang_up(self) -> None:
        """The other side, or the connection, is gone: whoever waits here goes on and sees it."""
        self.closed.set()
        self._arrived.set()
        self._may_write.set()

    async def accept(self) -> None:
        """Tell the other side that the stream is open."""
        await self._send(Packet(OKAY, self.local_id, self.remote_id), None)

    async def read(self) -> bytes:
        """The next packet, acknowledged; empty at the end."""
        while True:
            while not self._inbox:
                if self.closed.is_set():
                    return b""
                self._arrived.clear()
                await self._arrived.wait()
            payload = self._inbox.popleft()
            if not self.closed.is_set():
                await self._send(Packet(OKAY, self.local_id, self.remote_id), None)
            if payload:
                return payload

    async def write(self, data: bytes | bytearray) -> None:
        """Send bytes, in packets, each after the last was acknowledged. Raises StreamClosed."""
        async with self._writing:
            view = memoryview(data)
            for start in range(0, len(view), self._max_data_bytes):
                await self._may_write.wait()
                if self.closed.is_set():
                    raise StreamClosed
                self._may_write.clear()
                payload = bytes(view[start : start + self._max_data_bytes])
                await self._send(Packet(WRTE, self.local_id, self.remote_id, payload), self.outbound)

    async def close(self) -> None:
        """Close our end once what was written is acknowledged."""
        async with self._writing:
            await self._may_write.wait()
            if not self.closed.is_set():
                self.hang_up()
                await self._send(Packet(CLSE, self.local_id, self.remote_id), None)
