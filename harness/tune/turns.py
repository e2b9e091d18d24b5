"""Who may use this host now: many trials may convert at once, but while one measures here, nothing else of any search works.

Between threads and between processes alike: the lock is a file. A device elsewhere is measured by one trial at a time too, but what
this host does meanwhile is no matter to it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.profiles import DeviceProfile


def default_folder() -> Path:
    """Where all searches of this user have their locks."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ondevice-harness" / "locks"


class Turns:
    """Turns on the device that a search measures on. `here`: whether it is this host, or an emulator on it."""

    def __init__(self, profile: DeviceProfile, folder: Path | None = None) -> None:
        self.here = profile.transport == "local" or profile.emulator is not None
        place = folder or default_folder()
        place.mkdir(parents=True, exist_ok=True)
        name = "host" if self.here else re.sub(r"[^A-Za-z0-9._-]", "_", profile.name)
        self._lock, self._queue = place / f"{name}.lock", place / f"{name}.queue"

    @contextmanager
    def working(self) -> Iterator[None]:
        """While this host works on something that is not measured; waits for whoever measures here."""
        if not self.here:
            yield
            return
        with self._held(fcntl.LOCK_SH):
            yield

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """While something is measured; waits until nobody else works here or measures there."""
        with self._held(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _held(self, how: int) -> Iterator[None]:
        with self._lock.open("ab") as lock:
            # Through one gate, so that who waits to measure is not passed by ever new workers.
            with self._queue.open("ab") as queue:
                fcntl.flock(queue, fcntl.LOCK_EX)
                fcntl.flock(lock, how)
            yield
