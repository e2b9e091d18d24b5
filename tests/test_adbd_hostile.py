"""Whatever a client sends, the test device drops that client at worst, and serves the next one."""

from __future__ import annotations

import gc
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from adb_wire import MAX_BYTES, WireClient, alive, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.devices.transport.testing import DaemonOptions, RunningDaemon
from harness.devices.transport.testing.files import DeviceFiles
from harness.devices.transport.testing.sync import SyncSession
from harness.devices.transport.testing.wire import AUTH, CLSE, CNXN, OKAY, OPEN, STLS, WRTE

pytestmark = pytest.mark.adb

COMMANDS = st.sampled_from([AUTH, CLSE, CNXN, OKAY, OPEN, STLS, WRTE, 0, 0xFFFFFFFF])
WORDS = st.one_of(st.integers(0, 8), st.integers(0, 0xFFFFFFFF))
SERVICES = st.sampled_from(
    [b"sync:\0", b"shell:cat\0", b"shell,v2,raw:cat\0", b"shell,v2,pty:cat\0", b"exec:true\0", b""]
)
REQUESTS = st.sampled_from(
    [
        b"STAT",
        b"STA2",
        b"LST2",
        b"LIST",
        b"LIS2",
        b"SEND",
        b"SND2",
        b"RECV",
        b"RCV2",
        b"DATA",
        b"DONE",
        b"QUIT",
        b"OKAY",
    ]
)
SYNC = st.lists(
    st.one_of(
        st.builds(lambda name, body: struct.pack("<4sI", name, len(body)) + body, REQUESTS, st.binary(max_size=40)),
        st.builds(struct.pack, st.just("<4sI"), REQUESTS, WORDS),
        st.builds(
            lambda path, mode: struct.pack("<4sI", b"SEND", len(path) + len(mode)) + path + mode,
            st.binary(max_size=20),
            st.sampled_from([b",33188", b",41471", b",-1", b",99999999999999999999", b","]),
        ),
        st.binary(max_size=20),
    ),
    max_size=12,
).map(b"".join)
PAYLOADS = st.one_of(SERVICES, SYNC, st.binary(max_size=200))
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=["open", "locked", "tls"])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    keys = None if request.param == "open" else ()
    options = DaemonOptions(
        root=tmp_path_factory.mktemp("root"), keys=keys, accept_new_keys=True, tls=request.param == "tls"
    )
    with RunningDaemon(options) as daemon:
        yield daemon


def greets(device: RunningDaemon) -> None:
    """The device still answers, and nothing of an earlier client runs on it."""
    until(lambda: not device.process_ids())
    with WireClient(device.port) as connection:
        assert connection.greet().command in {CNXN, AUTH, STLS}


def send_and_leave(connection: WireClient, data: bytes) -> None:
    """Send, then close; a device that hangs up before the end is in its right."""
    try:
        connection.raw(data)
        connection.socket.shutdown(socket.SHUT_WR)
        while connection.socket.recv(65536):
            pass
    except ConnectionError:
        return


@EXAMPLES
@given(data=st.binary(max_size=400))
def test_garbage(device: RunningDaemon, data: bytes) -> None:
    with WireClient(device.port) as connection:
        send_and_leave(connection, data)
    greets(device)


@EXAMPLES
@given(packets=st.lists(st.tuples(COMMANDS, WORDS, WORDS, PAYLOADS), max_size=8), cut=st.integers(0, 60))
def test_well_formed_nonsense(device: RunningDaemon, packets: list[tuple[int, int, int, bytes]], cut: int) -> None:
    with WireClient(device.port) as connection:
        connection.greet()
        data = b"".join(
            struct.pack("<6I", command, arg0, arg1, len(payload), sum(payload), command ^ 0xFFFFFFFF) + payload
            for command, arg0, arg1, payload in packets
        )
        send_and_leave(connection, data[: len(data) - cut])
    greets(device)


@EXAMPLES
@given(command=COMMANDS, length=st.integers(MAX_BYTES + 1, 0xFFFFFFFF))
def test_an_oversized_length_ends_the_connection(device: RunningDaemon, command: int, length: int) -> None:
    with WireClient(device.port) as connection:
        connection.greet()
        connection.raw(struct.pack("<6I", command, 1, 1, length, 0, command ^ 0xFFFFFFFF))
        with pytest.raises(ConnectionError):
            connection.until_dropped()
    greets(device)


class Script:
    """A client's bytes, all there from the start."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.said = bytearray()

    def read_exactly(self, size_bytes: int) -> bytes:
        if len(self.data) < size_bytes:
            raise EOFError
        part, self.data = self.data[:size_bytes], self.data[size_bytes:]
        return part

    def write(self, data: bytes) -> None:
        self.said += data


@settings(EXAMPLES, max_examples=500)
@given(data=SYNC)
def test_sync_takes_any_bytes(tmp_path: Path, data: bytes) -> None:
    inside = tmp_path / "outer" / "root"
    inside.mkdir(parents=True, exist_ok=True)
    SyncSession(Script(data), DeviceFiles(inside), lambda _: True).run()
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["root"], "a path led outside"


@pytest.fixture
def plain_device(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(DaemonOptions(root=tmp_path)) as daemon:
        yield daemon


def test_a_flood_without_waiting_is_cut_off(plain_device: RunningDaemon) -> None:
    with WireClient(plain_device.port) as connection:
        connection.greet()
        stream = connection.open("shell,v2,raw:sleep 300")
        chunk = struct.pack("<BI", 0, 500_000) + bytes(500_000)

        def flood() -> None:
            while True:
                connection.send(WRTE, stream.local_id, stream.remote_id, chunk)

        with pytest.raises(ConnectionError):
            flood()
    alive(plain_device)
    until(lambda: not plain_device.process_ids())


def test_streams_and_connections_have_a_limit(plain_device: RunningDaemon) -> None:
    with WireClient(plain_device.port) as connection:
        connection.greet()
        answers = []
        for number in range(300):
            connection.send(OPEN, number + 1, 0, b"sync:\0")
            answers.append(connection.packet().command)
        assert answers.count(OKAY) == 256
        assert answers[256:] == [CLSE] * 44
    with WireClient(plain_device.port) as connection:  # a stream that has ended counts no more
        connection.greet()
        for _ in range(300):
            connection.open("sync:").sync(b"QUIT")
    crowd = [WireClient(plain_device.port) for _ in range(80)]
    for one in crowd:
        one.socket.close()

    def served() -> bool:
        try:
            alive(plain_device)
        except ConnectionError:  # the last of the crowd are not gone yet
            return False
        return True

    until(served)


def test_many_clients_leave_nothing_behind(plain_device: RunningDaemon) -> None:
    def files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    alive(plain_device)
    before = files()
    for _ in range(30):
        with WireClient(plain_device.port) as connection:
            connection.greet()
            for service in ("shell:cat", "shell,v2,raw:cat", "shell,v2,pty:cat", "sync:"):
                connection.open(service)
    until(lambda: not plain_device.process_ids())
    until(lambda: files() <= before)
