"""The test device answers as AOSP's own adbd does: the same requests to both, and the answers compared.

And our ADB transport keeps its contract with the real one. `scripts/real-adbd` fetches it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from adb_wire import WireClient, until
from adbd import AdbServer, require_adb
from real_adbd import CACHE, CHROOT, MOUNTS, missing, running
from transport_contract import CONTRACT

from harness.devices.transport import Transport, open_transport
from harness.devices.transport.testing import DaemonOptions, RunningDaemon
from harness.devices.transport.testing.shell import frame
from harness.devices.transport.testing.wire import CLSE, OKAY, OPEN
from harness.profiles import DeviceProfile

pytestmark = pytest.mark.adb
NUMBERS = itertools.count()  # so that no two tests look for the same process


@dataclasses.dataclass(frozen=True)
class Pair:
    """The ports of the real daemon and of ours, their common root, and how ours was made."""

    real: int
    ours: int
    root: Path
    options: DaemonOptions


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("real") / "root"
    shutil.copytree(CACHE, root, symlinks=True)
    (root / "bin/loop").symlink_to("loop")
    prefix = ("unshare", "--mount", "/bin/sh", "-c", MOUNTS + ' && exec "$0" . /bin/sh "$@"', CHROOT)
    options = DaemonOptions(root=root, shell_prefix=prefix, environment={"PATH": "/bin"})
    with running(root) as port, RunningDaemon(options) as device:
        until(lambda: greets(port))
        yield Pair(port, device.port, root, options)


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Transport]:
    """Our ADB transport, on a real adbd that serves this host's files."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, running(Path("/")) as port:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # not the user's key
        until(lambda: greets(port))
        values = {"name": "real", "transport": "adb", "adb_route": "direct", "host": "127.0.0.1", "port": port}
        with open_transport(DeviceProfile.model_validate(values)) as opened:
            yield opened


def greets(port: int) -> bool:
    with WireClient(port) as client, contextlib.suppress(ConnectionError):
        client.greet()
        return True
    return False


@pytest.mark.parametrize("promise", CONTRACT)
def test_our_transport_keeps_its_contract(
    transport: Transport, tmp_path: Path, promise: Callable[[Transport, Path], None]
) -> None:
    promise(transport, tmp_path)


def both(pair: Pair, ask: Callable[[WireClient], object]) -> tuple[object, object]:
    """What the real daemon answers, and what ours does."""
    answers = []
    for port in (pair.real, pair.ours):
        with WireClient(port) as client:
            client.greet()
            answers.append(ask(client))
    return answers[0], answers[1]


def output(client: WireClient, service: str) -> dict[int, bytes] | bytes:
    """What a command says: by stream where it is framed, since how it is cut is chance."""
    told = client.open(service).read_all()
    return joined(told) if "v2" in service.partition(":")[0] else told


def joined(told: bytes) -> dict[int, bytes]:
    """The packets of the v2 protocol, those of one stream as one."""
    streams: dict[int, bytes] = {}
    while told:
        kind, length = struct.unpack_from("<BI", told)
        streams[kind] = streams.get(kind, b"") + told[5 : 5 + length]
        told = told[5 + length :]
    return streams


@pytest.mark.parametrize(
    "service",
    [
        "shell:echo out; echo err >&2; exit 3",
        "shell:test -t 0; echo $?; stty -a",
        "exec:echo out; echo err >&2",
        "shell,v2,raw:echo out; echo err >&2; exit 3",
        "shell,v2,raw:test -t 0; echo $?",
        "shell,v2,raw:kill -9 $$",
        "shell,v2,raw:exit 255",
        "shell,v2,raw:no-such-command",
        "shell,v2,raw,TERM=xterm:echo $TERM; pwd",
        "shell,v2,pty:test -t 0; echo $?; echo err >&2; exit 4",
        "shell,v2:echo $TERM",
        "shell,v2,raw:cat /proc/self/status | grep Sig; cat /none",
        "shell:echo $0",
    ],
)
def test_commands_answer_alike(pair: Pair, service: str) -> None:
    real, ours = both(pair, lambda client: output(client, service))
    assert ours == real


def test_stdin_and_its_end_are_alike(pair: Pair) -> None:
    def ask(client: WireClient) -> object:
        stream = client.open("shell,v2,raw:cat; echo end")
        stream.write(frame(0, b"one ") + frame(0, b"two\n"))
        stream.write(frame(4, b""))
        return joined(stream.read_all())

    real, ours = both(pair, ask)
    assert ours == real == {1: b"one two\nend\n", 3: b"\0"}


def test_a_window_is_alike(pair: Pair) -> None:
    def ask(client: WireClient) -> object:
        stream = client.open("shell,v2,pty:read x; stty size")
        stream.write(frame(5, b"33x44,0x0") + frame(0, b"\n"))
        return b"33 44" in stream.read_all()

    assert both(pair, ask) == (True, True)


def test_a_service_that_is_unknown_is_refused_alike(pair: Pair) -> None:
    def ask(client: WireClient) -> object:
        client.send(OPEN, 3, 0, b"nonsense:\0")
        return client.packet()

    real, ours = both(pair, ask)
    assert ours == real


def talk(client: WireClient, requests: list[tuple[bytes, bytes]], *, tail: bytes = b"") -> bytes:
    """Send sync requests, then QUIT; all that comes back."""
    stream = client.open("sync:")
    for name, data in requests:
        stream.sync(name, data)
    if tail:
        stream.write(tail)
    if not stream.ended:
        stream.sync(b"QUIT")
    return stream.read_all()


DONE = struct.pack("<4sI", b"DONE", 1_600_000_000)


