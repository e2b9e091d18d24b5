"""The device: it listens, gives each client its connection, and each stream the service it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Coroutine
from dataclasses import replace

from .connection import Connection, Service
from .faults import Fault, FaultBoard, Reboot, Unauthorized
from .files import DeviceFiles
from .keys import Keyring
from .link import READ_LIMIT_BYTES, Link, PlainLink
from .options import ENVIRONMENT, PROPS, DaemonOptions
from .processes import Processes
from .shell import ShellRequest, ShellSession, parse_request
from .stream import Stream, StreamClosed
from .sync import SyncSession

MAX_CONNECTIONS = 64
_RETRY_S = 0.1
log = logging.getLogger(__name__)


class AdbDaemon:
    """An ADB device on a TCP port. All methods belong to its event loop; `RunningDaemon` serves other threads."""

    def __init__(self, options: DaemonOptions) -> None:
        self.options = replace(options, props={**PROPS, **options.props})
        self.faults = FaultBoard()
        self.keyring = Keyring(options.keys or ())
        self.port = 0
        self.processes = Processes(
            mark=os.urandom(8).hex(),
            prefix=options.shell_prefix,
            environment={**ENVIRONMENT, **options.environment},
            cwd=options.root,
        )
        self._address = "127.0.0.1"
        self._server: asyncio.Server | None = None
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._reboots: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0, address: str = "127.0.0.1") -> None:
        """Listen; port 0 takes a free one. Raises OSError."""
        self._address = address
        await self._listen(port)

    async def stop(self) -> None:
        """Power off: close all connections, kill all processes, listen no more."""
        for task in self._reboots:
            task.cancel()
        await self._power_off()

    async def inject(self, fault: Fault) -> None:
        """Let a fault happen, or arm it."""
        if isinstance(fault, Reboot):
            await self._power_off()
            self._later(self._come_back(fault.down_s))
            return
        self.faults.inject(fault)
        if isinstance(fault, Unauthorized):
            await self.drop_connections()

    async def clear(self) -> None:
        """Take all faults back."""
        offline = self.faults.offline
        self.faults.clear()
        for connection in self._connections:
            connection.resume()
        if offline:  # what was asked meanwhile is lost for good: clients have to connect again
            await self.drop_connections()

    async def accept_keys(self) -> int:
        """Tap "Allow" for every client that waits; how many there were."""
        waiting = [connection for connection in self._connections if connection.offered is not None]
        for connection in waiting:
            await connection.accept_offered()
        return len(waiting)

    async def drop_connections(self) -> None:
        """Reset every connection and wait until what belonged to it has ended."""
        tasks = list(self._connections.values())
        for connection in self._connections:
            connection.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._connected, self._address, port, limit=READ_LIMIT_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _power_off(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop_connections()
        await self.processes.power_off()

    async def _come_back(self, down_s: float) -> None:
        await asyncio.sleep(down_s)
        while True:
            try:
                await self._listen(self.port)
            except OSError as error:  # somebody took the port meanwhile; a device that stays away would be worse
                log.warning("the device cannot come back on port %d yet: %s", self.port, error)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS or self._server is None:
            writer.transport.abort()
            return
        connection = Connection(PlainLink(reader, writer), self)
        task = asyncio.ensure_future(connection.serve())
        self._connections[connection] = task
        try:
            await task
        finally:
            del self._connections[connection]
            writer.close()

    async def secure(self, link: Link) -> Link:
        """The link with TLS over it. Raises ConnectionError when the client is not trusted."""
        from .tls import secure

        return await secure(link, self.keyring)

    def service_failed(self, name: str, error: BaseException) -> None:
        """Note an error nobody foresaw."""
        log.error("%s: %r", name, error, exc_info=error)

    def find_service(self, name: str) -> Service | None:
        """The service of that name; None when there is none."""
        if name.startswith("sync:"):
            return self._sync
        if name.startswith("reboot:"):
            return self._reboot
        request = parse_request(name)
        if request is None or (request.framed and "shell_v2" not in self.options.features):
            return None
        return lambda stream: self._shell(stream, request)

    async def _shell(self, stream: Stream, request: ShellRequest) -> None:
        survive = self.options.children_survive
        await ShellSession(stream, request, self.processes, children_survive=survive).run()

    async def _reboot(self, stream: Stream) -> None:
        await stream.close()
        self._later(self.inject(Reboot()))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._reboots.add(task)
        task.add_done_callback(self._reboots.discard)

    async def _sync(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        channel = _StreamChannel(stream, loop)

        def work() -> None:
            error: Exception | None = None
            try:
                files = DeviceFiles(self.options.root, uid=self.options.uid, gid=self.options.gid)
                with contextlib.closing(files):
                    SyncSession(channel, files, self.faults.take_space).run()
            except Exception as failure:  # noqa: BLE001 - carried to the loop, which raises it
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_finish, ended, error)

        threading.Thread(target=work, name="adbd-sync", daemon=True).start()
        try:
            await ended
        finally:
            await stream.close()


def _finish(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class _StreamChannel:
    """A stream as a thread sees it."""

    def __init__(self, stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._buffer = b""
        self._at = 0

    def read_exactly(self, size_bytes: int) -> bytes:
        """So many bytes. Raises EOFError at the end."""
        parts = []
        missing = size_bytes
        while missing:
            if self._at == len(self._buffer):
                self._buffer = asyncio.run_coroutine_threadsafe(self._stream.read(), self._loop).result()
                self._at = 0
                if not self._buffer:
                    raise EOFError
            part = self._buffer[self._at : self._at + missing]
            self._at += len(part)
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Send bytes. Raises EOFError when nobody listens any more."""
        try:
            asyncio.run_coroutine_threadsafe(self._stream.write(data), self._loop).result()
        except (StreamClosed, ConnectionError) as error:
            raise EOFError from error
