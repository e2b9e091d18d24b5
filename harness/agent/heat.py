"""How hot the device is and whether it is held back: thermal zones, frequencies, cooling, throttle bits, as they stand.

Read at the start and at the end of every run, never while something is measured; in a sustained run a `Watch` looks at the
files that answer quickly between two seconds. Values go home as the kernel's own text;
`harness.collectors.thermal` knows what they mean. What is not there is left out. Standard library only.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .environment import frequency_khz
from .sensors import read_file, run_command, words_of

_PI_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_DUMPSYS = "/system/bin/dumpsys"
_MOST = 200  # a phone has up to a hundred zones


def _texts(root: Path, pattern: str, value: str, label: str | None) -> dict[str, str]:
    """Folder (and the text of its `label` file) → text of its file `value`; folders that cannot be read are left out."""
    found = {}
    for folder in sorted(root.glob(pattern))[:_MOST]:
        try:
            text = read_file(f"{folder}/{value}")
        except OSError:  # a zone may be switched off, or forbidden
            continue
        name = folder.name
        if label is not None:
            try:
                name += f" {read_file(f'{folder}/{label}')}"
            except OSError:
                name += " ?"
        found[name] = text
    return found


def _throttle_count(cpus: Path) -> int | None:
    """How often x86 cores were throttled for heat since boot, all together; None where the kernel does not count."""
    counts = []
    for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        try:
            counts.append(int(read_file(str(path))))
        except (OSError, ValueError):
            continue
    return sum(counts) if counts else None


def _command(values: dict[str, Any], key: str, argv: tuple[str, ...]) -> None:
    try:
        values[key] = run_command(argv)
    except OSError as error:
        values[f"{key}_reason"] = words_of(error)


def thermal(sysfs: str = "/sys") -> dict[str, Any]:
    """By kind: zones (zone and type → text, 1/1000 °C), frequency_khz (policy → text), cooling (device and type → state),
    throttle_count; where they exist also throttled (a Raspberry Pi's bits) and thermalservice (Android's own words)."""
    root = Path(sysfs)
    cpus = root / "devices/system/cpu"
    values: dict[str, Any] = {
        "zones": _texts(root / "class/thermal", "thermal_zone*", "temp", "type"),
        "frequency_khz": _texts(cpus / "cpufreq", "policy*", "scaling_cur_freq", None),
        "cooling": _texts(root / "class/thermal", "cooling_device*", "cur_state", "type"),
    }
    count = _throttle_count(cpus)
    if count is not None:
        values["throttle_count"] = count
    try:
        values["throttled"] = read_file(_PI_THROTTLED)
    except OSError:
        vcgencmd = shutil.which("vcgencmd")
        if vcgencmd is not None:
            _command(values, "throttled", (vcgencmd, "get_throttled"))
    if Path(_DUMPSYS).exists():
        _command(values, "thermalservice", (_DUMPSYS, "thermalservice"))
    return values


# What all looks of a Watch together may take, and how many zones they read at most: the CPU's first.
_LOOK_NS, _MOST_WATCHED = 5_000_000, 12


def _candidates(root: Path) -> Iterator[tuple[str, str, Path]]:
    """What a Watch may read: kind, name and file; most telling first."""
    cpus = root / "devices/system/cpu"
    pi = Path(_PI_THROTTLED)
    if pi.exists():
        yield "throttled", "", pi
    for folder in sorted((cpus / "cpufreq").glob("policy*")):
        yield "frequency_khz", folder.name, folder / "scaling_cur_freq"
    named = _texts(root, "class/thermal/thermal_zone*", "type", None)
    zones = sorted(named, key=lambda name: ("cpu" not in named[name].lower() and "pkg" not in named[name], name))
    for name in zones[:_MOST_WATCHED]:
        yield "zones", f"{name} {named[name]}", root / "class/thermal" / name / "temp"
    cooling = _texts(root, "class/thermal/cooling_device*", "type", None)
    for name in sorted(cooling)[:_MOST_WATCHED]:
        yield "cooling", f"{name} {cooling[name]}", root / "class/thermal" / name / "cur_state"


class Watch:
    """Looks that cost little, for between two blocks: only files, and only those that answer at once.

    Which these are is found out when it is made: each is read once, and those whose reading would take all looks beyond
    5 ms together are left out.
    """

    def __init__(self, sysfs: str = "/sys") -> None:
        self._cpus = Path(sysfs) / "devices/system/cpu"
        self._files: list[tuple[str, str, str]] = []
        left = _LOOK_NS
        for kind, name, path in _candidates(Path(sysfs)):
            before = time.perf_counter_ns()
            try:
                read_file(str(path))
            except OSError:
                continue
            cost = time.perf_counter_ns() - before
            if cost <= left:
                left -= cost
                self._files.append((kind, name, str(path)))
        self._counts = _throttle_count(self._cpus) is not None

    def look(self) -> dict[str, Any]:
        """As `thermal`, without what takes long; the frequency of /proc/cpuinfo where cpufreq tells none."""
        values: dict[str, Any] = {"zones": {}, "frequency_khz": {}, "cooling": {}}
        for kind, name, path in self._files:
            try:
                text = read_file(path)
            except OSError:  # switched off meanwhile
                continue
            if name:
                values[kind][name] = text
            else:
                values[kind] = text
        if not values["frequency_khz"]:
            try:
                values["frequency_khz"] = {"cpuinfo": str(frequency_khz())}
            except (OSError, ValueError):
                values["frequency_khz_reason"] = "neither cpufreq nor /proc/cpuinfo tells it"
        if self._counts:
            values["throttle_count"] = _throttle_count(self._cpus)
        return values
