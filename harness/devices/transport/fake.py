"""A device that is a function: for tests, of the harness and of whoever builds on it.

    def handler(call: Call) -> Completed | Script:
        if call.argv[0] == "python3":
            return Script(lines=[b'{"type":"hello", …}', …])
        return Completed(0, b"", b"")

    transport = FakeTransport(handler)

Files pushed are kept in `transport.files`; every call is in `transport.calls`. No time passes: a script that hangs times
out at once. `lose()` makes every later call fail as a lost connection does, until `restore()`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.devices.transport.base import Completed, Process, Transport
from harness.errors import TransportError


@dataclass(frozen=True, slots=True)
class Call:
    """A command as the handler sees it; `files` are the device's, and the handler may change them."""

    argv: tuple[str, ...]
    stdin: bytes
    cwd: str | None
    env: Mapping[str, str]
    files: dict[str, bytes] = field(repr=False)


@dataclass(slots=True)
class Script:
    """What a process does: its lines, then one of: end with `returncode`; silence (`hangs`); a lost connection (`lost`).

    Lines are taken when they are read, so a generator may act, raise, or change how the script ends, in between.
    """

    lines: Iterable[bytes] = ()
    returncode: int = 0
    stderr: bytes = b""
    hangs: bool = False
    lost: bool = False


class FakeProcess(Process):
    """Plays a Script."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self.script = script
        self.killed = False
        self._source = iter(script.lines)

    def read_chunk(self, timeout_s: float) -> bytes:
        """See Process; `timeout_s` is not waited for."""
        del timeout_s
        line = None if self.killed else next(self._source, None)
        if line is not None:
            return line + b"\n"
        if self.script.lost and not self.killed:
            raise TransportError("fake: the connection was lost", transient=True)
        if self.script.hangs and not self.killed:
            raise TimeoutError
        return b""

    def close_stdin(self) -> None:
        """See Process."""

    def wait(self, timeout_s: float) -> int:
        """See Process."""
        del timeout_s
        return -9 if self.killed else self.script.returncode

    def kill(self) -> None:
        """See Process."""
        self.killed = True

    def stderr_tail(self) -> bytes:
        """See Process."""
        return self.script.stderr


class FakeTransport(Transport):
    """A device whose commands are answered by `handler` and whose files are a dict."""

    def __init__(self, handler: Callable[[Call], Completed | Script], label: str = "fake") -> None:
        self.label = label
        self.handler = handler
        self.files: dict[str, bytes] = {}
        self.calls: list[Call] = []
        self.pushed: list[str] = []
        self.processes: list[FakeProcess] = []
        self.closed = False
        self._lost = False

    def lose(self) -> None:
        """From now on the connection is lost."""
        self._lost = True

    def restore(self) -> None:
        """The connection is back."""
        self._lost = False

    def _check(self) -> None:
        if self._lost:
            raise TransportError(f"{self.label}: the connection was lost", transient=True)

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> FakeProcess:
        """See Transport."""
        self._check()
        call = Call(tuple(argv), stdin, cwd, dict(env or {}), self.files)
        self.calls.append(call)
        answer = self.handler(call)
        if isinstance(answer, Completed):
            # A Script's lines get a newline each; an answer's bytes are to arrive as they are.
            process: FakeProcess = _Answer(answer)
        else:
            process = FakeProcess(answer)
        self.processes.append(process)
        return process

    def push(self, path: Path, remote: str) -> None:
        """See Transport."""
        self._check()
        self.files[remote] = path.read_bytes()
        self.pushed.append(remote)

    def pull(self, remote: str, path: Path) -> None:
        """See Transport."""
        self._check()
        if remote not in self.files:
            raise TransportError(f"{self.label}: there is no {remote}")
        path.write_bytes(self.files[remote])

    def sha256(self, remotes: Sequence[str]) -> dict[str, str]:
        """See Transport."""
        self._check()
        return {name: hashlib.sha256(self.files[name]).hexdigest() for name in remotes if name in self.files}

    def remove(self, remote: str) -> None:
        """See Transport."""
        self._check()
        for name in [n for n in self.files if n == remote or n.startswith(remote.rstrip("/") + "/")]:
            del self.files[name]

    def close(self) -> None:
        """See Transport."""
        for process in self.processes:
            process.kill()
        self.closed = True


class _Answer(FakeProcess):
    """Gives the bytes of a Completed as they are."""

    def __init__(self, answer: Completed) -> None:
        super().__init__(Script(returncode=answer.returncode, stderr=answer.stderr))
        self._stdout = answer.stdout

    def read_chunk(self, timeout_s: float) -> bytes:
        del timeout_s
        stdout, self._stdout = self._stdout, b""
        return stdout
