"""The test device, packet by packet: handshake, flow control, processes, sync requests."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from adb_wire import MAX_BYTES, WireClient, alive, client, device, until

from harness.devices.transport.testing import DaemonOptions, Reboot, RunningDaemon
from harness.devices.transport.testing.shell import frame
from harness.devices.transport.testing.wire import (
    CLSE,
    CNXN,
    OKAY,
    OPEN,
    STLS,
    VERSION_CHECKSUM,
    WRTE,
)

STAT_2 = struct.Struct("<4sIQQIIIIQqqq")
DENT_2 = struct.Struct("<4sIQQIIIIQqqqI")


pytestmark = pytest.mark.adb
__all__ = ["client", "device"]  # fixtures


def test_the_greeting_names_the_device_and_agrees_on_sizes() -> None:
    with RunningDaemon(DaemonOptions(serial="R5CT", max_data_bytes=65536)) as device:
        with WireClient(device.port) as connection:
            hello = connection.greet()
            assert (hello.command, hello.arg1) == (CNXN, 65536)
            assert hello.payload.startswith(b"device:R5CT:ro.product.name=testdevice;")
            assert b"shell_v2" in hello.payload.split(b"features=")[1].split(b",")
        with WireClient(device.port, max_data_bytes=4096) as connection:
            connection.greet()
            stream = connection.open("exec:head -c 10000 /dev/zero")
            sizes = []
            while (packet := connection.packet()).command == WRTE:
                sizes.append(len(packet.payload))
                connection.send(OKAY, stream.local_id, stream.remote_id)
            assert sum(sizes) == 10000
            assert max(sizes) <= 4096


def test_checksums_are_looked_at_until_both_agree_to_skip_them(device: RunningDaemon) -> None:
    with WireClient(device.port, version=VERSION_CHECKSUM) as connection:
        connection.greet()
        connection.send(OPEN, 1, 0, b"exec:echo hello\0")
        assert connection.packet().command == OKAY
        written = connection.header()
        payload = connection.exactly(written.length_bytes)
        assert written.checksum == sum(payload)
        bad = bytearray(struct.pack("<6I", OPEN, 2, 0, 4, 1, OPEN ^ 0xFFFFFFFF) + b"abc\0")
        connection.raw(bytes(bad))
        with pytest.raises(ConnectionError):
            connection.until_dropped()
    alive(device)


def test_nothing_is_served_before_the_greeting(device: RunningDaemon) -> None:
    with WireClient(device.port) as connection:
        connection.send(OPEN, 1, 0, b"shell:echo no\0")
        assert connection.greet().command == CNXN  # the OPEN was not answered


def test_an_unknown_service_is_refused(client: WireClient) -> None:
    for service in ("tcp:1", "shell", "shell,v9:true", "exec,v2:true", "", "host:devices"):
        client.send(OPEN, 3, 0, service.encode() + b"\0")
        answer = client.packet()
        assert (answer.command, answer.arg0, answer.arg1) == (CLSE, 0, 3), service


def test_a_stream_waits_for_each_packet_to_be_acknowledged(client: WireClient) -> None:
    stream = client.open("exec:head -c 200000 /dev/zero; sleep 5")
    assert client.packet().command == WRTE
    client.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.packet()
    client.socket.settimeout(10)
    client.send(OKAY, stream.local_id, stream.remote_id)
    assert client.packet().command == WRTE


def test_a_stream_that_is_closed_kills_its_process(client: WireClient, device: RunningDaemon) -> None:
    stream = client.open("shell,v2,raw:sleep 300 & echo started; wait")
    assert stream.read(5 + len("started\n")) == frame(1, b"started\n")
    assert len(device.process_ids()) == 2
    stream.close()
    until(lambda: not device.process_ids())
    assert client.open("shell:echo on").read_all() == b"on\n"


def test_a_lost_connection_kills_its_processes(device: RunningDaemon) -> None:
    with WireClient(device.port) as connection:
        connection.greet()
        for service in ("shell,v2,raw:echo x; sleep 300", "shell:echo x; sleep 300", "shell,v2,pty:echo x; sleep 300"):
            connection.send(OPEN, 1, 0, service.encode() + b"\0")
        until(lambda: len(device.process_ids()) >= 3)
    until(lambda: not device.process_ids())


def test_a_background_process_without_our_streams_survives_a_normal_end(
    client: WireClient, device: RunningDaemon
) -> None:
    told = client.open("shell,v2,raw:sleep 300 >/dev/null 2>&1 </dev/null & exit 4").read_all()
    assert told == frame(3, b"\x04")
    assert len(device.process_ids()) == 1


def test_signals_and_large_codes_are_told(client: WireClient) -> None:
    assert client.open("shell,v2,raw:kill -TERM $$").read_all() == frame(3, bytes([128 + 15]))
    assert client.open("shell,v2,raw:exit 255").read_all() == frame(3, b"\xff")


def sleepers(seconds: int) -> int:
    """How many processes sleep for so long, whatever their environment."""
    command = b"sleep\0%d\0" % seconds
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended
            found += path.read_bytes().endswith(command)
    return found


@pytest.mark.parametrize("reboots", [False, True])
def test_jobs_of_an_interactive_shell_end_with_it(client: WireClient, device: RunningDaemon, reboots: bool) -> None:
    seconds = 100_000 + device.port  # nobody else's
    stream = client.open("shell,v2,pty:")
    stream.write(frame(0, f"set -m; env -i sleep {seconds} & env -i sleep {seconds}\n".encode()))
    until(lambda: sleepers(seconds) == 2)
    if reboots:
        device.inject(Reboot(down_s=0))
        assert sleepers(seconds) == 0
    else:
        stream.close()
        until(lambda: sleepers(seconds) == 0)


def test_a_window_has_a_size(client: WireClient) -> None:
    stream = client.open("shell,v2,pty:read _; stty size")
    stream.write(frame(5, b"33x44,0x0") + frame(0, b"\n"))
    assert b"33 44" in stream.read_all()


def test_ctrl_c_reaches_a_terminal(client: WireClient, device: RunningDaemon) -> None:
    stream = client.open("shell,v2,pty:exec sleep 300")
    # Not before: a shell may lose a signal that comes while it starts a command.
    until(lambda: [Path(f"/proc/{pid}/comm").read_text() for pid in device.process_ids()] == ["sleep\n"])
    stream.write(frame(0, b"\x03"))
    assert stream.read_all().endswith(frame(3, bytes([128 + 2])))


def test_a_shell_that_cannot_start_says_so() -> None:
    with RunningDaemon(DaemonOptions(shell_prefix=("/none/sh",))) as device, WireClient(device.port) as connection:
        connection.greet()
        told = connection.open("shell,v2,raw:true").read_all()
        assert b"/none/sh" in told
        assert told.endswith(frame(3, bytes([127])))


def test_sync_tells_sizes_and_errors_of_both_versions(device: RunningDaemon, client: WireClient) -> None:
    root = device.options.root
    (root / "file").write_bytes(b"12345")
    (root / "link").symlink_to("/file")
    stream = client.open("sync:")
    stream.sync(b"STAT", "/link")
    name, mode, _, _ = struct.unpack("<4sIII", stream.read(16))
    assert (name, stat.S_ISLNK(mode)) == (b"STAT", True)
    stream.sync(b"STAT", "/none")
    assert stream.read(16) == b"STAT" + bytes(12)
    for request, size in ((b"STA2", 5), (b"LST2", 5)):
        stream.sync(request, "/link")
        found = STAT_2.unpack(stream.read(STAT_2.size))
        assert (found[0], found[1], found[8]) == (request, 0, size)
        assert stat.S_ISREG(found[4]) == (request == b"STA2")
    stream.sync(b"STA2", "/none")
    assert STAT_2.unpack(stream.read(STAT_2.size))[:2] == (b"STA2", 2)
    stream.sync(b"LIS2", "/")
    names = []
    while (entry := DENT_2.unpack(stream.read(DENT_2.size)))[0] == b"DNT2":
        names.append(stream.read(entry[12]))
    assert sorted(names) == [b".", b"..", b"file", b"link"]
    stream.sync(b"LIST", "/none")
    assert stream.read(20) == b"DONE" + bytes(16)
    stream.sync(b"QUIT")
    assert stream.read_all() == b""


def test_sync_takes_a_link_and_keeps_a_folder(device: RunningDaemon, client: WireClient) -> None:
    root = device.options.root
    (root / "folder").mkdir()
    stream = client.open("sync:")
    stream.sync(b"SEND", f"/a/link,{stat.S_IFLNK | 0o777}")
    stream.sync(b"DATA", b"target\0")
    stream.write(struct.pack("<4sI", b"DONE", 0))
    assert stream.read(8) == b"OKAY" + bytes(4)
    assert str((root / "a/link").readlink()) == "target"
    stream.sync(b"SEND", f"/folder,{0o100644}")
    assert "Is a directory" in stream.fail()
    assert (root / "folder").is_dir()


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([(b"NONE", b"/x")], "unknown command"),
        ([(b"SEND", b"/no-mode")], "missing ,"),
        ([(b"SEND", b"/x,33188"), (b"DATA", bytes(70_000))], "oversize"),
        ([(b"SEND", b"/x,33188"), (b"RECV", b"")], "invalid data message"),
        ([(b"STAT", b"/" * 2000)], "path too long"),
        ([(b"RECV", b"/none")], "No such file"),
        ([(b"RECV", b"/")], "Is a directory"),
    ],
)
def test_sync_refuses_with_a_reason(client: WireClient, requests: list[tuple[bytes, bytes]], said: str) -> None:
    stream = client.open("sync:")
    for name, data in requests:
        stream.sync(name, data)
    assert said in stream.fail()


def test_a_dry_run_writes_nothing(device: RunningDaemon, client: WireClient) -> None:
    stream = client.open("sync:")
    stream.sync(b"SND2", "/x")
    stream.write(struct.pack("<4sII", b"SND2", 0o100644, 0x80000000))
    stream.sync(b"DATA", b"abc")
    stream.write(struct.pack("<4sI", b"DONE", 0))
    assert stream.read(8) == b"OKAY" + bytes(4)
    assert not (device.options.root / "x").exists()
    stream.sync(b"SND2", "/x")
    stream.write(struct.pack("<4sII", b"SND2", 0o100644, 1))  # brotli was not announced
    assert "unsupported" in stream.fail()


def test_tls_is_asked_for_before_anything_else(tmp_path: Path) -> None:
    with RunningDaemon(DaemonOptions(tls=True, keys=())) as device:
        with WireClient(device.port) as connection:
            assert connection.greet().command == STLS
            connection.send(OPEN, 1, 0, b"shell:true\0")  # not before TLS
            connection.send(STLS, 0x01000000)
            connection.raw(os.urandom(500))
            with pytest.raises(ConnectionError):
                connection.until_dropped()
        with WireClient(device.port) as connection:
            assert connection.greet().command == STLS


def test_the_daemon_runs_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.devices.transport.testing", "--root", str(tmp_path), "--control"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline().decode().rpartition(":")[2])
        with WireClient(port, max_data_bytes=MAX_BYTES) as connection:
            connection.greet()
            assert connection.open("shell:pwd").read_all().decode().strip() == str(tmp_path)
            process.stdin.write(b"drop where=shell\n")
            process.stdin.flush()
            time.sleep(0.3)
            stream = connection.open("shell:echo on")
            with pytest.raises(ConnectionError):
                stream.read_all()
        process.stdin.close()
        assert process.wait(timeout=10) == 0
