"""Opening one ADB connection without an adb server: TCP or USB, handshake, authentication, errors with what to do next.

Gives `adb.py` a WireLink. Whatever cannot be reached is refused within the target's time limit.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from harness.devices.transport.adb_keys import Signer, load_signer
from harness.devices.transport.adb_stream import SHELL_V2, STAT_V2
from harness.devices.transport.adb_wire import (
    AUTH,
    CNXN,
    HEADER,
    MAX_PAYLOAD_BYTES,
    STLS,
    VERSION_SKIP_CHECKSUM,
    Packet,
    Pipe,
    ProtocolBrokenError,
    WireLink,
    header_of,
)
from harness.errors import DeviceError, TransportError

DEFAULT_PORT = 5555
_TOKEN, _SIGNATURE, _PUBLIC_KEY = 1, 2, 3
_BANNER = f"host::features={SHELL_V2},{STAT_V2},cmd,ls_v2,fixed_push_mkdir".encode()
_USB_READ_S = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect and with which key; `limit_s` covers everything up to the daemon's welcome."""

    label: str
    host: str | None = None
    port: int | None = None
    serial: str | None = None
    key: str | None = None
    limit_s: float = 4.0

    @property
    def place(self) -> str:
        """Address or serial number, for messages."""
        if self.host is None:
            return f"USB {self.serial}" if self.serial else "USB"
        return f"{self.host}:{self.port or DEFAULT_PORT}"


class TcpPipe(Pipe):
    """A TCP connection to the daemon."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._timed = True
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else every command waits some 40 ms
        # The daemon has no heartbeat of its own: a device that went away in silence is noticed by these.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _set_timeout(self) -> None:
        if self.deadline is None:
            if self._timed:
                self._timed = False
                self._socket.settimeout(None)
            return
        self._timed = True
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def read(self, size_bytes: int) -> bytes:
        """See Pipe."""
        data = bytearray(size_bytes)
        view, got = memoryview(data), 0
        while got < size_bytes:
            self._set_timeout()
            count = self._socket.recv_into(view[got:])
            if count == 0:
                raise EOFError("the device closed it")
            got += count
        return bytes(data)

    def write(self, data: memoryview) -> None:
        """See Pipe."""
        self._set_timeout()
        self._socket.sendall(data)

    def write_now(self, packet: Packet, *, checksum: bool) -> bytes | None:
        """See Pipe."""
        data = header_of(packet, checksum=checksum) + packet.payload
        try:
            return data[self._socket.send(data, socket.MSG_DONTWAIT) :]
        except OSError:
            return None  # full for now, or broken: the writing thread finds out which

    def close(self) -> None:
        """See Pipe."""
        with contextlib.suppress(OSError):  # never connected, or gone already: closing is all that is wanted
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class UsbPipe(Pipe):
    """The ADB interface of a USB device, through adb-shell's libusb transport."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._open = True

    def _left_s(self, otherwise_s: float) -> float:
        if self.deadline is None:
            return otherwise_s
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, otherwise_s)

    def read(self, size_bytes: int) -> bytes:
        """See Pipe. Polls, so that `close` is noticed."""
        from adb_shell.exceptions import UsbReadFailedError

        data = b""
        while len(data) < size_bytes:
            if not self._open:
                raise EOFError("it was closed")
            try:
                data += bytes(self._transport.bulk_read(size_bytes - len(data), self._left_s(_USB_READ_S)))
            except UsbReadFailedError as error:
                if type(error.usb_error).__name__ != "USBErrorTimeout":
                    raise OSError(str(error)) from error
        return data

    def write(self, data: memoryview) -> None:
        """See Pipe."""
        from adb_shell.exceptions import UsbWriteFailedError

        try:
            self._transport.bulk_write(bytes(data), self._left_s(60.0))
        except UsbWriteFailedError as error:
            raise OSError(str(error)) from error

    def write_packet(self, packet: Packet, *, checksum: bool, moved: Callable[[], None] = lambda: None) -> None:
        """See Pipe. Over USB the device reads the header and the payload as transfers of their own."""
        self.write(memoryview(header_of(packet, checksum=checksum)))
        if packet.payload:
            self.write(memoryview(packet.payload))
        moved()

    def close(self) -> None:
        """See Pipe."""
        if self._open:
            self._open = False
            self._transport.close()


