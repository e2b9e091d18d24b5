"""Finding the device on an adb server: start the server where it is ours, connect to an address, choose, wait, or say why not.

adbutils speaks the server's language here (list, connect, disconnect, features). Gives `adb.py` a ServerLink, or a DeviceError
within the target's time limit.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.devices.transport.adb_server import ServerLink
from harness.errors import DeviceError, TransportError

_T = TypeVar("_T")

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 5037
POLL_S = 0.05
RETRY_S = 0.3
#: In what the server says of a connection that cannot be made, however often it is tried.
_HOPELESS = ("refused", "resolve", "unreachable", "No route", "bad port", "empty")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_ABSENT = "absent"
#: States that may pass by themselves while we wait: a device that restarts, or whose owner accepts the key just now.
_PASSING = (_ABSENT, "offline", "connecting", "authorizing", "unauthorized")


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """Which device of which server; `serial` None: the only one there is. `limit_s` covers everything."""

    label: str
    serial: str | None = None
    server: str | None = None
    key: str | None = None
    limit_s: float = 4.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the server. As adb does, heeds ANDROID_ADB_SERVER_ADDRESS and …_PORT. Raises DeviceError."""
        if self.server is None:
            port = os.environ.get("ANDROID_ADB_SERVER_PORT", str(DEFAULT_PORT))
            where = f"{os.environ.get('ANDROID_ADB_SERVER_ADDRESS', DEFAULT_HOST)}:{port}"
        else:
            where = self.server
        host, _, port = where.rpartition(":")
        if not host or not port.isdigit():
            raise DeviceError(
                f"{self.label}: adb_server: {where!r} is no host:port",
                remedy=f"for instance {DEFAULT_HOST}:{DEFAULT_PORT}",
            )
        return host.strip("[]"), int(port)

    @property
    def is_address(self) -> bool:
        """Whether the serial number is an address that the server can be asked to connect to."""
        host, _, port = (self.serial or "").rpartition(":")
        return bool(host) and port.isdigit()


def connect_server(target: ServerTarget) -> ServerLink:
    """The device, usable. Raises DeviceError within the time limit."""
    try:
        import adbutils
    except ImportError as error:
        raise DeviceError(
            f"{target.label}: the way through an adb server needs adbutils: {error}",
            remedy="install the extra 'adb' (pip install 'ondevice-harness[adb]')",
        ) from error
    deadline = time.monotonic() + target.limit_s
    _ensure_server(target, deadline)
    host, port = target.address

    def client() -> Any:
        return adbutils.AdbClient(host, port, socket_timeout=max(0.1, deadline - time.monotonic()))

    return _Search(target, client, deadline).run()


def _ensure_server(target: ServerTarget, deadline: float) -> None:
    """The server takes connections; one on this machine is started when it does not run. Raises DeviceError."""
    host, port = target.address
    error = _reach(host, port, deadline)
    if isinstance(error, ConnectionRefusedError) and host in _LOCAL:
        _start_server(target, port, deadline)
        error = _reach(host, port, deadline)
    if error is not None:
        raise DeviceError(
            f"{target.label}: no adb server answers at {host}:{port}: {error.strerror or 'no answer'}",
            remedy="start one (`adb start-server`; for other machines: `adb -a nodaemon server`), check 'adb_server'",
            transient=True,
        )


def _reach(host: str, port: int, deadline: float) -> OSError | None:
    try:
        socket.create_connection((host, port), max(0.05, deadline - time.monotonic())).close()
    except OSError as error:
        return error
    return None


def _start_server(target: ServerTarget, port: int, deadline: float) -> None:
    import adbutils
    from adbutils.errors import AdbError

    keys = {"ADB_VENDOR_KEYS": target.key} if target.key else {}
    try:
        done = subprocess.run(
            [adbutils.adb_path(), "-P", str(port), "start-server"],
            timeout=max(0.1, deadline - time.monotonic()),
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # it stays: Ctrl-C here is not meant for it
            env={**os.environ, **keys},
        )
    except (OSError, AdbError) as error:
        raise DeviceError(
            f"{target.label}: there is no adb program to start a server with: {error}",
            remedy="install Android's platform-tools (apt install adb), or give the server as 'adb_server'",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{target.label}: `adb start-server` took more than {target.limit_s:g} s",
            remedy="start it by hand and try again",
            transient=True,
        ) from error
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise DeviceError(f"{target.label}: `adb start-server` failed: {words}", remedy="start it by hand")


