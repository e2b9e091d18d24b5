"""Resident memory of this process: now, and its high-water mark between two moments; its proportional share; and a probe's phases.

The mark is the kernel's own (VmHWM), set back through /proc/self/clear_refs before each phase, so that a short spike
is caught without a sampling thread and the spikes of imports are not counted. Where that is not permitted, the
mark since the start of the process stands in, and `how` says so; of a phase in which it rose, it still is the peak.
Standard library only.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_ROLLUP = Path("/proc/self/smaps_rollup")


def _status_bytes(key: str) -> int:
    """A value of /proc/self/status in bytes. Raises OSError or ValueError where there is none."""
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_STATUS} has no {key}")


def resident_bytes() -> int:
    """Resident set size now, in bytes. Raises OSError or ValueError where the kernel does not tell."""
    return _status_bytes("VmRSS")


def proportional_bytes() -> int:
    """Proportional set size now: pages shared with n processes count for 1/n. In bytes. Raises OSError or ValueError.

    The kernel walks all pages for it: milliseconds, so never before something is timed.
    """
    for line in _ROLLUP.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_ROLLUP} has no Pss")


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
        self._before = 0

    def reset(self) -> None:
        """Set the mark back to what is resident now, if the kernel permits."""
        try:
            if self.resettable:
                _CLEAR_REFS.write_text("5", encoding="ascii")
        except OSError as error:
            self.resettable = False
            self.how = f"VmHWM since the process began, for it cannot be set back: {error}"
        if not self.resettable:
            self._before = self.read()

    def phase(self) -> int | None:
        """The highest since `reset`, in bytes; None where the mark is older than that: it cannot be set back and did not rise."""
        mark = self.read()
        return mark if self.resettable or mark > self._before else None

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
        self._put_read(key, resident_bytes)

    def put_proportional(self, key: str) -> None:
        """Store the present proportional set under `key`."""
        self._put_read(key, proportional_bytes)

    def _put_read(self, key: str, read: Callable[[], int]) -> None:
        try:
            self.put(key, read())
        except (OSError, ValueError) as error:
            self.put(key, None, str(error))


class ProbeMemory(MemoryReport):
    """The memory of one probe, phase by phase: what was resident before and after each, and the highest in between."""

    def __init__(self) -> None:
        super().__init__()
        self._peak = PeakCounter()
        self._highest: list[int] = []
        self.put_resident("baseline")
        self.put_proportional("pss_baseline")
        self._peak.reset()

    def end(self, phase: str) -> None:
        """A phase ("load", "first", "steady") ends now, and the next begins."""
        self.put_resident(f"after_{phase}")
        self._highest.append(self._peak.read())
        reason = f"the mark did not rise in this phase, and cannot be set back ({self._peak.how})"
        self.put(f"{phase}_peak", self._peak.phase(), reason)
        self._peak.reset()

    def close(self, facts: Mapping[str, Any], accelerator: tuple[int | None, str]) -> dict[str, int | str | None]:
        """Everything, with what the engine tells of its arena and what is known of accelerators' memory (bytes, how or why not)."""
        self.put_proportional("pss")
        later = [value for phase in ("first", "steady") if isinstance(value := self.values.get(f"{phase}_peak"), int)]
        self.put("inference_peak", max(later, default=None), self._peak.how)
        self.put("peak", max(self._highest))
        self.values["peak_how"] = self._peak.how
        self.put("arena", facts.get("arena_bytes"), facts.get("arena_bytes_reason"))
        value, words = accelerator
        self.put("accelerator", value, words)
        if value is not None:
            self.values["accelerator_how"] = words
        return self.values