def connect_tcp(target: Target) -> WireLink:
    """Connect directly to a daemon that listens on TCP. Raises DeviceError within the time limit."""
    signer = load_signer(target.label, target.key)
    deadline = time.monotonic() + target.limit_s
    try:
        pipe = TcpPipe(_tcp(target, deadline))
    except OSError as error:
        raise _tcp_error(target, error) from error
    return _shake_hands(target, pipe, signer, deadline)


def _tcp(target: Target, deadline: float) -> socket.socket:
    """A connected socket; name resolution, which knows no time limit, waits in a thread of its own."""
    found: list[Any] = []
    problem: list[OSError] = []

    def resolve() -> None:
        try:
            found.extend(socket.getaddrinfo(target.host, target.port or DEFAULT_PORT, type=socket.SOCK_STREAM))
        except OSError as error:
            problem.append(error)

    thread = threading.Thread(target=resolve, name="adb resolve", daemon=True)
    thread.start()
    thread.join(deadline - time.monotonic())
    if problem:
        raise problem[0]
    error: OSError = TimeoutError()
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            connection.connect(address)
        except OSError as failed:
            connection.close()
            error = failed
        else:
            return connection
    raise error


def _tcp_error(target: Target, error: OSError) -> TransportError:
    """Why no connection came about, and what to do."""
    label, place = target.label, target.place
    if isinstance(error, TimeoutError):
        return TransportError(
            f"{label}: no answer from {place} within {target.limit_s:g} s",
            remedy="check that the device is on, awake and in this network, and 'host' in the device profile",
            transient=True,
        )
    if isinstance(error, ConnectionRefusedError):
        return TransportError(
            f"{label}: {place} refuses connections",
            remedy="connect the phone by USB once and run `adb tcpip 5555`, or use wireless debugging"
            " (`adb pair`, then `adb_route: server`); check 'port'",
            transient=True,
        )
    if isinstance(error, socket.gaierror):
        return TransportError(
            f"{label}: the name {target.host} cannot be resolved: {error.strerror}",
            remedy="check 'host' in the device profile",
            transient=error.errno == socket.EAI_AGAIN,
        )
    return TransportError(
        f"{label}: cannot connect to {place}: {error.strerror or error}",
        remedy="check 'host' in the device profile, and the network",
        transient=True,
    )


def connect_usb(target: Target) -> WireLink:
    """Connect over USB without an adb server. Raises DeviceError."""
    try:
        from adb_shell.exceptions import UsbDeviceNotFoundError
        from adb_shell.transport.usb_transport import UsbTransport
    except (ImportError, OSError) as error:
        raise DeviceError(
            f"{target.label}: adb_route: usb needs libusb: {error}",
            remedy="install the extra 'adb-usb' (pip install 'ondevice-harness[adb-usb]') and the library itself"
            " (apt install libusb-1.0-0), or use `adb_route: server`",
        ) from error
    signer = load_signer(target.label, target.key)
    try:
        transport = UsbTransport.find_adb(serial=target.serial)
        transport.connect(target.limit_s)
    except UsbDeviceNotFoundError as error:
        raise TransportError(
            f"{target.label}: no device in USB debugging mode is connected ({target.place})",
            remedy="plug it in, switch on USB debugging in its developer options, check 'serial'",
            transient=True,
        ) from error
    except Exception as error:  # libusb's own exceptions, whose module may be any version
        raise TransportError(
            f"{target.label}: cannot open {target.place}: {error}",
            remedy="stop the adb server first (`adb kill-server`): only one program can hold the device; on Linux the user"
            " also needs rights on it (apt install android-sdk-platform-tools-common)",
        ) from error
    return _shake_hands(target, UsbPipe(transport), signer, time.monotonic() + target.limit_s)


