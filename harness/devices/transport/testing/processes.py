"""Processes of the device: started in a session of their own with pipes or a terminal, read without blocking, killed whole.

A child is reaped only at the very end, so that its process group keeps its number and no stranger can be hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
import tty
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Every process of a device carries this in its environment: a reboot finds also those that detached themselves.
MARK = "ADBD_DEVICE"
_KILL_ROUNDS = 20
# Opening a terminal makes it the controlling one of a session that has none.
_WITH_TERMINAL = ("/bin/sh", "-c", 'tty=$1; shift; exec "$@" 0<>"$tty" 1>&0 2>&0', "sh")


async def _ready(fd: int, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    add(fd, ready)
    try:
        await future
    finally:
        remove(fd)


async def read_fd(fd: int, limit_bytes: int) -> bytes:
    """The next bytes of a non-blocking descriptor; empty at its end, and when a terminal's last user is gone."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, limit_bytes)
        except BlockingIOError:
            await _ready(fd, loop.add_reader, loop.remove_reader)
        except OSError as error:
            if error.errno == errno.EIO:
                return b""
            raise


async def write_fd(fd: int, data: bytes) -> None:
    """Write all to a non-blocking descriptor. Raises OSError when nobody reads it any more."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _ready(fd, loop.add_writer, loop.remove_writer)


@dataclass(slots=True, eq=False)
class Child:
    """A running command. With a terminal, `stdin_fd` and `stdout_fd` are its master and `stderr_fd` is None."""

    popen: subprocess.Popen[bytes]
    pidfd: int
    stdin_fd: int | None
    stdout_fd: int
    stderr_fd: int | None
    terminal: bool

    async def wait(self) -> int:
        """The exit status as ADB gives it: the code, or 128 and the signal. The process stays a zombie."""
        loop = asyncio.get_running_loop()
        while True:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)  # noqa: ASYNC222 - WNOHANG
            if result is not None:
                return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
            await _ready(self.pidfd, loop.add_reader, loop.remove_reader)

    def close_stdin(self) -> None:
        """Give end-of-file to the command; a terminal cannot, and stays open."""
        if self.stdin_fd is not None and not self.terminal:
            os.close(self.stdin_fd)
            self.stdin_fd = None

    def resize(self, rows: int, columns: int, width: int, height: int) -> None:
        """Give the terminal a size, in characters and in pixels."""
        if self.terminal:
            fcntl.ioctl(self.stdout_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, width, height))

    def signal_group(self, number: int) -> None:
        """Signal all processes of the group; harmless when there are none."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def close_files(self) -> None:
        """Close our ends."""
        for fd in {self.stdin_fd, self.stdout_fd, self.stderr_fd} - {None}:
            os.close(fd)  # type: ignore[arg-type]  # None was taken out
        self.stdin_fd = self.stderr_fd = None


class Processes:
    """All processes of one device."""

    def __init__(self, *, mark: str, prefix: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        self._mark = mark
        # Looked up as the daemon sees it: PATH in `environment` is the device's.
        self._prefix = (shutil.which(prefix[0]) or prefix[0], *prefix[1:])
        self._environment = {**environment, MARK: mark}
        self._cwd = cwd
        self._running: set[Child] = set()
        self._reapers: set[asyncio.Task[None]] = set()

    def start(self, command: str, *, terminal: bool, cooked: bool = True, term: str = "dumb") -> Child:
        """Start the shell with a command, or an interactive one. `cooked`: a terminal for people, not a raw one.

        Raises OSError when it cannot be started.
        """
        argv = [*self._prefix, *(["-c", command] if command else [])]
        environment = {**self._environment, "TERM": term}
        child = self._with_terminal(argv, environment, cooked) if terminal else self._with_pipes(argv, environment)
        self._running.add(child)
        return child

    def _with_pipes(self, argv: list[str], environment: dict[str, str]) -> Child:
        pipe = subprocess.PIPE
        popen = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, cwd=self._cwd, start_new_session=True
        )
        fds = []
        for stream in (popen.stdin, popen.stdout, popen.stderr):
            if stream is not None:
                fds.append(
                    os.dup(stream.fileno())
                )  # the descriptors are ours alone: Popen would close them when it likes
                stream.close()
                os.set_blocking(fds[-1], False)
        return Child(popen, os.pidfd_open(popen.pid), fds[0], fds[1], fds[2], terminal=False)

    def _with_terminal(self, argv: list[str], environment: dict[str, str], cooked: bool) -> Child:
        master, slave = pty.openpty()
        try:
            if cooked:  # job control and Ctrl-C need a controlling terminal
                argv = [*_WITH_TERMINAL, os.ttyname(slave), *argv]
            else:
                tty.setraw(slave)
            popen = subprocess.Popen(
                argv, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=self._cwd, start_new_session=True
            )
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        os.set_blocking(master, False)
        return Child(popen, os.pidfd_open(popen.pid), master, master, None, terminal=True)

    def hang_up(self, child: Child, *, children_survive: bool) -> None:
        """The stream of a child was closed: end it, and the rest of its group unless `children_survive`."""
        if not children_survive:
            child.signal_group(signal.SIGKILL)
            if child.terminal:  # jobs of an interactive shell have groups of their own
                _kill(pid for pid, session in _sessions() if session == child.popen.pid)
        elif child.terminal:
            child.signal_group(signal.SIGHUP)  # as the kernel does when a terminal goes away
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.popen.pid, signal.SIGHUP)  # Popen.send_signal would reap it

    def release(self, child: Child) -> None:
        """Close the child's files now, and reap it as soon as it has ended."""
        child.close_files()
        task = asyncio.ensure_future(self._reap(child))
        self._reapers.add(task)
        task.add_done_callback(self._reapers.discard)

    async def _reap(self, child: Child) -> None:
        await child.wait()
        self._running.remove(child)
        child.popen.wait()
        os.close(child.pidfd)

    async def power_off(self) -> None:
        """Kill everything, and wait until what we started is reaped."""
        self.kill_all()
        await asyncio.gather(*self._reapers)

    def kill_all(self) -> None:
        """Kill every process of the device, also one that detached itself (unless it emptied its environment too)."""
        ours = {child.popen.pid for child in self._running}
        for _ in range(_KILL_ROUNDS):  # one may fork while we look
            pids = {pid for pid, session in _sessions() if session in ours} | set(self.marked())
            _kill(pids)
            if not pids:
                break

    def marked(self) -> list[int]:
        """The ids of all processes that carry this device's mark and are no zombies."""
        needle = f"{MARK}={self._mark}".encode()
        found = []
        for pid in _process_ids():
            try:
                if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append(pid)
            except OSError:  # it ended, or is none of ours to look at
                continue
        return found


def _process_ids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _sessions() -> list[tuple[int, int]]:
    """Process and session ids of all processes that are no zombies."""
    found = []
    for pid in _process_ids():
        try:
            state, _, _, session = (
                Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[:4]
            )
        except OSError:  # it ended
            continue
        if state not in {"Z", "X"}:
            found.append((pid, int(session)))
    return found


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
