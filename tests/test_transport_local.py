"""The local transport, and what base and fake share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transport_contract import CONTRACT, gone

from harness.devices.transport import Completed, Transport, open_transport
from harness.devices.transport.base import LineBuffer, Tail
from harness.devices.transport.fake import Call, FakeTransport, Script
from harness.devices.transport.local import LocalProcess, LocalTransport
from harness.errors import TransportError
from harness.profiles import DeviceProfile


@pytest.fixture
def transport() -> Iterator[Transport]:
    with open_transport(DeviceProfile(name="here", transport="local")) as opened:
        yield opened


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Transport, Path], None], transport: Transport, tmp_path: Path) -> None:
    check(transport, tmp_path)


def test_close_kills_what_runs() -> None:
    transport = LocalTransport()
    process = transport.start(["sh", "-c", "echo $$; sleep 1000"])
    pid = int(process.read_line(5) or b"0")
    transport.close()
    transport.close()
    assert gone(pid)


def test_a_grandchild_holding_stdout_does_not_hide_the_end() -> None:
    with LocalTransport() as transport:
        started = time.monotonic()
        done = transport.run(["sh", "-c", "sleep 1000 & echo hi; exit 3"], timeout=20)
        assert (done.returncode, done.stdout) == (3, b"hi\n")
        assert time.monotonic() - started < 5


def test_a_child_that_never_reads_does_not_block() -> None:
    with LocalTransport() as transport:
        done = transport.run(["sh", "-c", "exec <&-; echo fine"], timeout=10, stdin=b"x" * 5_000_000)
        assert done.stdout == b"fine\n"


def test_an_interrupted_run_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with LocalTransport() as transport:
        start = transport.start
        pids: list[int] = []

        def interrupted(*args: object, **kwargs: object) -> object:
            process = start(*args, **kwargs)  # type: ignore[arg-type]
            pids.append(process._child.pid)
            monkeypatch.setattr(process, "read_chunk", lambda _timeout: (_ for _ in ()).throw(KeyboardInterrupt))
            return process

        monkeypatch.setattr(transport, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport.run(["sleep", "1000"], timeout=10)
        assert gone(pids[0])


def test_line_buffer_keeps_empty_lines_and_the_last_piece() -> None:
    buffer = LineBuffer()
    for chunk in (b"a", b"b\n\nc", b"", b"d\ne"):
        buffer.feed(chunk)
    assert [buffer.pop() for _ in range(4)] == [b"ab", b"", b"cd", None]
    assert buffer.end() == b"e"
    assert buffer.end() is None


def test_line_buffer_refuses_an_endless_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.devices.transport.base.MAX_LINE_BYTES", 10)
    buffer = LineBuffer()
    with pytest.raises(TransportError, match="line"):
        buffer.feed(b"x" * 11)


def test_tail_keeps_the_end() -> None:
    tail = Tail(4)
    for piece in (b"ab", b"cd", b"ef"):
        tail.feed(piece)
    assert tail.get() == b"cdef"


def test_fake_transport_plays_scripts(tmp_path: Path) -> None:
    def handler(call: Call) -> Completed | Script:
        if call.argv[0] == "hang":
            return Script([b"one"], hangs=True)
        if call.argv[0] == "break":
            return Script([b"one"], lost=True)
        return Completed(0, call.stdin, b"")

    transport = FakeTransport(handler)
    assert transport.run(["echo"], timeout=1, stdin=b"a\nb").stdout == b"a\nb"
    process = transport.start(["hang"])
    assert process.read_line(1) == b"one"
    with pytest.raises(TimeoutError):
        process.read_line(1)
    process = transport.start(["break"])
    assert process.read_line(1) == b"one"
    with pytest.raises(TransportError):
        process.read_line(1)
    (tmp_path / "f").write_bytes(b"data")
    transport.push(tmp_path / "f", "/dev/f")
    assert transport.exists_with_sha256("/dev/f", "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7")
    transport.lose()
    with pytest.raises(TransportError) as caught:
        transport.run(["echo"], timeout=1)
    assert caught.value.transient


def test_two_threads_may_kill_what_a_third_reads() -> None:
    """When one of several agents fails, every thread ends all the others at the same time."""
    failures: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - a thread has no caller
                failures.append(error)

        return run

    def read_to_the_end(process: LocalProcess) -> None:
        while process.read_chunk(5.0):
            pass

    with LocalTransport() as transport:
        for _ in range(40):
            process = transport.start(["sh", "-c", "while :; do echo out; echo err >&2; done"])
            calls = [lambda p=process: read_to_the_end(p), process.kill, process.kill]
            threads = [threading.Thread(target=guarded(call)) for call in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10.0)
                assert not thread.is_alive()
    assert failures == []
