"""Every fault of the test device strikes where it should, and only there."""

from __future__ import annotations

import struct
import time

import pytest
from adb_wire import WireClient, alive, client, device, until

from harness.devices.transport.testing import (
    DropConnection,
    NoSpace,
    Offline,
    Reboot,
    RunningDaemon,
    SlowLink,
    Stall,
    TruncatePacket,
    Unauthorized,
)
from harness.devices.transport.testing.wire import (
    AUTH,
    OKAY,
    OPEN,
)

pytestmark = pytest.mark.adb
__all__ = ["client", "device"]  # fixtures


def push(stream_of: WireClient, size: int, path: str = "/x") -> bytes:
    """Push zeros; the answer (8 bytes)."""
    stream = stream_of.open("sync:")
    stream.sync(b"SEND", f"{path},{0o100644}")
    for at in range(0, size, 50_000):
        stream.sync(b"DATA", bytes(min(50_000, size - at)))
    stream.write(struct.pack("<4sI", b"DONE", 1))
    return stream.read(8)


def test_a_push_is_dropped_in_the_middle_and_leaves_nothing(device: RunningDaemon) -> None:
    device.inject(DropConnection(where="push", after_bytes=200_000))
    with WireClient(device.port) as connection:
        connection.greet()
        with pytest.raises(ConnectionError):
            push(connection, 1_000_000)
    until(lambda: not (device.options.root / "x").exists())
    with WireClient(device.port) as connection:  # it strikes once
        connection.greet()
        assert push(connection, 1_000_000)[:4] == b"OKAY"


def test_a_fault_waits_for_its_way(device: RunningDaemon, client: WireClient) -> None:
    device.inject(DropConnection(where="pull", after_bytes=1000))
    assert push(client, 100_000)[:4] == b"OKAY"
    assert client.open("shell:echo on").read_all() == b"on\n"
    stream = client.open("sync:")
    stream.sync(b"RECV", "/x")
    with pytest.raises(ConnectionError):
        stream.read(100_000)
    device.inject(DropConnection(where="shell", times=2))
    for _ in range(2):
        with WireClient(device.port) as connection:
            connection.greet()
            with pytest.raises(ConnectionError):
                connection.open("shell:echo on").read_all()
    alive(device)


def test_a_stall_is_silence_until_it_is_cleared(device: RunningDaemon, client: WireClient) -> None:
    device.inject(Stall(where="push", after_bytes=100_000))
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        push(client, 1_000_000)
    alive(device)  # on another connection
    device.clear()
    client.socket.settimeout(10)
    assert client.packet().command == OKAY  # the packet that stalled is acknowledged


def test_a_stall_may_end_by_itself(device: RunningDaemon, client: WireClient) -> None:
    device.inject(Stall(where="shell", duration_s=0.3))
    start = time.monotonic()
    assert client.open("shell:echo on").read_all() == b"on\n"
    assert time.monotonic() - start > 0.25


def test_a_client_that_leaves_a_stall_takes_its_processes_along(device: RunningDaemon) -> None:
    device.inject(Stall(where="shell"))
    with WireClient(device.port) as connection:
        connection.greet()
        connection.open("shell,v2,raw:echo on; sleep 300")
        until(lambda: bool(device.process_ids()))
    until(lambda: not device.process_ids())


def test_a_packet_ends_in_the_middle(device: RunningDaemon, client: WireClient) -> None:
    device.inject(TruncatePacket(where="shell"))
    client.send(OPEN, 1, 0, b"exec:head -c 1000 /dev/zero\0")
    assert client.packet().command == OKAY
    with pytest.raises(ConnectionError, match=r"after \d+ of"):
        client.packet()
    alive(device)


def test_a_device_without_authorization_asks_for_keys(device: RunningDaemon, client: WireClient) -> None:
    device.inject(Unauthorized())
    with pytest.raises(ConnectionError):  # those that are there are sent away
        client.packet()
    with WireClient(device.port) as connection:
        assert connection.greet().command == AUTH
        connection.send(AUTH, 2, 0, bytes(256))
        assert connection.packet().command == AUTH
        connection.send(AUTH, 3, 0, b"nonsense\0")
        with pytest.raises(ConnectionError):
            connection.packet()
    device.clear()
    alive(device)


def test_an_offline_device_connects_and_says_nothing(device: RunningDaemon, client: WireClient) -> None:
    device.inject(Offline())
    with WireClient(device.port) as connection:
        connection.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.greet()
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.open("shell:true")
    device.clear()
    alive(device)


def test_a_full_device_fails_a_push_and_removes_it(device: RunningDaemon, client: WireClient) -> None:
    device.inject(NoSpace(after_bytes=100_000))
    assert push(client, 50_000)[:4] == b"OKAY"
    assert push(client, 200_000, "/y")[:4] == b"FAIL"
    assert not (device.options.root / "y").exists()
    device.clear()
    assert push(client, 200_000, "/y")[:4] == b"OKAY"


@pytest.mark.quiet
def test_a_slow_link_paces_bytes_and_packets(device: RunningDaemon, client: WireClient) -> None:
    device.inject(SlowLink(bytes_per_s=500_000))
    start = time.monotonic()
    push(client, 200_000)
    assert 0.35 < time.monotonic() - start < 3
    device.inject(SlowLink(latency_s=0.1))
    start = time.monotonic()
    client.open("shell:echo on").read_all()
    assert time.monotonic() - start > 0.3


def test_a_reboot_refuses_for_a_while_and_forgets_processes(device: RunningDaemon, client: WireClient) -> None:
    client.open("shell,v2,raw:setsid sleep 300 & sleep 300")
    until(lambda: len(device.process_ids()) >= 2)
    port = device.port
    device.inject(Reboot(down_s=0.4))
    assert device.process_ids() == []
    with pytest.raises(ConnectionError):
        client.packet()
    with pytest.raises(ConnectionRefusedError):
        WireClient(port)
    time.sleep(0.6)
    assert device.port == port
    alive(device)
