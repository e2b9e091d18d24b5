"""The ADB transport against the test daemon, directly and through a real adb server: the contract, files, life lines."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adbd import AdbServer, adb_key, adb_server, require_adb
from transport_contract import CONTRACT, gone

from converters.variant import sha256_file
from harness.devices.transport import Transport, open_transport
from harness.devices.transport.adb import AdbTransport
from harness.devices.transport.testing import DaemonOptions, RunningDaemon
from harness.errors import DeviceError, TransportError
from harness.profiles import DeviceProfile

__all__ = ["adb_key", "adb_server"]

pytestmark = pytest.mark.adb

ROUTES = ("direct", "server")


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the user's own adb key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    require_adb()
    server = AdbServer(tmp_path_factory.mktemp("adb") / "home")
    server.run("start-server")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def phone() -> Iterator[RunningDaemon]:
    """As on a real phone, the daemon leaves alone what a closed stream had started."""
    with RunningDaemon(DaemonOptions(children_survive=True)) as device:
        yield device


def profile_of(device: RunningDaemon, route: str, server: AdbServer | None = None, **changes: object) -> DeviceProfile:
    values: dict[str, object] = {
        "name": "phone",
        "transport": "adb",
        "adb_route": route,
        "host": device.address,
        "port": device.port,
    }
    if server is not None and route == "server":
        values["adb_server"] = f"127.0.0.1:{server.port}"
    return DeviceProfile.model_validate(values | changes)


@pytest.fixture(scope="module", params=ROUTES)
def profile(request: pytest.FixtureRequest, phone: RunningDaemon) -> DeviceProfile:
    server = request.getfixturevalue("shared_server") if request.param == "server" else None
    return profile_of(phone, request.param, server)


@pytest.fixture(scope="module")
def shared(profile: DeviceProfile) -> Iterator[Transport]:
    with open_transport(profile) as transport:
        yield transport


@pytest.fixture
def transport(profile: DeviceProfile) -> Iterator[AdbTransport]:
    with open_transport(profile) as opened:
        assert isinstance(opened, AdbTransport)
        yield opened


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Transport, Path], None], shared: Transport, tmp_path: Path) -> None:
    check(shared, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        DaemonOptions(version=0x01000000),
        DaemonOptions(version=0x01000000, max_data_bytes=4096, features=("shell_v2",)),
    ],
    ids=["checksums", "first_shell_v2"],
)
def test_contract_with_an_old_daemon(options: DaemonOptions, tmp_path: Path) -> None:
    with RunningDaemon(options) as device, open_transport(profile_of(device, "direct")) as transport:
        for check in CONTRACT:
            folder = tmp_path / check.__name__
            folder.mkdir()
            check(transport, folder)


TOOLS = ("cat", "chmod", "head", "mkdir", "mv", "pwd", "rm", "sha256sum", "sleep", "stat", "touch", "true")


@pytest.mark.parametrize(("shell", "tools"), [("mksh", "toybox"), ("busybox", "busybox")])
def test_contract_with_a_phones_and_a_guests_shell_and_tools(shell: str, tools: str, tmp_path: Path) -> None:
    """Android has mksh and toybox, small guests busybox: no other program may be needed there."""
    found = {name: shutil.which(name) for name in (shell, tools)}
    if None in found.values():
        pytest.skip(f"{shell} or {tools} is missing: install Debian's packages mksh, toybox, busybox-static")
    (tmp_path / "bin").mkdir()
    for name in (*TOOLS, "sh"):
        (tmp_path / "bin" / name).symlink_to(str(found[shell if name == "sh" else tools]))
    options = DaemonOptions(
        shell_prefix=(str(tmp_path / "bin" / "sh"),), environment={"PATH": str(tmp_path / "bin")}, children_survive=True
    )
    with RunningDaemon(options) as device, open_transport(profile_of(device, "direct")) as transport:
        for check in CONTRACT:
            folder = tmp_path / check.__name__
            folder.mkdir()
            check(transport, folder)


def test_a_stream_commands_and_files_share_one_connection(transport: AdbTransport, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(500_000))
    agent = transport.start(
        [sys.executable, "-uc", "import time\nfor i in range(10**6): print(i, 'x' * 100); time.sleep(0.001)"]
    )
    for index in range(20):
        assert agent.read_line(10) == b"%d " % index + b"x" * 100
        assert transport.run(["echo", str(index)], timeout=10).stdout == b"%d\n" % index
    transport.push(source, str(tmp_path / "there"))
    assert sha256_file(tmp_path / "there") == sha256_file(source)
    for index in range(20, 60):
        assert agent.read_line(10) == b"%d " % index + b"x" * 100
    agent.kill()


def test_one_stream_that_nobody_reads_holds_up_no_other(transport: AdbTransport, tmp_path: Path) -> None:
    flood = transport.start([sys.executable, "-c", "import os\nwhile True: os.write(1, b'x' * 65536)"])
    time.sleep(0.5)
    started = time.monotonic()
    assert transport.run(["echo", "hello"], timeout=10).stdout == b"hello\n"
    assert time.monotonic() - started < 5
    flood.kill()


@pytest.mark.quiet
def test_many_small_commands_are_quick(transport: AdbTransport) -> None:
    started = time.monotonic()
    for _ in range(40):
        assert transport.run(["true"], timeout=10).returncode == 0
    # Without TCP_NODELAY each took some 50 ms.
    assert (time.monotonic() - started) / 40 < 0.04


def test_much_stdin_both_ways_and_stdin_that_nobody_reads(transport: AdbTransport) -> None:
    data = os.urandom(1 << 20) * 24
    assert transport.run(["cat"], timeout=60, stdin=data).stdout == data
    done = transport.run(["sh", "-c", "exec <&-; echo fine"], timeout=20, stdin=data)
    assert done.stdout == b"fine\n"


def test_a_long_command_goes_in_whole(transport: AdbTransport) -> None:
    arguments = [f"it's\n number {index} ü $x" for index in range(4000)]
    code = "import sys; sys.stdout.write(repr(sys.argv[1:]) + sys.stdin.read())"
    done = transport.run([sys.executable, "-c", code, *arguments], timeout=30, stdin=b"rest", env={"PYTHONUTF8": "1"})
    assert done.stdout.decode() == repr(arguments) + "rest"


def test_an_environment_variable_needs_a_plain_name(transport: AdbTransport) -> None:
    with pytest.raises(TransportError, match="a-b"):
        transport.run(["true"], timeout=10, env={"a-b": "1"})


@pytest.mark.parametrize("name", ["a,b", "-n", "new\nline", "ünï", " lead", "q'\"$x", "b\udcff", ".part-", "x" * 200])
def test_odd_file_names(transport: AdbTransport, tmp_path: Path, name: str) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(b"some bytes")
    remote = str(tmp_path / "far" / name)
    transport.push(source, remote)
    assert Path(remote).read_bytes() == b"some bytes"
    assert transport.sha256([remote]) == {remote: sha256_file(source)}
    assert transport.size_bytes(remote) == len(b"some bytes")
    transport.pull(remote, back)
    assert back.read_bytes() == b"some bytes"
    transport.remove(remote)
    assert list((tmp_path / "far").iterdir()) == []


def test_modes_progress_and_an_empty_file(transport: AdbTransport, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2_500_000))
    told: list[tuple[str, int, int]] = []
    transport.progress = lambda remote, done, total: told.append((remote, done, total))
    source.chmod(0o600)
    transport.push(source, str(tmp_path / "data"))
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o644
    assert told[-1] == (str(tmp_path / "data"), 2_500_000, 2_500_000)
    told.clear()
    transport.pull(str(tmp_path / "data"), tmp_path / "back")
    assert told[-1][1:] == (2_500_000, 2_500_000)
    source.chmod(0o700)
    transport.push(source, str(tmp_path / "program"))
    assert stat.S_IMODE((tmp_path / "program").stat().st_mode) == 0o755
    source.write_bytes(b"")
    transport.push(source, str(tmp_path / "empty"))
    assert transport.size_bytes(str(tmp_path / "empty")) == 0


@pytest.mark.parametrize("features", [None, ("shell_v2",)], ids=["stat_v2", "without_stat_v2"])
def test_sizes_beyond_four_gibibytes(tmp_path: Path, features: tuple[str, ...] | None) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(5 << 30)
    options = DaemonOptions() if features is None else DaemonOptions(features=features)
    with RunningDaemon(options) as device, open_transport(profile_of(device, "direct")) as transport:
        assert isinstance(transport, AdbTransport)
        assert transport.size_bytes(str(tmp_path / "huge")) == 5 << 30
        assert transport.size_bytes(str(tmp_path / "none")) is None
        assert transport.size_bytes(str(tmp_path)) is None


def test_a_file_that_arrives_damaged_is_not_left(
    transport: AdbTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"data")
    monkeypatch.setattr("harness.devices.transport.adb.send_file", lambda *_: "0" * 64)
    with pytest.raises(TransportError, match="damaged") as caught:
        transport.push(tmp_path / "source", str(tmp_path / "far" / "file"))
    assert caught.value.transient
    monkeypatch.setattr("harness.devices.transport.adb.receive_file", lambda *_: "0" * 64)
    with pytest.raises(TransportError, match="damaged"):
        transport.pull(str(tmp_path / "source"), tmp_path / "back")
    assert not list(tmp_path.glob("back*"))
    assert list((tmp_path / "far").iterdir()) == []


def test_a_missing_local_file_is_named(transport: AdbTransport, tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="nothing"):
        transport.push(tmp_path / "nothing", str(tmp_path / "there"))


def test_the_root_folder_is_never_removed(transport: AdbTransport) -> None:
    with pytest.raises(TransportError, match="not to be removed"):
        transport.remove("/")


def test_close_kills_what_runs(profile: DeviceProfile) -> None:
    transport = open_transport(profile)
    process = transport.start(["sh", "-c", "trap '' HUP; echo $$; sleep 1000 & echo $!; wait"])
    pids = [int(process.read_line(5) or b"0") for _ in range(2)]
    threads = threading.active_count()
    transport.close()
    transport.close()
    assert all(gone(pid) for pid in pids)
    assert threading.active_count() <= threads
    with pytest.raises(TransportError):
        transport.run(["true"], timeout=5)


def test_an_interrupted_run_leaves_nothing(profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_transport(profile) as transport:
        start = transport.start
        pids: list[int] = []

        def interrupted(*args: object, **kwargs: object) -> object:
            process = start(*args, **kwargs)  # type: ignore[arg-type]
            pids.append(process.pid)  # type: ignore[attr-defined]
            monkeypatch.setattr(process, "read_chunk", lambda _timeout: (_ for _ in ()).throw(KeyboardInterrupt))
            return process

        monkeypatch.setattr(transport, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport.run(["sleep", "1000"], timeout=10)
        assert gone(pids[0])


HOST = """
import sys, time
from harness.devices.transport import open_transport
from harness.profiles import DeviceProfile
transport = open_transport(DeviceProfile.model_validate_json(sys.argv[1]))
process = transport.start(["sh", "-c", "trap '' HUP; echo $$; cat > /dev/null; echo over > " + sys.argv[2]], stdin=b"job")
print(process.read_line(10).decode(), flush=True)
time.sleep(1000)
"""


def test_a_host_that_is_killed_ends_the_agent(profile: DeviceProfile, tmp_path: Path) -> None:
    """End-of-file on stdin is what an agent waits for; it must come although nobody could send it."""
    told = tmp_path / "eof"
    host = subprocess.Popen([sys.executable, "-c", HOST, profile.model_dump_json(), str(told)], stdout=subprocess.PIPE)
    assert host.stdout is not None
    pid = int(host.stdout.readline())
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    assert gone(pid, 10)
    assert told.read_text(encoding="ascii") == "over\n"


def test_a_device_of_before_android_7_is_refused() -> None:
    with (
        RunningDaemon(DaemonOptions(features=())) as device,
        pytest.raises(DeviceError, match="first shell protocol") as caught,
    ):
        open_transport(profile_of(device, "direct"))
    assert "Android 7" in str(caught.value)