def _shake_hands(target: Target, pipe: Pipe, signer: Signer, deadline: float) -> WireLink:
    pipe.deadline = deadline
    talk = _Handshake(target, pipe, signer)
    try:
        return talk.run()
    except DeviceError:
        pipe.close()
        raise
    except (OSError, EOFError) as error:
        pipe.close()
        raise talk.error(error) from error
    except BaseException:
        pipe.close()
        raise


class _Handshake:
    """From CNXN to the daemon's welcome."""

    def __init__(self, target: Target, pipe: Pipe, signer: Signer) -> None:
        self._target, self._pipe, self._signer = target, pipe, signer
        self._asked_for_key = False

    def _send(self, *fields: Any) -> None:
        # Checksums are left out only once both sides have said their version.
        self._pipe.write_packet(Packet(*fields), checksum=True)

    def run(self) -> WireLink:
        self._send(CNXN, VERSION_SKIP_CHECKSUM, MAX_PAYLOAD_BYTES, _BANNER)
        tokens = 0
        while True:
            packet = self._pipe.read_packet()
            if packet.command == CNXN:
                return self._welcomed(packet)
            if packet.command == STLS:
                self._wants_tls()
            if packet.command != AUTH or packet.arg0 != _TOKEN:
                raise ProtocolBrokenError("it sent an unexpected packet")
            tokens += 1
            self._asked_for_key = tokens > 1
            if tokens == 1:
                self._send(AUTH, _SIGNATURE, 0, self._signer.Sign(packet.payload))
            elif tokens == 2:  # noqa: PLR2004  (the signature was not known there)
                self._send(AUTH, _PUBLIC_KEY, 0, self._signer.GetPublicKey().rstrip() + b"\0")

    def _wants_tls(self) -> NoReturn:
        target = self._target
        raise DeviceError(
            f"{target.label}: {target.place} wants wireless debugging's encrypted connection, which a direct connection"
            " does not speak",
            remedy="pair once (`adb pair HOST:PORT` with the code that the phone shows under Wireless debugging), then use"
            f" `adb_route: server` with `serial: {target.place}`",
        )

    def _welcomed(self, packet: Packet) -> WireLink:
        target = self._target
        text = packet.payload.rstrip(b"\0").decode("utf-8", "replace")
        state, _, rest = text.partition("::")
        if state != "device":
            raise TransportError(
                f"{target.label}: {target.place} is in the state '{state}'",
                remedy="start the device normally and wait until it has booted",
                transient=True,
            )
        fields = dict(pair.partition("=")[::2] for pair in rest.split(";"))
        return WireLink(
            target.label,
            target.place,
            self._pipe,
            features=frozenset(fields.get("features", "").split(",")),
            max_payload_bytes=min(max(packet.arg1, HEADER.size), MAX_PAYLOAD_BYTES),
            checksum=packet.arg0 < VERSION_SKIP_CHECKSUM,
        )

    def error(self, error: OSError | EOFError) -> TransportError:
        """What went wrong on the way, in words."""
        target = self._target
        if self._asked_for_key:
            return TransportError(
                f"{target.label}: {target.place} does not accept this host's key (unauthorized)",
                remedy="unlock the phone, accept the key on its screen (tick 'Always allow'), and try again",
            )
        if isinstance(error, ProtocolBrokenError):
            return TransportError(
                f"{target.label}: what answers at {target.place} is no ADB daemon: {error}",
                remedy="check 'host' and 'port' in the device profile",
            )
        if isinstance(error, TimeoutError):
            return TransportError(
                f"{target.label}: {target.place} takes connections but does not answer (offline) within"
                f" {target.limit_s:g} s",
                remedy="check 'port'; wake the device, switch USB debugging off and on, or restart it",
                transient=True,
            )
        return TransportError(
            f"{target.label}: {target.place} ended the connection: {error or 'no reason given'}",
            remedy="check 'port'; another program may hold the device",
            transient=True,
        )
