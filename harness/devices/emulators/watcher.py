"""Runs beside one emulator, standard library only: starts it, and ends it when the harness lets go or is gone.

`python -I -S watcher.py FOLDER -- ARGV…`. Its stdin is a pipe that only the harness holds: at its end, however the harness
ended, the emulator's process group is killed and the instance's folder removed. The watcher leads a session of its own, so
that Ctrl-C reaches neither. It inherits the folder's lock, which says that the instance is in use. Should the watcher itself be killed, the kernel kills the emulator, and the next start sweeps.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# Sent before the harness lets go of an emulator that it will start again in the same folder.
KEEP = b"keep\n"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _die_with_parent() -> None:
    """In the child, before it becomes the emulator."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(folder: Path, argv: list[str]) -> subprocess.Popen[bytes]:
    with (folder / "emulator.log").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
        )


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The emulator and all it started, also what left its process group; harmless when nobody is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    # As their subreaper this process inherits those whose parents are gone.
    mine = Path(f"/proc/self/task/{os.getpid()}/children")
    while orphans := mine.read_text(encoding="ascii").split():
        for orphan in orphans:
            os.kill(int(orphan), signal.SIGKILL)
            os.waitpid(int(orphan), 0)


def main() -> int:
    """The emulator's exit code (128 + signal where one killed it); 0 when the harness let go."""
    folder, argv = Path(sys.argv[1]), sys.argv[3:]
    keep = False
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = _start(folder, argv)
    (folder / "pid").write_text(f"{child.pid}\n", encoding="ascii")
    ended = os.pidfd_open(child.pid)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    while True:
        readable, _, _ = select.select([sys.stdin.fileno(), ended], [], [])
        if ended in readable:
            code = child.wait()
            _kill(child)
            return code if code >= 0 else 128 - code
        said = os.read(sys.stdin.fileno(), 4096)
        keep = keep or said == KEEP
        if not said:
            _kill(child)
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
            return 0


if __name__ == "__main__":
    sys.exit(main())
