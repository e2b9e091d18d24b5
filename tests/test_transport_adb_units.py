"""ADB without a device: addresses in profiles, the key, USB through a pretended libusb, packets."""

from __future__ import annotations

import socket
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from harness.devices.runtime import ADB_WORK_FOLDER, work_folder_of
from harness.devices.transport import open_transport
from harness.devices.transport.adb_choose import ServerTarget
from harness.devices.transport.adb_keys import load_signer
from harness.devices.transport.adb_wire import HEADER, OKAY, Packet, Pipe, ProtocolBrokenError, header_of
from harness.errors import DeviceError, SpecError, TransportError
from harness.profiles import DeviceProfile, load_profile


@pytest.mark.parametrize(
    ("name", "host", "port", "serial"),
    [
        ("adb://R58M123ABC", None, None, "R58M123ABC"),
        ("adb://emulator-5554", None, None, "emulator-5554"),
        ("adb://192.168.1.20:5555", "192.168.1.20", 5555, None),
        ("adb://[::1]:16555", "::1", 16555, None),
        ("adb://adb-R5-x._adb-tls-connect._tcp", None, None, "adb-R5-x._adb-tls-connect._tcp"),
    ],
)
def test_addresses(name: str, host: str | None, port: int | None, serial: str | None) -> None:
    profile = load_profile(name)
    assert (profile.transport, profile.host, profile.port, profile.serial) == ("adb", host, port, serial)
    assert work_folder_of(profile) == ADB_WORK_FOLDER


@pytest.mark.parametrize("name", ["adb://", "adb:///", "adb://a b"])
def test_addresses_of_nothing(name: str) -> None:
    with pytest.raises(SpecError):
        load_profile(name)


def test_the_server_is_where_adb_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT", raising=False)
    monkeypatch.delenv("ANDROID_ADB_SERVER_ADDRESS", raising=False)
    assert ServerTarget("x").address == ("127.0.0.1", 5037)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "5999")
    assert ServerTarget("x").address == ("127.0.0.1", 5999)
    assert ServerTarget("x", server="[::1]:5038").address == ("::1", 5038)
    with pytest.raises(DeviceError, match="host:port"):
        _ = ServerTarget("x", server="5037").address


