"""The agent's end of the wire: messages to the real stdout, signals, and dying with the host.

Native engines print to file descriptor 1 whenever they like; so the real stdout is kept aside for messages alone and
descriptor 1 leads to stderr. Nothing of the agent outlives its host: a watcher thread sleeps in poll(2) until stdin or
stdout hangs up. Standard library only.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import time
from typing import Any

from .protocol import encode_message

EXIT_TERMINATED = 143


class TerminatedError(BaseException):
    """SIGTERM or SIGINT arrived. A BaseException, so that no engine's `except Exception` takes it for its own."""


class AgentError(Exception):
    """A failure that becomes an `error` message: its kind, the tool's own words and what to do about it."""

    def __init__(self, kind: str, message: str, *, name: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name or "AgentError"
        self.message = message
        self.remedy = remedy

    @classmethod
    def wrap(cls, kind: str, error: BaseException, remedy: str | None = None) -> AgentError:
        """An AgentError that carries another exception's class and words; an AgentError stays as it is."""
        if isinstance(error, AgentError):
            return error
        # One line; native code likes to begin with the places in its own source that the exception passed.
        lines = (line.strip() for line in str(error).splitlines())
        words = " ".join(line for line in lines if line and not line.startswith("Exception from "))
        return cls(kind, words[:2000] or repr(error), name=type(error).__name__, remedy=remedy)


class Channel:
    """Sends messages on `descriptor`, one JSON line each, whole or not at all."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._sending = False
        self._terminated = False
        self._finishing = False

    def send(self, kind: str, /, **fields: Any) -> None:
        """Send one message. Raises TerminatedError after it when a signal came meanwhile."""
        line = (encode_message(kind, time.monotonic_ns(), **fields) + "\n").encode()
        self._sending = True
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except BrokenPipeError:
            os._exit(EXIT_TERMINATED)  # nobody listens any more
        finally:
            self._sending = False
        if self._terminated and not self._finishing:
            self._finishing = True
            raise TerminatedError

    def error(self, model: str | None, error: AgentError) -> None:
        """Send an `error` message about one model, or about the whole run (None)."""
        self.send("error", id=model, kind=error.kind, name=error.name, message=error.message, remedy=error.remedy)

    def stage(self, stage: str, model: str | None) -> None:
        """Say what comes next, so that the host knows whom to blame if the process dies in it."""
        self.send("sensor", name="stage", values={"stage": stage, "id": model})

    def finish(self) -> None:
        """From now on signals change nothing: only the last messages are left to send."""
        self._finishing = True

    def catch_signals(self) -> None:
        """From now on the first SIGTERM or SIGINT raises TerminatedError; while a message is on its way, just after it."""

        def handler(_number: int, _frame: object) -> None:
            self._terminated = True
            if not self._sending and not self._finishing:
                self._finishing = True
                raise TerminatedError

        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)


def take_stdout() -> int:
    """Keep the real stdout aside, lead descriptor 1 to stderr, and return the new descriptor for messages."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def read_line(descriptor: int) -> bytes:
    """The first line of a descriptor, without buffering what follows (the watcher polls the same descriptor)."""
    parts: list[bytes] = []
    while True:
        part = os.read(descriptor, 65536)
        parts.append(part)
        if not part or b"\n" in part:
            return b"".join(parts).partition(b"\n")[0]


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def watch_host(output: int, job_input: int | None) -> None:
    """Exit the process as soon as the host hangs up: end of file on `job_input`, or no reader on `output`.

    The thread sleeps in poll(2) without the interpreter's lock; it costs the measurement nothing.
    """
    poll = select.poll()
    watched = 0
    if _is_pipe(output):
        poll.register(output, 0)  # errors and hang-ups are reported unasked
        watched += 1
    if job_input is not None and _is_pipe(job_input):
        poll.register(job_input, select.POLLIN)
        watched += 1
    if not watched:
        return

    def watch() -> None:
        while True:
            for descriptor, _events in poll.poll():
                if descriptor == job_input and os.read(descriptor, 4096):
                    continue  # more input than the job: of no meaning
                where = "stdin" if descriptor == job_input else "stdout"
                os.write(2, f"agent: {where} was closed, so the host is gone: exiting\n".encode())
                os._exit(EXIT_TERMINATED)

    threading.Thread(target=watch, name="watch-host", daemon=True).start()


def die_with_parent() -> str | None:
    """Ask the kernel to kill this process when the thread that started it ends. Returns why not, or None."""
    try:
        import ctypes  # costs milliseconds, and is missing from some small Pythons

        if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:  # 1 = PR_SET_PDEATHSIG
            return os.strerror(ctypes.get_errno())
    except (ImportError, OSError, AttributeError) as error:
        return f"no prctl: {error}"
    return None
