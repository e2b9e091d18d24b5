"""What every transport must do, as functions on an open transport: the local and the SSH tests call them alike."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.variant import sha256_file
from harness.devices.transport import Transport
from harness.errors import TransportError


def gone(pid: int, timeout_s: float = 5.0) -> bool:
    """Whether a process of this machine ends in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def exit_codes_and_streams_are_separate(transport: Transport, folder: Path) -> None:
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 7"], timeout=10)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert transport.run(["sh", "-c", "kill -SEGV $$"], timeout=10).returncode == -11


def arguments_survive_quoting(transport: Transport, folder: Path) -> None:
    arguments = ["a b", "", "it's", '"quoted"', "$HOME", "`id`", "*", "a\nb", "\\", "ü", "-n", ";exit 3"]
    code = (
        "import sys; sys.stdout.buffer.write(b'\\0'.join(a.encode('utf-8', 'surrogateescape') for a in sys.argv[1:]))"
    )
    done = transport.run([sys.executable, "-c", code, *arguments], timeout=10, env={"PYTHONUTF8": "1"})
    assert done.stdout.decode().split("\0") == arguments
    env = {"HARNESS_TEST": "two words; $x 'y'"}
    done = transport.run([sys.executable, "-c", "import os; print(os.environ['HARNESS_TEST'])"], timeout=10, env=env)
    assert done.stdout.decode().strip() == env["HARNESS_TEST"]
    spaced = folder / "a folder"
    spaced.mkdir()
    assert transport.run(["pwd"], timeout=10, cwd=str(spaced)).stdout.decode().strip() == str(spaced)


def bytes_stay_bytes(transport: Transport, folder: Path) -> None:
    data = os.urandom(3_000_000) + bytes(range(256)) * 8
    done = transport.run(["cat"], timeout=60, stdin=data)
    assert done.stdout == data


def a_timeout_kills_the_whole_group(transport: Transport, folder: Path) -> None:
    pids = folder / "pids"
    script = f"sleep 1000 & echo $! > {pids}; echo $$ >> {pids}; wait"
    started = time.monotonic()
    with pytest.raises(TransportError, match="took more than") as caught:
        transport.run(["sh", "-c", script], timeout=1.0)
    assert caught.value.transient
    assert time.monotonic() - started < 8
    assert all(gone(int(pid)) for pid in pids.read_text(encoding="ascii").split())


def a_missing_program_is_an_answer_or_an_error(transport: Transport, folder: Path) -> None:
    try:
        done = transport.run(["/no/such/program"], timeout=10)
    except TransportError as error:
        assert "/no/such/program" in str(error)  # noqa: PT017
    else:
        assert done.returncode == 127
        assert b"/no/such/program" in done.stderr


def lines_stream_as_they_come(transport: Transport, folder: Path) -> None:
    script = "echo one; read line; echo got $line; sleep 1000"
    process = transport.start(["sh", "-c", script], stdin=b"hello\n")
    try:
        assert process.read_line(10) == b"one"
        assert process.read_line(10) == b"got hello"
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            process.read_line(0.2)
        assert 0.15 < time.monotonic() - started < 2
    finally:
        process.kill()
    process.kill()


def stdin_is_a_life_line(transport: Transport, folder: Path) -> None:
    process = transport.start(["sh", "-c", "cat > /dev/null; echo ended"], stdin=b"job\n")
    with pytest.raises(TimeoutError):
        process.read_line(0.2)
    process.close_stdin()
    assert process.read_line(10) == b"ended"
    assert process.read_line(10) is None
    assert process.wait(10) == 0
    process.kill()


def long_lines_and_many_lines_arrive_whole(transport: Transport, folder: Path) -> None:
    code = (
        "import sys\n"
        "for i in range(20000): sys.stdout.write(f'{i} ' + 'x' * (i % 200) + '\\n')\n"
        "sys.stdout.write('y' * 5_000_000 + '\\n')\n"
        "sys.stderr.write('noise ' * 50000)\n"
        "sys.stdout.write('unfinished')\n"
    )
    process = transport.start([sys.executable, "-c", code])
    for index in range(20000):
        assert process.read_line(20) == b"%d " % index + b"x" * (index % 200)
    line = process.read_line(20)
    assert line is not None
    assert len(line) == 5_000_000
    assert process.read_line(20) == b"unfinished"
    assert process.read_line(20) is None
    assert process.wait(10) == 0
    assert len(process.stderr_tail()) == 64 * 1024
    process.kill()


def kill_ends_it_on_the_device(transport: Transport, folder: Path) -> None:
    process = transport.start(["sh", "-c", "trap '' TERM HUP INT; sleep 1000 & echo $$; echo $!; wait"])
    leader, child = (int(process.read_line(10) or b"0") for _ in range(2))
    process.kill()
    assert gone(leader)
    assert gone(child)


def files_travel_unharmed(transport: Transport, folder: Path) -> None:
    source = folder / "source.bin"
    source.write_bytes(os.urandom(2_500_001))
    remote = str(folder / "remote" / "deep er" / "it's $x.bin")
    assert transport.sha256([remote]) == {}
    transport.push(source, remote)
    digest = sha256_file(source)
    assert transport.sha256([remote, remote + "2"]) == {remote: digest}
    assert transport.exists_with_sha256(remote, digest)
    assert not transport.exists_with_sha256(remote, "0" * 64)
    back = folder / "back.bin"
    transport.pull(remote, back)
    assert back.read_bytes() == source.read_bytes()
    # Overwriting replaces; nothing temporary stays behind on either side.
    source.write_bytes(b"")
    transport.push(source, remote)
    assert Path(remote).read_bytes() == b""
    assert [p.name for p in Path(remote).parent.iterdir()] == ["it's $x.bin"]
    transport.remove(str(folder / "remote"))
    assert not (folder / "remote").exists()
    transport.remove(str(folder / "remote"))


def a_missing_file_cannot_be_pulled(transport: Transport, folder: Path) -> None:
    with pytest.raises(TransportError):
        transport.pull(str(folder / "none"), folder / "back.bin")
    assert not list(folder.glob("back*"))


def an_unwritable_place_is_named(transport: Transport, folder: Path) -> None:
    (folder / "file").write_bytes(b"x")
    with pytest.raises(TransportError, match="file"):
        transport.push(folder / "file", str(folder / "file" / "below"))


CONTRACT: list[Callable[[Transport, Path], None]] = [
    exit_codes_and_streams_are_separate,
    arguments_survive_quoting,
    bytes_stay_bytes,
    a_timeout_kills_the_whole_group,
    a_missing_program_is_an_answer_or_an_error,
    lines_stream_as_they_come,
    stdin_is_a_life_line,
    long_lines_and_many_lines_arrive_whole,
    kill_ends_it_on_the_device,
    files_travel_unharmed,
    a_missing_file_cannot_be_pulled,
    an_unwritable_place_is_named,
]
