"""One running emulator's folder and process: made, watched, ended; what a killed harness left is swept at the next start.

Used by every kind of emulator. The folder is private and holds keys, overlay, console log; `watcher.py` removes it even when
the harness was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from harness.devices.emulators.cache import cache_root, locked
from harness.devices.emulators.watcher import KEEP
from harness.errors import DeviceError

_STOP_TIMEOUT_S = 20.0
_TAIL_BYTES = 4000


def free_port() -> int:
    """A port of this host that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Instance:
    """A folder under the cache, and at most one emulator process at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        parent = cache_root() / "instances"
        parent.mkdir(mode=0o700, exist_ok=True)
        with locked(parent / ".lock"):
            sweep(parent)
            self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
            # Held by this process and by the watchers that inherit it: free once all of them are gone.
            self._lock = (self.folder / "lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._watcher: subprocess.Popen[bytes] | None = None

    def start(self, argv: Sequence[str]) -> None:
        """Start the emulator. Raises DeviceError when its program cannot be run at all."""
        self.end()
        program = shutil.which(argv[0])
        if program is None:
            raise DeviceError(
                f"{self.name}: {argv[0]} is not installed", remedy="see docs/devices.md for what it needs"
            )
        script = str(resources.files("harness.devices.emulators").joinpath("watcher.py"))
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(self.folder), "--", program, *argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[self._lock.fileno()],
        )
        said = b"" if self._watcher.stdout is None else self._watcher.stdout.readline()
        if said != b"started\n":
            raise DeviceError(f"{self.name}: {program} cannot be started: {self.tail('emulator.log')}")

    @property
    def alive(self) -> bool:
        """Whether the emulator's process runs."""
        return self._watcher is not None and self._watcher.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the emulator's processes a signal; none is sent when it does not run."""
        try:
            pid = int((self.folder / "pid").read_text(encoding="ascii"))
            if self.alive:
                os.killpg(pid, number)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return  # not started yet, or just ended

    @property
    def exit_code(self) -> int | None:
        """The emulator's exit code (128 + signal), once it has ended by itself."""
        return None if self._watcher is None else self._watcher.poll()

    def end(self) -> None:
        """Kill the process and keep the folder, for another start in it."""
        if self._watcher is not None and self._watcher.stdin is not None and self.alive:
            # It may end meanwhile by itself: it keeps the folder then too.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._watcher.stdin.fileno(), KEEP)
        self._let_go()

    def remove(self) -> None:
        """Kill the process and remove the folder. Harmless twice."""
        self._let_go()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _let_go(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return
        for stream in (watcher.stdin, watcher.stdout):
            if stream is not None:
                stream.close()
        try:
            watcher.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            watcher.kill()
            watcher.wait()

    def tail(self, name: str) -> str:
        """The end of one of the instance's logs, for messages; its last lines in one."""
        path = self.folder / name
        if not path.exists():
            return ""
        text = path.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace")
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-12:])[-1500:]


def sweep(parent: Path) -> list[str]:
    """Remove the folders whose watcher is gone; their names. A folder just being made has no lock file yet: it is left."""
    swept = []
    for folder in parent.iterdir():
        try:
            with (folder / "lock").open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _kill_left(folder)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder.name)
        except (FileNotFoundError, NotADirectoryError, BlockingIOError):
            continue  # not ours to remove: in use, being made, or removed by another
    return swept


def _kill_left(folder: Path) -> None:
    """The kernel has killed an emulator whose watcher died; one that escaped has the folder's name in its arguments."""
    try:
        pid = int((folder / "pid").read_text(encoding="ascii"))
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        if str(folder).encode() in arguments:
            os.killpg(pid, 9)
    except (OSError, ValueError):
        return  # never started, or gone: nothing to kill
