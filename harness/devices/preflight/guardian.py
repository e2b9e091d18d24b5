"""A tiny sh process on the device that puts everything back when the host is gone: its stdin is the life line.

It starts no program of its own and sleeps in `read` while the session lasts, so it costs the measurement nothing. At
end-of-file it runs the commands, unless its sign, a file in the work folder, has been taken away: then another guardian has
taken over after a lost connection, or all is put back already.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from harness.devices.preflight.shell import Shell
from harness.devices.transport import Process
from harness.errors import TransportError

START_TIMEOUT_S = 20.0
_NAME = "harness-guardian"
# Deaf to hang-ups, and to a closed stdout. `$1`: the sign.
_SCRIPT = """
trap '' HUP INT TERM PIPE
: > "$1" || exit 1
echo "ready $$"
while IFS= read -r line; do :; done
[ -e "$1" ] || exit 0
{undo}
rm -f -- "$1"
"""
# The number may be another process's by now: only one that names the sign is ours. /proc separates arguments by NUL.
_KILL = 'grep -q -F -e "$2" "/proc/$1/cmdline" 2>/dev/null && kill -KILL "$1"; rm -f -- "$2"'


class Guardian:
    """One guardian at a time; `watch` again after a lost connection."""

    def __init__(self, undo: Sequence[Sequence[str]]) -> None:
        self._lines = "\n".join(f"{shlex.join(command)} >/dev/null 2>&1" for command in undo)
        self._process: Process | None = None
        self._pid: str | None = None
        self._sign: str | None = None

    def watch(self, shell: Shell, sign: str) -> None:
        """Start one, and end the one before it, which may still wait on a dead connection. Raises TransportError."""
        stale = (self._pid, self._sign)
        script = _SCRIPT.format(undo=self._lines)
        process = shell.transport.start(["sh", "-c", script, _NAME, sign], env=shell.env)
        try:
            line = (process.read_line(START_TIMEOUT_S) or b"").decode("ascii", "replace").split()
        except TimeoutError:
            line = []
        if line[:1] != ["ready"]:
            said = process.stderr_tail().decode("utf-8", "replace").strip()[-200:]
            process.kill()
            raise TransportError(
                f"{shell.transport.label}: the guardian that puts settings back does not start: {said}",
                remedy="check 'work_folder' in the device profile and its free space, or empty 'may_change'",
            )
        self._process, self._pid, self._sign = process, line[1], sign
        if stale[0] is not None and stale[1] is not None:
            shell.script(_KILL, stale[0], stale[1])

    def dismiss(self, shell: Shell) -> None:
        """Everything is put back: take the sign away and end it. Raises TransportError."""
        if self._sign is not None and self._pid is not None:
            shell.script(_KILL, self._pid, self._sign)
        if self._process is not None:
            self._process.kill()
        self._process = self._pid = self._sign = None
