"""Memory, disk space and load, from /proc and `df`. Pure; sizes in bytes."""

from __future__ import annotations

import re


def _meminfo_bytes(meminfo: str, key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB\s*$", meminfo, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def parse_memory_total_bytes(meminfo: str) -> int | None:
    """MemTotal of /proc/meminfo."""
    return _meminfo_bytes(meminfo, "MemTotal")


def parse_memory_available_bytes(meminfo: str) -> int | None:
    """MemAvailable; kernels before 3.14 do not tell it, then free memory with buffers and page cache."""
    available = _meminfo_bytes(meminfo, "MemAvailable")
    if available is not None:
        return available
    parts = [_meminfo_bytes(meminfo, key) for key in ("MemFree", "Buffers", "Cached")]
    return None if parts[0] is None else sum(part or 0 for part in parts)


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_df_free_bytes(df: str) -> int | None:
    """Free bytes of the one file system that `df -k PATH` was asked about: coreutils, busybox, toybox, or toolbox of Android 5."""
    lines = [line for line in df.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if line.split()[0] != "Filesystem":
            continue
        # A long device name breaks the line in two.
        words = " ".join(lines[index + 1 :]).split()
        if "Free" in line.split() and "Blksize" in line.split():
            return next(map(_size_bytes, words[3:4]), None)
        # Total, used, available; the device's own name may be a number.
        available = [word for word in words[1:] if word.isdigit()][2:3]
        return next((int(word) * 1024 for word in available), None)
    return None


def _size_bytes(text: str) -> int | None:
    """Toolbox writes 5.3G."""
    found = re.fullmatch(r"([0-9.]+)([KMGT]?)", text)
    return None if found is None else int(float(found[1]) * _UNITS[found[2]])


def parse_loadavg(loadavg: str) -> list[float] | None:
    """The three load averages."""
    found = re.match(r"([0-9.]+) ([0-9.]+) ([0-9.]+)", loadavg)
    return None if found is None else [float(number) for number in found.groups()]


def parse_pressure_percent(pressure: str) -> float | None:
    """Share of the last ten seconds in which some task waited, from /proc/pressure/cpu, in percent."""
    found = re.search(r"^some avg10=([0-9.]+)", pressure, re.MULTILINE)
    return None if found is None else float(found[1])
