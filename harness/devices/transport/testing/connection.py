"""One client's connection: the handshake, then packets to and from its streams. Faults strike here.

CNXN ─▶ (STLS ⇄ TLS) ─▶ (AUTH token ⇄ signature or key) ─▶ CNXN ─▶ OPEN, OKAY, WRTE, CLSE
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Protocol

from .faults import DropConnection, FaultBoard, Stall, Strike, Where
from .keys import Keyring, PublicKey
from .link import Link
from .options import DaemonOptions
from .stream import Stream, StreamClosed
from .wire import (
    AUTH,
    AUTH_PUBLIC_KEY,
    AUTH_SIGNATURE,
    AUTH_TOKEN,
    CLSE,
    CNXN,
    HEADER,
    OKAY,
    OPEN,
    STLS,
    STLS_VERSION,
    TOKEN_BYTES,
    VERSION_CHECKSUM,
    VERSION_SKIP_CHECKSUM,
    WRTE,
    Packet,
    WireError,
    banner,
    checksum,
    decode_header,
    encode,
)

MAX_STREAMS = 256
_MIN_DATA_BYTES = 4096
_CLEAN_UP_S = 10.0
log = logging.getLogger(__name__)

Service = Callable[[Stream], Awaitable[None]]


class Host(Protocol):
    """What a connection needs of its daemon."""

    options: DaemonOptions
    faults: FaultBoard
    keyring: Keyring

    def find_service(self, name: str) -> Service | None:
        """The service of that name; None when there is none."""

    async def secure(self, link: Link) -> Link:
        """The link with TLS over it. Raises ConnectionError when the client is not trusted."""

    def service_failed(self, name: str, error: BaseException) -> None:
        """A service ended with an error nobody foresaw."""


class Connection:
    """A client. `serve` runs until it is gone."""

    def __init__(self, link: Link, host: Host) -> None:
        self._link = link
        self._host = host
        self._version = VERSION_CHECKSUM
        self._max_data_bytes = _MIN_DATA_BYTES
        self._online = False
        self._token = b""
        self._offered: PublicKey | None = None
        self._streams: dict[int, Stream] = {}
        self._services: set[asyncio.Task[None]] = set()
        self._next_id = 1
        self._truncate = False
        self._aborted = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def serve(self) -> None:
        """Speak with the client until it, or a fault, ends the connection."""
        try:
            while True:
                await self._dispatch(await self._receive())
        except (ConnectionError, WireError) as end:
            log.debug("a connection ended: %r", end)
        self.abort()
        self._reset()
        if self._services:  # each sees the end of its stream, and cleans up: kills its process, removes half a file
            _, late = await asyncio.wait(self._services, timeout=_CLEAN_UP_S)
            for task in late:
                task.cancel()

    def abort(self) -> None:
        """Reset the connection from our side; `serve` cleans up and ends."""
        self._aborted.set()
        self._flowing.set()
        self._link.abort()

    def resume(self) -> None:
        """End a stall."""
        self._flowing.set()

    @property
    def offered(self) -> PublicKey | None:
        """The key this client waits to have accepted."""
        return self._offered

    async def accept_offered(self) -> None:
        """The user tapped "Allow"."""
        if self._offered is not None:
            self._host.keyring.add(self._offered)
            await self._go_online()

    async def _receive(self) -> Packet:
        limit = self._host.options.max_data_bytes
        header = decode_header(await self._link.read_exactly(HEADER.size), max_data_bytes=limit)
        payload = await self._link.read_exactly(header.length_bytes)
        skip = self._version >= VERSION_SKIP_CHECKSUM or header.command == STLS
        if not skip and checksum(payload) != header.checksum:
            raise WireError("the checksum does not fit the payload")
        await self._pace(HEADER.size + len(payload))
        await self._flowing.wait()
        return Packet(header.command, header.arg0, header.arg1, payload)

    async def _pace(self, size_bytes: int) -> None:
        if delay_s := self._host.faults.delay_s(size_bytes):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._aborted.wait(), delay_s)

    async def send(self, packet: Packet, where: Where | None = None) -> None:
        """Send a packet; `where`: as what its payload counts for faults. Raises ConnectionError."""
        if where is not None:
            await self._strike(self._host.faults.meter(where, len(packet.payload)))
        data = encode(packet, with_checksum=self._version < VERSION_SKIP_CHECKSUM)
        await self._pace(len(data))
        await self._flowing.wait()
        if self._truncate:
            await self._link.write(data[: max(HEADER.size // 2, len(data) // 2)])
            await self._link.close()
            raise ConnectionError("a fault: the packet was truncated")
        await self._link.write(data)

    async def _strike(self, fault: Strike | None) -> None:
        if fault is None:
            return
        if isinstance(fault, DropConnection):
            self.abort()
            raise ConnectionError("a fault: the connection was dropped")
        if isinstance(fault, Stall):
            self._flowing.clear()
            if fault.duration_s is not None:
                asyncio.get_running_loop().call_later(fault.duration_s, self._flowing.set)
            return
        self._truncate = True

    async def _dispatch(self, packet: Packet) -> None:
        if self._host.faults.offline:
            return
        if packet.command == CNXN:
            await self._greet(packet)
        elif packet.command == AUTH:
            await self._authenticate(packet)
        elif packet.command == STLS:
            self._link = await self._host.secure(self._link)
            await self._go_online()
        elif self._online:
            await self._carry(packet)

    async def _greet(self, packet: Packet) -> None:
        options = self._host.options
        self._reset()
        self._version = min(packet.arg0, options.version)
        self._max_data_bytes = max(1, min(packet.arg1, options.max_data_bytes))
        if self._host.faults.unauthorized or (options.keys is not None and not options.tls):
            await self._challenge()
        elif options.tls:
            await self.send(Packet(STLS, STLS_VERSION))
        else:
            await self._go_online()

    async def _challenge(self) -> None:
        self._token = os.urandom(TOKEN_BYTES)
        await self.send(Packet(AUTH, AUTH_TOKEN, 0, self._token))

    async def _authenticate(self, packet: Packet) -> None:
        host = self._host
        if packet.arg0 == AUTH_SIGNATURE:
            token, self._token = self._token, b""
            if token and not host.faults.unauthorized and host.keyring.signed(token, packet.payload):
                await self._go_online()
            else:
                await self._challenge()
        elif packet.arg0 == AUTH_PUBLIC_KEY:
            try:
                self._offered = PublicKey.parse(packet.payload.rstrip(b"\0").decode("utf-8", "replace"))
            except ValueError as error:
                raise WireError(str(error)) from error
            if host.options.accept_new_keys and not host.faults.unauthorized:
                await self.accept_offered()

    async def _go_online(self) -> None:
        options = self._host.options
        self._online, self._offered = True, None
        told = banner(options.serial, dict(options.props), options.features)
        await self.send(Packet(CNXN, options.version, options.max_data_bytes, told))

    async def _carry(self, packet: Packet) -> None:
        if packet.command == OPEN:
            await self._open(packet)
            return
        stream = self._streams.get(packet.arg1)
        if stream is None or stream.remote_id != packet.arg0:
            return  # it was closed; its last packets crossed ours
        if packet.command == OKAY:
            stream.acknowledge()
        elif packet.command == WRTE:
            await self._strike(self._host.faults.meter(stream.inbound, len(packet.payload)))
            stream.deliver(packet.payload)
        elif packet.command == CLSE:
            del self._streams[stream.local_id]
            if not stream.closed.is_set():
                stream.hang_up()
                await self.send(Packet(CLSE, stream.local_id, stream.remote_id))

    async def _open(self, packet: Packet) -> None:
        name = packet.payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
        service = self._host.find_service(name)
        if packet.arg0 == 0:
            raise WireError("a stream without an id")
        if service is None or len(self._streams) >= MAX_STREAMS:
            await self.send(Packet(CLSE, 0, packet.arg0))
            return
        files = name.startswith("sync:")
        stream = Stream(
            self.send,
            local_id=self._next_id,
            remote_id=packet.arg0,
            max_data_bytes=self._max_data_bytes,
            inbound="push" if files else "shell",
            outbound="pull" if files else "shell",
        )
        self._next_id += 1
        self._streams[stream.local_id] = stream
        await stream.accept()
        task = asyncio.ensure_future(self._run(name, service, stream))
        self._services.add(task)
        task.add_done_callback(self._services.discard)

    async def _run(self, name: str, service: Service, stream: Stream) -> None:
        try:
            await service(stream)
        except (ConnectionError, StreamClosed):
            pass  # the client is gone, and the service has cleaned up behind it
        except Exception as error:  # noqa: BLE001 - one broken service must not end the device
            self._host.service_failed(name, error)
            await stream.close()
        finally:
            self._streams.pop(stream.local_id, None)

    def _reset(self) -> None:
        """Forget all streams; their services see the end."""
        self._online = False
        for stream in self._streams.values():
            stream.hang_up()
        self._streams.clear()