class BytesPipe(Pipe):
    """What was received, from memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size_bytes: int) -> bytes:
        if len(self._data) < size_bytes:
            raise EOFError
        data, self._data = self._data[:size_bytes], self._data[size_bytes:]
        return data

    def write(self, data: memoryview) -> None:
        del data

    def close(self) -> None:
        pass


def test_packets_are_checked() -> None:
    packet = Packet(OKAY, 1, 2, b"payload")
    wire = header_of(packet, checksum=True) + packet.payload
    assert BytesPipe(wire).read_packet(checksum=True) == packet
    assert BytesPipe(header_of(packet, checksum=False) + packet.payload).read_packet() == packet
    with pytest.raises(ProtocolBrokenError, match="damaged"):
        BytesPipe(wire[:-1] + b"?").read_packet(checksum=True)
    with pytest.raises(ProtocolBrokenError, match="no ADB packet"):
        BytesPipe(b"HTTP/1.1 400 Bad Request").read_packet()
    with pytest.raises(ProtocolBrokenError, match="no ADB packet"):
        BytesPipe(HEADER.pack(OKAY, 0, 0, 1 << 30, 0, OKAY ^ 0xFFFFFFFF)).read_packet()
    with pytest.raises(EOFError):
        BytesPipe(wire[:-1]).read_packet()


@pytest.mark.adb
def test_a_key_is_made_once_even_by_many(tmp_path: Path) -> None:
    pytest.importorskip("adb_shell", reason="adb-shell is missing: install the extra 'adb'")
    path = tmp_path / "home" / "adbkey"
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(load_signer("x", str(path)).GetPublicKey())) for _ in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.split()[0] for key in keys}) == 1
    assert len(keys) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ---- USB


def usb_profile(**changes: object) -> DeviceProfile:
    return DeviceProfile.model_validate({"name": "phone", "transport": "adb", "adb_route": "usb"} | changes)


@pytest.mark.adb
def test_usb_without_libusb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usb1", None)
    monkeypatch.delitem(sys.modules, "adb_shell.transport.usb_transport", raising=False)
    with pytest.raises(DeviceError, match="libusb") as caught:
        open_transport(usb_profile())
    assert "ondevice-harness[adb-usb]" in str(caught.value)
    assert "libusb-1.0-0" in str(caught.value)


class USBErrorTimeout(Exception):  # noqa: N818  (as libusb1 has it)
    pass


class PretendedUsb:
    """adb-shell's USB transport, over a socket."""

    behaviour: str | int = "absent"

    def __init__(self, port: int) -> None:
        self._port = port
        self._announced = 0

    @classmethod
    def find_adb(cls, serial: str | None = None) -> PretendedUsb:
        from adb_shell.exceptions import UsbDeviceNotFoundError

        if cls.behaviour == "absent":
            raise UsbDeviceNotFoundError("No device available")
        return cls(int(cls.behaviour) if cls.behaviour != "busy" else 0)

    def connect(self, timeout_s: float) -> None:
        if self._port == 0:
            raise RuntimeError("LIBUSB_ERROR_BUSY [-6]")
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout_s)

    def bulk_read(self, size: int, timeout_s: float) -> bytearray:
        from adb_shell.exceptions import UsbReadFailedError

        self._socket.settimeout(min(timeout_s, 0.2))
        try:
            data = self._socket.recv(size)
        except TimeoutError:
            raise UsbReadFailedError("timed out", USBErrorTimeout()) from None
        if not data:
            raise UsbReadFailedError("gone", OSError("no device"))
        return bytearray(data)

    def bulk_write(self, data: bytes, timeout_s: float) -> int:
        from adb_shell.exceptions import UsbWriteFailedError

        # A transfer that does not begin with a header is the payload the header before it announced.
        assert len(data) in (24, self._announced)
        self._announced = struct.unpack("<6I", data)[3] if len(data) == 24 != self._announced else 0
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise UsbWriteFailedError("gone", error) from error
        return len(data)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def usb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[PretendedUsb]:
    pytest.importorskip("adb_shell", reason="adb-shell is missing: install the extra 'adb'")
    module = ModuleType("adb_shell.transport.usb_transport")
    module.UsbTransport = PretendedUsb  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(PretendedUsb, "behaviour", "absent")
    return PretendedUsb


@pytest.mark.adb
def test_usb_without_a_device_and_with_a_server_in_the_way(usb: type[PretendedUsb]) -> None:
    with pytest.raises(TransportError, match="USB R58M") as caught:
        open_transport(usb_profile(serial="R58M"))
    assert caught.value.transient
    usb.behaviour = "busy"
    with pytest.raises(TransportError, match="LIBUSB_ERROR_BUSY") as caught:
        open_transport(usb_profile())
    assert "adb kill-server" in str(caught.value)


@pytest.mark.adb
def test_usb_carries_commands_and_files(usb: type[PretendedUsb], tmp_path: Path) -> None:
    from harness.devices.transport.testing import DaemonOptions, RunningDaemon

    (tmp_path / "source").write_bytes(bytes(range(256)) * 10_000)
    with RunningDaemon(DaemonOptions()) as device:
        usb.behaviour = device.port
        with open_transport(usb_profile()) as transport:
            done = transport.run(["sh", "-c", "cat; echo err >&2; exit 3"], timeout=10, stdin=b"in")
            assert (done.returncode, done.stdout, done.stderr) == (3, b"in", b"err\n")
            transport.push(tmp_path / "source", str(tmp_path / "there"))
            assert (tmp_path / "there").read_bytes() == (tmp_path / "source").read_bytes()
            device.drop_connections()
            time.sleep(0.5)
            with pytest.raises(TransportError) as caught:
                transport.run(["true"], timeout=10)
            assert caught.value.transient
