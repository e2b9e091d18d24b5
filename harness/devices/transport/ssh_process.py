"""Below the SSH transport: asyncssh's event loop in a thread of its own, and a command running in a channel.

Used by `ssh.py` alone. The loop has its own thread so that keep-alives go out while the harness waits or computes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncssh

from harness.devices.transport.base import Process, Tail
from harness.devices.transport.remote_shell import said_pid
from harness.errors import DeviceError, TransportError

_T = TypeVar("_T")

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
START_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0


class LoopThread:
    """An event loop in a daemon thread, called from outside."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # What a broken connection leaves behind has been told by the call that broke with it.
        self._loop.set_exception_handler(lambda _loop, context: log.debug("ssh %s: %s", name, context.get("message")))
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"ssh {name}", daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine there. Raises ConnectionError after `stop`."""
        if not self.running():
            coroutine.close()
            raise ConnectionError("the connection is closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
        """Run a coroutine there and wait for it; it is cancelled when the wait ends otherwise. Raises TimeoutError."""
        future = self.submit(coroutine)
        try:
            return future.result(timeout_s)
        finally:
            future.cancel()

    def running(self) -> bool:
        """False after `stop`."""
        return not self._loop.is_closed()

    def stop(self) -> None:
        """Cancel what is left, and end the thread."""
        if not self.running():
            return

        async def cancel() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self.call(cancel(), KILL_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=KILL_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()


class Link:
    """The connection with its loop: what processes need of their transport."""

    def __init__(
        self,
        label: str,
        place: str,
        connect: Callable[[], Coroutine[Any, Any, asyncssh.SSHClientConnection]],
        timeout_s: float,
    ) -> None:
        self.label = label
        self._place = place
        self.loop = LoopThread(label)
        self.processes: set[SshProcess] = set()
        try:
            self.connection = self.loop.call(connect(), timeout_s)
        except BaseException:
            self.loop.stop()
            raise

    def alive(self) -> bool:
        """Whether the connection still stands."""
        return not self.connection.is_closed()

    def lost(self, error: Exception | None) -> TransportError:
        """The error for a connection that broke."""
        words = f": {error}" if error is not None and str(error) else ""
        return TransportError(f"{self.label}: lost the connection to {self._place}{words}", transient=True)

    def guarded(self, coroutine: Coroutine[Any, Any, _T], timeout_s: float) -> _T:
        """Run a coroutine of asyncssh; its errors become a lost connection. Raises TimeoutError, TransportError."""
        try:
            return self.loop.call(coroutine, timeout_s)
        except TimeoutError:
            raise
        except (OSError, asyncssh.Error) as error:
            raise self.lost(error) from error

    def close(self) -> None:
        """Kill what runs, close the connection, end the loop."""
        for process in list(self.processes):
            process.kill()

        async def end() -> None:
            self.connection.close()
            await self.connection.wait_closed()

        if self.loop.running():
            try:
                self.loop.call(end(), KILL_TIMEOUT_S)
            except (TimeoutError, OSError, asyncssh.Error):
                self.connection.abort()
            self.loop.stop()


class SshProcess(Process):
    """A command in a channel of the connection."""

    def __init__(self, link: Link, process: asyncssh.SSHClientProcess[bytes]) -> None:
        super().__init__()
        self._link = link
        self._process = process
        self._early = b""  # what came after the process number in the same chunk
        self._reading: concurrent.futures.Future[bytes] | None = None
        self._stderr = Tail()
        self._released = False
        self.pid: int | None = None
        link.loop.submit(self._collect_stderr())

    async def _collect_stderr(self) -> None:
        try:
            while chunk := await self._process.stderr.read(CHUNK_BYTES):
                self._stderr.feed(chunk)
        except (OSError, asyncssh.Error):
            return  # the connection broke: stdout's reader reports it

    def read_pid(self, marker: bytes, timeout_s: float) -> None:
        """Skip what login scripts print, up to the line with the process number."""
        remedy = "check that the user may run `sh` there, and its login scripts"
        self.pid, self._early = said_pid(self, self._link.label, marker, timeout_s, remedy)

    def read_chunk(self, timeout_s: float) -> bytes:
        """See Process."""
        if self._early:
            early, self._early = self._early, b""
            return early
        if self._reading is None:
            self._reading = self._link.loop.submit(self._process.stdout.read(CHUNK_BYTES))
        try:
            # Not cancelled on a time-out: the bytes it is about to bring would be lost. The next call waits for the same read.
            chunk = self._reading.result(timeout_s)
        except (OSError, asyncssh.Error) as error:
            if isinstance(error, TimeoutError) and not self._reading.done():
                raise
            self._reading = None
            raise self._link.lost(error) from error
        self._reading = None
        return chunk

    def write(self, data: bytes) -> None:
        """Send more to stdin."""

        async def send() -> None:
            self._process.stdin.write(data)

        self._link.guarded(send(), START_TIMEOUT_S)

    def close_stdin(self) -> None:
        """See Process."""

        async def end() -> None:
            if not self._process.stdin.is_closing():
                self._process.stdin.write_eof()

        self._link.guarded(end(), START_TIMEOUT_S)

    def wait(self, timeout_s: float) -> int:
        """See Process."""
        self._link.guarded(self._process.channel.wait_closed(), timeout_s)
        code = self._process.returncode
        if code is None:
            raise self._link.lost(None)
        return code

    def kill(self) -> None:
        """See Process. Without a connection there is nothing to do: the other side sees end-of-file on its stdin."""
        if self._released:
            return
        self._released = True
        self._link.processes.discard(self)
        if self._process.returncode is None and self.pid is not None and self._link.alive():
            group = f"sh -c 'kill -KILL -{self.pid} || kill -KILL {self.pid}' 2>/dev/null"
            self._attempt(self._link.connection.run(group, check=False, encoding=None))
        self._attempt(self._close())

    async def _close(self) -> None:
        self._process.close()
        await self._process.wait_closed()

    def _attempt(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            self._link.guarded(coroutine, KILL_TIMEOUT_S)
        except (TimeoutError, DeviceError):
            return  # no way to the device any more: then it ends itself

    def stderr_tail(self) -> bytes:
        """See Process."""
        return self._stderr.get()
