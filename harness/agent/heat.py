"""How hot the device is and whether it is held back: thermal zones, frequencies, cooling, throttle bits, as they stand.

Read at the start and at the end of every run, never while something is measured. Values go home as the kernel's own text;
`harness.collectors.thermal` knows what they mean. What is not there is left out. Standard library only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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