@pytest.mark.parametrize(
    ("requests", "tail"),
    [
        ([(b"STAT", b"/none"), (b"STAT", b"/lib")], b""),
        ([(b"RECV", b"/bin/none")], b""),
        ([(b"RECV", b"/bin")], b""),
        ([(b"LIST", b"/none")], b""),
        ([(b"LIS2", b"/none")], b""),
        ([(b"STA2", b"/none"), (b"LST2", b"/none"), (b"STA2", b"/bin/loop")], b""),
        ([(b"NONE", b"/")], b""),
        ([(b"STAT", b"/" * 1500)], b""),
        ([(b"SEND", b"/tmp/x")], b""),
        ([(b"SEND", b"/tmp,33188"), (b"DATA", b"x")], DONE),
        ([(b"SEND", b"/ready/none/x,33188"), (b"DATA", b"x")], DONE),
        ([(b"SEND", b"/tmp/x,33188"), (b"RECV", b"")], b""),
        ([(b"SEND", b"/tmp/a/b,33188"), (b"DATA", b"x"), (b"DATA", b"y")], DONE),
    ],
)
def test_sync_answers_alike(pair: Pair, requests: list[tuple[bytes, bytes]], tail: bytes) -> None:
    real, ours = both(pair, lambda client: talk(client, requests, tail=tail))
    assert ours == real


@pytest.mark.parametrize("mode", [0o100600, 0o100755, 0o100444, 0o100640, 0o100000, stat.S_IFLNK | 0o777], ids=oct)
@pytest.mark.parametrize("before", ["nothing", "file", "link"])
def test_a_pushed_file_is_alike(pair: Pair, mode: int, before: str) -> None:
    path = pair.root / "tmp/pushed"

    def ask(client: WireClient) -> object:
        path.unlink(missing_ok=True)
        if before == "file":
            path.write_bytes(b"something longer")
            path.chmod(0o640)
        elif before == "link":
            path.symlink_to("/tmp/elsewhere")
        answer = talk(client, [(b"SEND", b"/tmp/pushed,%d" % mode), (b"DATA", b"target\0")], tail=DONE)
        found = path.lstat()
        times = 0 if stat.S_ISLNK(found.st_mode) else found.st_mtime
        return answer, found.st_mode, found.st_size, times, (pair.root / "tmp/elsewhere").exists()

    real, ours = both(pair, ask)
    assert ours == real


def test_a_push_that_breaks_off_leaves_nothing_on_both(pair: Pair) -> None:
    for port in (pair.real, pair.ours):
        with WireClient(port) as client:
            client.greet()
            stream = client.open("sync:")
            stream.sync(b"SEND", "/tmp/half,33188")
            stream.sync(b"DATA", bytes(50_000))
            until((pair.root / "tmp/half").exists)
        until(lambda: not (pair.root / "tmp/half").exists())


def sleepers(seconds: int) -> int:
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended
            found += path.read_bytes() == b"sleep\0%d\0" % seconds
    return found


@pytest.mark.parametrize("ending", ["drop", "close"])
@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("shell,v2,raw:sleep {} & sleep {}", 1),
        ("shell,v2,raw:exec sleep {}", 0),
        ("shell,v2,pty:sleep {} & sleep {}", 0),
        ("shell:sleep {} & sleep {}", 0),
        ("shell:exec sleep {}", 0),
    ],
)
def test_what_survives_a_stream_is_alike(pair: Pair, command: str, left: int, ending: str) -> None:
    def survivors(port: int) -> int:
        seconds = 10_000_000 + 100 * port + next(NUMBERS)
        with WireClient(port) as client:
            client.greet()
            stream = client.open(command.replace("{}", str(seconds)))
            until(lambda: sleepers(seconds) == command.count("{}"))
            if ending == "close":
                stream.close()
        until(lambda: sleepers(seconds) <= left)
        time.sleep(0.2)
        return sleepers(seconds)

    with RunningDaemon(dataclasses.replace(pair.options, children_survive=True)) as device:
        assert (survivors(device.port), survivors(pair.real)) == (left, left)


def test_flow_control_is_alike(pair: Pair) -> None:
    def ask(client: WireClient) -> object:
        stream = client.open("shell,v2,raw:cat /bin/busybox; sleep 5")
        first = client.packet()
        client.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.packet()
        client.socket.settimeout(10)
        client.send(OKAY, stream.local_id, stream.remote_id)
        second = client.packet()
        client.send(CLSE, stream.local_id, stream.remote_id)
        last = client.packet()
        return first.command, second.command, last.command

    real, ours = both(pair, ask)
    assert ours == real


def test_the_real_client_sees_no_difference(pair: Pair, tmp_path: Path) -> None:
    require_adb()
    server = AdbServer(tmp_path / "home")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(os.urandom(300_000))
    answers = []
    try:
        for port in (pair.real, pair.ours):
            serial = f"127.0.0.1:{port}"
            assert b"connected to" in server.run("connect", serial).stdout
            target = f"/tmp/client-{port}"
            pushed = server.run("-s", serial, "push", tmp_path / "source", target)
            pulled = server.run("-s", serial, "pull", target, tmp_path / f"back-{port}")
            assert (tmp_path / f"back-{port}/file").read_bytes() == (tmp_path / "source/file").read_bytes()
            missing = server.run("-s", serial, "pull", "/none", tmp_path / "none")
            shell = server.run("-s", serial, "shell", "cat; echo err >&2; exit 9", stdin=b"in")
            answers.append((pushed.returncode, pulled.returncode, missing.stdout, shell.returncode, shell.stderr))
    finally:
        server.stop()
    assert answers[0] == answers[1]
