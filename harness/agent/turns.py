"""Taking turns with other agents on the same machine: one measures while the others sleep.

Noise on a shared machine comes and goes within tenths of a second. What is measured a tenth of a second apart has it in common,
and a ratio is free of it; what is measured by one process after the other is not. So agents whose results will be compared
are started together, and a token goes round between them, one interleaved round each. It travels through named pipes, so that
nobody polls and no message has to cross the network. Standard library only; Linux (a pipe opened for reading and writing
keeps its token while the reader is not there yet).
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path

from .channel import AgentError
from .protocol import Turn

_TOKEN = b"."
_READY = "ready"


class Turns:
    """This agent's place in the circle. Raises AgentError of kind "job" when the pipes cannot be made."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._first = True
        try:
            Path(turn.folder).mkdir(mode=0o700, exist_ok=True)
            self._mine = self._pipe(str(turn.index))
            self._next = self._pipe(str((turn.index + 1) % turn.of))
            self._ready = self._pipe(_READY)
        except OSError as error:
            raise AgentError.wrap("job", error, "measure these devices in sessions of their own") from error

    def _pipe(self, name: str) -> int:
        path = Path(self._turn.folder) / name
        with contextlib.suppress(FileExistsError):  # another agent of the circle was here first
            os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ready(self) -> None:
        """Say that from now on only measuring is left to do here."""
        os.write(self._ready, _TOKEN)

    def wait(self) -> int:
        """Sleep until it is this agent's turn; ns slept. The first agent's first turn comes when all are ready.

        Raises AgentError of kind "job" when no token came in time.
        """
        begun = time.monotonic_ns()
        if self._first and self._turn.index == 0:
            self._take(self._ready, self._turn.of)
        else:
            self._take(self._mine, 1)
        self._first = False
        return time.monotonic_ns() - begun

    def _take(self, pipe: int, tokens: int) -> None:
        deadline = time.monotonic() + self._turn.wait_s
        while tokens:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                message = f"no turn came within {self._turn.wait_s:g} s: another agent of the circle is gone or hangs"
                raise AgentError("job", message, name="NoTurn")
            tokens -= len(os.read(pipe, tokens))

    def give(self) -> None:
        """Let the next one measure."""
        os.write(self._next, _TOKEN)
