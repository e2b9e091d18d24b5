"""The daemon in a thread of its own, for tests: start it, talk to it from anywhere, inject faults, stop it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from .daemon import AdbDaemon
from .faults import Fault
from .options import DaemonOptions

_START_S = 10.0
_CALL_S = 30.0
T = TypeVar("T")


class RunningDaemon:
    """`with RunningDaemon(DaemonOptions(root=folder)) as device: … device.port … device.inject(Stall())`."""

    def __init__(self, options: DaemonOptions | None = None, *, port: int = 0, address: str = "127.0.0.1") -> None:
        self.options = options or DaemonOptions()
        self.address = address
        self._wanted_port = port
        self._loop = asyncio.new_event_loop()
        self._daemon: AdbDaemon | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Listen; returns when clients can connect. Raises OSError when the port is taken."""
        self._thread = threading.Thread(target=self._loop.run_forever, name="adbd", daemon=True)
        self._thread.start()
        daemon = AdbDaemon(self.options)
        self._daemon = daemon
        try:
            self._call(daemon.start(self._wanted_port, self.address), _START_S)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Power off; all processes of the device have ended afterwards. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._call(self._device.stop(), _CALL_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(_CALL_S)
            self._loop.close()

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._device.port

    @property
    def serial(self) -> str:
        """What `adb connect` takes and `adb -s` knows the device by."""
        return f"{self.address}:{self.port}"

    def inject(self, fault: Fault) -> None:
        """Let a fault happen, or arm it."""
        self._call(self._device.inject(fault), _CALL_S)

    def clear(self) -> None:
        """Take all faults back."""
        self._call(self._device.clear(), _CALL_S)

    def accept_keys(self) -> int:
        """Tap "Allow" for every client that waits; how many there were."""
        return self._call(self._device.accept_keys(), _CALL_S)

    def drop_connections(self) -> None:
        """Reset every connection once."""
        self._call(self._device.drop_connections(), _CALL_S)

    def process_ids(self) -> list[int]:
        """The ids of all processes that live on the device."""
        return self._device.processes.marked()

    @property
    def _device(self) -> AdbDaemon:
        if self._daemon is None:
            raise RuntimeError("the daemon was not started")
        return self._daemon

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
