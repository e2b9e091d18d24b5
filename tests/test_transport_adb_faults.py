"""ADB devices that are not there, refuse, or go wrong half way: each is said within five seconds, with what to do next."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from adbd import AdbServer, adb_key, adb_server, make_adb_key, require_adb
from sshd import free_port
from transport_contract import gone

from harness.devices.transport import Process, open_transport
from harness.devices.transport.testing import (
    DaemonOptions,
    DropConnection,
    Fault,
    NoSpace,
    Offline,
    Reboot,
    RunningDaemon,
    SlowLink,
    Stall,
    TruncatePacket,
    Unauthorized,
)
from harness.errors import DeviceError, TransportError
from harness.profiles import DeviceProfile

__all__ = ["adb_key", "adb_server"]

pytestmark = pytest.mark.adb

REFUSED_WITHIN_S = 5.0


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's own adb key."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def direct(port: int, **changes: object) -> DeviceProfile:
    values: dict[str, object] = {"name": "phone", "transport": "adb", "host": "127.0.0.1", "port": port}
    return DeviceProfile.model_validate(values | changes)


QUICK = {"connect_timeout_s": 1.0}


def through(server: AdbServer, serial: str | None, **changes: object) -> DeviceProfile:
    values: dict[str, object] = {
        "name": "phone",
        "transport": "adb",
        "adb_route": "server",
        "adb_server": f"127.0.0.1:{server.port}",
        "serial": serial,
    }
    return DeviceProfile.model_validate(values | changes)


def refused(profile: DeviceProfile, message: str, remedy: str, *, transient: bool) -> DeviceError:
    started = time.monotonic()
    with pytest.raises(DeviceError, match=message) as caught:
        open_transport(profile)
    assert time.monotonic() - started < REFUSED_WITHIN_S
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy
    assert caught.value.transient is transient
    assert not [thread for thread in threading.enumerate() if thread.name == "adb phone"]
    return caught.value


@contextlib.contextmanager
def answering(words: bytes | None) -> Iterator[int]:
    """A port where something else than an ADB daemon answers; None: nothing does."""
    with contextlib.closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.sendall(words or b"")
                        time.sleep(0.2)

        if words is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


# ---- devices that cannot be reached, directly


def test_a_closed_port() -> None:
    refused(direct(free_port()), "refuses connections", "adb tcpip 5555", transient=True)


def test_a_host_that_swallows_everything() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # beyond the backlog the kernel answers nothing any more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        refused(direct(full.getsockname()[1]), "no answer", "'host'", transient=True)


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(TransportError, match=r"nowhere\.invalid") as caught:
        open_transport(direct(5555, host="nowhere.invalid"))
    assert caught.value.remedy is not None


def test_a_silent_port() -> None:
    with answering(None) as port:
        refused(direct(port, **QUICK), "does not answer", "wake the device", transient=True)


@pytest.mark.parametrize("words", [b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", b"HTTP/1.1 400 Bad Request\r\n" * 4])
def test_something_else_answers(words: bytes) -> None:
    with answering(words) as port:
        refused(direct(port), "no ADB daemon", "'port'", transient=False)


def test_a_port_that_hangs_up() -> None:
    with answering(b"") as port:
        refused(direct(port), "ended the connection", "'port'", transient=True)


def test_wireless_debugging_names_the_route_to_take(adb_key: tuple[Path, str]) -> None:
    with RunningDaemon(DaemonOptions(tls=True, keys=(adb_key[1],))) as device:
        error = refused(direct(device.port, adb_key=str(adb_key[0])), "wireless debugging", "adb pair", transient=False)
        assert "adb_route: server" in str(error)
        assert device.serial in str(error)


def test_an_unknown_key_is_to_be_accepted_on_the_phone(adb_key: tuple[Path, str]) -> None:
    with RunningDaemon(DaemonOptions(keys=())) as device:
        refused(
            direct(device.port, adb_key=str(adb_key[0]), **QUICK), "unauthorized", "accept the key", transient=False
        )


def test_a_key_accepted_while_we_wait_is_enough() -> None:
    with RunningDaemon(DaemonOptions(keys=())) as device:
        over = threading.Event()

        def owner() -> None:
            while not over.wait(0.1):
                device.accept_keys()

        thread = threading.Thread(target=owner)
        thread.start()
        try:
            with open_transport(direct(device.port)) as transport:
                assert transport.run(["true"], timeout=10).returncode == 0
        finally:
            over.set()
            thread.join()


def test_the_key_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    with RunningDaemon(DaemonOptions(keys=(), accept_new_keys=True)) as device:
        for _ in range(2):
            with open_transport(direct(device.port)) as transport:
                assert transport.run(["true"], timeout=10).returncode == 0
    key = tmp_path / "home" / ".android" / "adbkey"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert sorted(path.name for path in key.parent.iterdir()) == ["adbkey", "adbkey.pub"]
    # With its private half alone, as copied from elsewhere, a key is as good.
    public = key.with_suffix(".pub").read_bytes().split()[0]
    key.with_suffix(".pub").unlink()
    with RunningDaemon(DaemonOptions(keys=(public.decode(),))) as device, open_transport(direct(device.port)):
        assert key.with_suffix(".pub").read_bytes().split()[0] == public


def test_a_key_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("not a key", encoding="utf-8")
    (tmp_path / "bad.pub").write_text("not a key", encoding="utf-8")
    refused(direct(free_port(), adb_key=str(tmp_path / "bad")), "bad", "adb_key", transient=False)


def test_a_device_that_is_offline() -> None:
    with RunningDaemon() as device:
        device.inject(Offline())
        refused(direct(device.port, **QUICK), "does not answer", "wake the device", transient=True)


# ---- devices that cannot be reached through a server


def test_no_device_one_too_many_and_a_dead_serial(adb_server: AdbServer) -> None:
    adb_server.run("start-server")
    refused(through(adb_server, None), "no device is connected", "USB debugging", transient=True)
    with RunningDaemon() as one, RunningDaemon() as two:
        adb_server.connect(one)
        with open_transport(through(adb_server, None)) as transport:
            assert transport.run(["true"], timeout=10).returncode == 0
        adb_server.connect(two)
        error = refused(through(adb_server, None), "more than one device", "'serial'", transient=False)
        assert one.serial in error.message
        assert two.serial in error.message
        error = refused(through(adb_server, "R58M123ABC"), "knows no device R58M123ABC", "adb devices", transient=True)
        assert one.serial in error.message
        with open_transport(through(adb_server, two.serial)) as transport:
            assert transport.run(["true"], timeout=10).returncode == 0


def test_the_server_is_told_to_connect(adb_server: AdbServer) -> None:
    adb_server.run("start-server")
    with RunningDaemon() as device:
        profile = through(adb_server, None, host="127.0.0.1", port=device.port)
        with open_transport(profile) as transport:
            assert transport.run(["true"], timeout=10).returncode == 0
    gone_port = free_port()
    refused(through(adb_server, f"127.0.0.1:{gone_port}"), f"no device 127.0.0.1:{gone_port}", "port", transient=True)


def test_an_address_without_an_answer_through_the_server(adb_server: AdbServer) -> None:
    adb_server.run("start-server")
    refused(through(adb_server, "192.0.2.1:5555"), r"192\.0\.2\.1:5555", "adb devices", transient=True)


def test_an_unauthorized_and_an_offline_device(adb_server: AdbServer) -> None:
    adb_server.run("start-server")
    with RunningDaemon(DaemonOptions(keys=())) as device:
        refused(through(adb_server, device.serial, **QUICK), "unauthorized", "accept the key", transient=False)
    with RunningDaemon() as device:
        device.inject(Offline())
        refused(through(adb_server, device.serial, **QUICK), r"127\.0\.0\.1", "adb", transient=True)


def test_a_server_on_this_machine_is_started(adb_server: AdbServer) -> None:
    with RunningDaemon() as device, open_transport(through(adb_server, device.serial)) as transport:
        assert transport.run(["echo", "hi"], timeout=10).stdout == b"hi\n"


def test_a_server_elsewhere_is_not(adb_server: AdbServer) -> None:
    profile = through(adb_server, "x", adb_server=f"127.1.2.3:{free_port()}")
    refused(profile, "no adb server answers", "adb start-server", transient=True)
    refused(through(adb_server, "x", adb_server="nonsense"), "no host:port", "127.0.0.1:5037", transient=False)
    with answering(b"HTTP/1.1 400 Bad Request\r\n") as port:
        refused(through(adb_server, "x", adb_server=f"127.0.0.1:{port}"), "says", "adb kill-server", transient=True)


def test_without_an_adb_program(adb_server: AdbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADBUTILS_ADB_PATH", str(tmp_path / "no-adb"))
    refused(through(adb_server, "x"), "no adb program", "apt install adb", transient=False)
    failing = tmp_path / "adb"
    failing.write_text("#!/bin/sh\necho cannot bind >&2; exit 1\n", encoding="utf-8")
    failing.chmod(0o755)
    monkeypatch.setenv("ADBUTILS_ADB_PATH", str(failing))
    refused(through(adb_server, "x"), "cannot bind", "by hand", transient=False)
    failing.write_text("#!/bin/sh\nexec sleep 20\n", encoding="utf-8")
    refused(through(adb_server, "x", connect_timeout_s=1), "took more than", "by hand", transient=True)


# ---- what goes wrong half way


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    require_adb()
    server = AdbServer(tmp_path_factory.mktemp("adb") / "home")
    server.run("start-server")
    yield server
    server.stop()


@pytest.fixture(params=["direct", "server"])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[RunningDaemon, DeviceProfile]]:
    """A device that leaves alone what a closed stream had started, as a phone does, and its profile."""
    server = request.getfixturevalue("shared_server") if request.param == "server" else None
    with RunningDaemon(DaemonOptions(children_survive=True)) as device:
        yield device, direct(device.port) if server is None else through(server, device.serial)


def to_the_end(process: Process, timeout_s: float) -> int:
    while process.read_line(timeout_s) is not None:
        continue
    return process.wait(timeout_s)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.devices.transport.adb_sync.STALL_TIMEOUT_S", 1.0)
    monkeypatch.setattr("harness.devices.transport.remote_shell.CHECK_INTERVAL_S", 1.0)
    monkeypatch.setattr("harness.devices.transport.adb.CHECK_TIMEOUT_S", 1.0)
    monkeypatch.setattr("harness.devices.transport.adb.START_TIMEOUT_S", 2.0)
    monkeypatch.setattr("harness.devices.transport.adb_process.KILL_TIMEOUT_S", 1.0)


@pytest.mark.parametrize(
    "fault",
    [DropConnection("push", 1_000_000), Stall("push", 1_000_000), TruncatePacket("push", 1_000_000)],
    ids=lambda fault: type(fault).__name__,
)
def test_a_push_that_breaks_is_transient_and_leaves_no_file(
    opened: tuple[RunningDaemon, DeviceProfile], tmp_path: Path, fault: Fault
) -> None:
    device, profile = opened
    source, far = tmp_path / "source", tmp_path / "far"
    source.write_bytes(os.urandom(6_000_000))
    with open_transport(profile) as transport:
        transport.push(source, str(far / "before"))
        device.inject(fault)
        started = time.monotonic()
        with pytest.raises(TransportError) as caught:
            transport.push(source, str(far / "file"))
        assert caught.value.transient
        assert time.monotonic() - started < 15
    device.clear()
    assert not (far / "file").exists()
    # What the device could not be asked to remove is told apart by its name, and the next try does it all anew.
    with open_transport(profile) as transport:
        transport.push(source, str(far / "file"))
    assert (far / "file").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "fault",
    [DropConnection("pull", 1_000_000), Stall("pull", 1_000_000), TruncatePacket("pull", 1_000_000)],
    ids=lambda fault: type(fault).__name__,
)
def test_a_pull_that_breaks_is_transient_and_leaves_no_file(
    opened: tuple[RunningDaemon, DeviceProfile], tmp_path: Path, fault: Fault
) -> None:
    device, profile = opened
    source, near = tmp_path / "source", tmp_path / "near"
    near.mkdir()
    source.write_bytes(os.urandom(6_000_000))
    with open_transport(profile) as transport:
        device.inject(fault)
        with pytest.raises(TransportError) as caught:
            transport.pull(str(source), near / "file")
        assert caught.value.transient
    assert list(near.iterdir()) == []
    device.clear()
    with open_transport(profile) as transport:
        transport.pull(str(source), near / "file")
    assert (near / "file").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "fault",
    [DropConnection("shell", 200), Stall("shell", 200), TruncatePacket("shell", 200)],
    ids=lambda fault: type(fault).__name__,
)
def test_a_command_whose_way_breaks(opened: tuple[RunningDaemon, DeviceProfile], fault: Fault) -> None:
    device, profile = opened
    with open_transport(profile) as transport:
        process = transport.start(["sh", "-c", "cat; head -c 1000 /dev/zero"])
        device.inject(fault)
        process.close_stdin()
        with pytest.raises((TransportError, TimeoutError)):
            to_the_end(process, 2)
        with pytest.raises(TransportError) as caught:
            transport.run(["head", "-c", "1000", "/dev/zero"], timeout=2)
        assert caught.value.transient
        process.kill()
    device.clear()
    with open_transport(profile) as transport:
        assert transport.run(["echo", "again"], timeout=10).stdout == b"again\n"


def test_a_device_that_falls_silent_is_noticed(opened: tuple[RunningDaemon, DeviceProfile], tmp_path: Path) -> None:
    device, profile = opened
    with open_transport(profile) as transport:
        transport.sha256([str(tmp_path)])
        device.inject(Offline())
        started = time.monotonic()
        with pytest.raises(TransportError) as caught:
            transport.sha256([str(tmp_path)])
        assert caught.value.transient
        with pytest.raises(TransportError) as caught:
            transport.run(["true"], timeout=5)
        assert caught.value.transient
        assert time.monotonic() - started < 20
        device.clear()


def test_a_full_device_is_said_in_its_own_words(opened: tuple[RunningDaemon, DeviceProfile], tmp_path: Path) -> None:
    device, profile = opened
    source, far = tmp_path / "source", tmp_path / "far"
    source.write_bytes(os.urandom(20_000_000))
    with open_transport(profile) as transport:
        device.inject(NoSpace(after_bytes=1_000_000))
        with pytest.raises(TransportError, match="No space left") as caught:
            transport.push(source, str(far / "file"))
        assert not caught.value.transient
        assert "free space" in str(caught.value)
        assert list(far.iterdir()) == []
        device.clear()
        transport.push(source, str(far / "file"))


def test_a_slow_link_is_not_given_up(opened: tuple[RunningDaemon, DeviceProfile], tmp_path: Path) -> None:
    device, profile = opened
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1_500_000))
    device.inject(SlowLink(bytes_per_s=800_000, latency_s=0.005))
    with open_transport(profile) as transport:
        started = time.monotonic()
        transport.push(source, str(tmp_path / "far" / "file"))
        assert time.monotonic() - started > 1.5  # longer than a step may take without a probe
        assert transport.run(["cat", str(source)], timeout=30).stdout == source.read_bytes()
    device.clear()


def test_a_lost_connection_ends_the_remote_side(opened: tuple[RunningDaemon, DeviceProfile], tmp_path: Path) -> None:
    device, profile = opened
    with open_transport(profile) as transport:
        script = f"trap '' HUP; echo $$; cat > /dev/null; echo over > {tmp_path / 'eof'}"
        process = transport.start(["sh", "-c", script], stdin=b"job")
        pid = int(process.read_line(10) or b"0")
        device.drop_connections()
        with pytest.raises(TransportError) as caught:
            to_the_end(process, 10)
        assert caught.value.transient
        process.kill()
        assert gone(pid)
        assert (tmp_path / "eof").read_text(encoding="ascii") == "over\n"


def test_a_device_that_restarts_can_be_reached_anew(opened: tuple[RunningDaemon, DeviceProfile]) -> None:
    device, profile = opened
    with open_transport(profile) as transport:
        process = transport.start(["sleep", "1000"])
        device.inject(Reboot(down_s=1.0))
        with pytest.raises(TransportError) as caught:
            to_the_end(process, 10)
        assert caught.value.transient
        with pytest.raises(TransportError) as caught:
            transport.run(["true"], timeout=5)
        assert caught.value.transient
    for _ in range(20):
        try:
            transport = open_transport(profile)
        except TransportError as error:
            assert error.transient  # noqa: PT017
            time.sleep(0.2)
        else:
            break
    with transport:
        assert transport.run(["true"], timeout=10).returncode == 0


def test_a_key_revoked_in_between(opened: tuple[RunningDaemon, DeviceProfile]) -> None:
    device, profile = opened
    with open_transport(profile) as transport:
        device.inject(Unauthorized())
        with pytest.raises(TransportError):
            transport.run(["true"], timeout=5)
    refused(profile.model_copy(update=QUICK), "unauthorized", "accept the key", transient=False)


def test_wireless_debugging_works_through_a_server_that_speaks_tls(tmp_path: Path) -> None:
    adbutils = pytest.importorskip("adbutils", reason="adbutils is missing: install the extra 'adb'")
    binary = Path(adbutils.__file__).parent / "binaries" / "adb"
    if not binary.exists():
        pytest.skip("this build of adbutils brings no adb program")
    server = AdbServer(tmp_path / "adb-home", str(binary))
    (server.home / ".android").mkdir()
    _, public = make_adb_key(server.home / ".android")
    try:
        server.run("start-server")
        with (
            RunningDaemon(DaemonOptions(tls=True, keys=(public,))) as device,
            open_transport(through(server, device.serial)) as transport,
        ):
            (tmp_path / "source").write_bytes(os.urandom(3_000_000))
            transport.push(tmp_path / "source", str(tmp_path / "there"))
            done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 5"], timeout=10)
            assert (done.returncode, done.stdout, done.stderr) == (5, b"out\n", b"err\n")
    finally:
        server.stop()
