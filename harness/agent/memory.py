"""Resident memory of this process: now, and its high-water mark between two moments.

The mark is the kernel's own (VmHWM), set back through /proc/self/clear_refs before each phase, so that a short spike
is caught without a sampling thread and the spikes of imports are not counted. Where that is not permitted, the
mark since the start of the process stands in, and `how` says so. Standard library only.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def _status_bytes(key: str) -> int:
    """A value of /proc/self/status in bytes. Raises OSError or ValueError where there is none."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_STATUS} has no {key}")


def resident_bytes() -> int:
    """Resident set size now, in bytes. Raises OSError or ValueError where the kernel does not tell."""
    return _status_bytes("VmRSS")


def max_resident_bytes() -> int:
    """The largest resident set since the process began (ru_maxrss), in bytes."""
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value if sys.platform == "darwin" else value * 1024


class PeakCounter:
    """The high-water mark of resident memory since the last `reset`. `how` says which counter it is.

    `resettable` turns False when the kernel does not permit the reset: the mark then dates from the process's start.
    """

    def __init__(self) -> None:
        self.how = "VmHWM, set back before each phase"
        self.resettable = True

    def reset(self) -> None:
        """Set the mark back to what is resident now, if the kernel permits."""
        if not self.resettable:
            return
        try:
            _CLEAR_REFS.write_text("5", encoding="ascii")
        except OSError as error:
            self.resettable = False
            self.how = f"VmHWM since the process began, for it cannot be set back: {error}"

    def read(self) -> int:
        """The mark in bytes."""
        try:
            return _status_bytes("VmHWM")
        except (OSError, ValueError) as error:
            # Second choice only: on Linux ru_maxrss outlives exec and so may be the mark of a fat parent.
            self.resettable = False
            self.how = f"ru_maxrss since the process began, for there is no VmHWM: {error}"
            return max_resident_bytes()


class MemoryReport:
    """Collects the values of a `memory` message; what could not be read is None with its reason beside it."""

    def __init__(self) -> None:
        self.values: dict[str, int | str | None] = {}

    def put(self, key: str, value: int | None, reason: str | None = None) -> None:
        """Store a value in bytes, or None with the reason."""
        self.values[key] = value
        if value is None:
            self.values[key + "_reason"] = reason or "not measured"

    def put_resident(self, key: str) -> None:
        """Store the present resident set under `key`."""
        try:
            self.put(key, resident_bytes())
        except (OSError, ValueError) as error:
            self.put(key, None, str(error))
