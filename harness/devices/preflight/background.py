"""Who else is at work on a device, and what is free, before the session begins: pure parsers and their warnings.

Warned and recorded only: whether a run was really disturbed is judged later, block by block, from its own CPU time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.devices.preflight.shell import Shell

# Load per CPU, and share of time in which somebody waited for a CPU, from which on a device counts as busy.
BUSY_LOAD, BUSY_PRESSURE_PERCENT = 0.5, 10.0
LOW_MEMORY_BYTES, LOW_SPACE_BYTES = 200 << 20, 200 << 20
_TOP = 3
# CPU time of every process, twice, a second apart.
_STATS = "cat /proc/[0-9]*/stat 2>/dev/null; sleep 1; echo; cat /proc/[0-9]*/stat 2>/dev/null"
_TICKS = 100.0  # per second, on every Linux


def parse_load(text: str) -> float | None:
    """The load of the last minute, from /proc/loadavg."""
    found = re.match(r"\s*(\d+(?:\.\d+)?)\s", text)
    return None if found is None else float(found[1])


def parse_pressure(text: str) -> float | None:
    """Percent of the last ten seconds in which something waited for a CPU, from /proc/pressure/cpu."""
    found = re.search(r"^some avg10=(\d+(?:\.\d+)?)", text, re.MULTILINE)
    return None if found is None else float(found[1])


def parse_available(text: str) -> int | None:
    """Memory to be had without swapping, from /proc/meminfo."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", text, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def parse_busiest(text: str) -> list[str]:
    """The processes that took most CPU time between two listings of /proc/*/stat: "name 87 %", at least 5 %."""
    first, _, second = text.partition("\n\n")
    before, after = _times(first), _times(second)
    used = {key: ticks - before[key] for key, ticks in after.items() if key in before}
    ranked = sorted(used.items(), key=lambda item: -item[1])[:_TOP]
    return [f"{name} {100 * ticks / _TICKS:.0f} %" for (_, name), ticks in ranked if ticks >= _TICKS / 20]


def _times(text: str) -> dict[tuple[str, str], int]:
    """Process number and name → ticks of CPU time. A name may hold blanks and brackets."""
    found = {}
    for line in text.splitlines():
        head, bracket, rest = line.rpartition(") ")
        pid, opened, name = head.partition(" (")
        fields = rest.split()
        if bracket and opened and len(fields) > 12:  # noqa: PLR2004 - user and system time are fields 11 and 12 from here
            found[pid, name] = int(fields[11]) + int(fields[12])
    return found


def background(texts: Mapping[str, str | None], cpus: int | None, free_bytes: int | None) -> dict[str, Any]:
    """What the texts say: load_1min, pressure_percent, memory_available_bytes, warnings; what is unknown is left out."""
    load, pressure = parse_load(texts.get("loadavg") or ""), parse_pressure(texts.get("pressure") or "")
    memory = parse_available(texts.get("meminfo") or "")
    warnings = []
    if load is not None and load / max(1, cpus or 1) > BUSY_LOAD:
        warnings.append(f"busy: a load of {load:.1f} on {cpus or 1} CPUs")
    if pressure is not None and pressure > BUSY_PRESSURE_PERCENT:
        warnings.append(f"busy: in {pressure:.0f} % of the last ten seconds something waited for a CPU")
    if memory is not None and memory < LOW_MEMORY_BYTES:
        warnings.append(f"only {memory >> 20} MiB of memory are free")
    if free_bytes is not None and free_bytes < LOW_SPACE_BYTES:
        warnings.append(f"only {free_bytes >> 20} MiB of space are free in the work folder")
    found: dict[str, Any] = {"load_1min": load, "pressure_percent": pressure, "memory_available_bytes": memory}
    found = {key: value for key, value in found.items() if value is not None}
    return found | ({"warnings": warnings} if warnings else {})


def busiest(shell: Shell) -> list[str]:
    """Who takes the CPUs now. Takes a second. Raises TransportError."""
    return parse_busiest(shell.script(_STATS).stdout.decode("utf-8", "replace"))