class _Search:
    """One search for one device, until the deadline. `client` gives adbutils' client with the time that is left."""

    def __init__(self, target: ServerTarget, client: Callable[[], Any], deadline: float) -> None:
        self._target, self._client, self._deadline = target, client, deadline
        self._connect_said = ""
        self._seen: dict[str, str] = {}

    def _ask(self, question: Callable[[Any], _T]) -> _T:
        """Ask the server through adbutils; its errors become ours."""
        from adbutils.errors import AdbError

        try:
            return question(self._client())
        except (AdbError, OSError, ValueError) as error:
            host, port = self._target.address
            raise TransportError(
                f"{self._target.label}: the adb server at {host}:{port} says: {error or type(error).__name__}",
                remedy="see `adb devices`; `adb kill-server` and another try often help",
                transient=True,
            ) from error

    def _states(self) -> dict[str, str]:
        self._seen = {info.serial: info.state for info in self._ask(lambda client: client.list())}
        return self._seen

    def run(self) -> ServerLink:
        """Wait for the device to become usable. Raises DeviceError."""
        serial = self._target.serial or self._only_one()
        next_try = 0.0
        while (state := self._states().get(serial, _ABSENT)) != "device":
            left = self._deadline - time.monotonic()
            if state not in _PASSING or left <= 0:
                raise self._unusable(serial, state)
            if self._target.is_address and state in (_ABSENT, "offline") and time.monotonic() >= next_try:
                self._connect(serial, state)
                next_try = time.monotonic() + RETRY_S
            elif state == _ABSENT and not self._target.is_address:
                raise self._unusable(serial, state)
            else:
                time.sleep(min(POLL_S, left))
        features = self._ask(lambda client: str(client.device(serial).get_features()))
        return ServerLink(self._target.label, serial, self._target.address, frozenset(features.split(",")))

    def _only_one(self) -> str:
        states = self._states()
        usable = [serial for serial, state in states.items() if state == "device"]
        if len(usable) == 1:
            return usable[0]
        if not usable and len(states) == 1:
            return next(iter(states))
        if not states:
            raise TransportError(
                f"{self._target.label}: no device is connected to the adb server",
                remedy="plug a phone in with USB debugging on, or pair one (`adb pair`), and look at `adb devices`",
                transient=True,
            )
        raise DeviceError(
            f"{self._target.label}: more than one device is connected: {_listed(states)}",
            remedy="name one as 'serial' in the device profile, or as adb://SERIAL",
        )

    def _connect(self, serial: str, state: str) -> None:
        """Ask the server to connect to an address. It calls a device that restarted connected while it is offline."""
        from adbutils.errors import AdbTimeout

        if state == "offline":
            self._ask(lambda client: client.disconnect(serial))
        try:
            self._connect_said = self._ask(lambda client: str(client.connect(serial))).strip()
        except TransportError as error:
            if not isinstance(error.__cause__, AdbTimeout):
                raise
            # Its own patience is longer than ours.
            self._connect_said = f"no answer within {self._target.limit_s:g} s"
            return
        # Without a reason given another try may succeed (adb 36 over TLS), or the owner is being asked just now.
        if any(reason in self._connect_said for reason in _HOPELESS):
            raise self._unusable(serial, _ABSENT)

    def _unusable(self, serial: str, state: str) -> TransportError:
        """Why the device cannot be used, and what to do."""
        label = self._target.label
        if state == "unauthorized":
            return TransportError(
                f"{label}: {serial} does not accept this host's key (unauthorized)",
                remedy="unlock the phone, accept the key on its screen (tick 'Always allow'), and try again",
            )
        if state == _ABSENT:
            said = f" ({self._connect_said})" if self._connect_said else ""
            return TransportError(
                f"{label}: the adb server knows no device {serial}{said}; connected: {_listed(self._seen)}",
                remedy="check 'serial' against `adb devices`; a phone with wireless debugging may have a new port",
                transient=True,
            )
        if state in _PASSING:
            return TransportError(
                f"{label}: {serial} is {state}",
                remedy="wake the device, switch USB debugging off and on, or `adb reconnect offline`",
                transient=True,
            )
        if state == "no":
            return TransportError(
                f"{label}: this user has no permission to use {serial} over USB",
                remedy="apt install android-sdk-platform-tools-common, join the group plugdev, plug it in anew",
            )
        return TransportError(
            f"{label}: {serial} is in the state '{state}'",
            remedy="start the device normally and wait until it has booted",
            transient=True,
        )


def _listed(states: dict[str, str]) -> str:
    return ", ".join(f"{serial} ({state})" for serial, state in sorted(states.items())) or "none"
