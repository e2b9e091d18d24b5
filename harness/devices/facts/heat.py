"""Temperatures, and what a device says of its own throttling. Pure; °C.

Limit pseudo-zones and battery-current zones are listed among a phone's thermal zones and are no temperatures: left out,
as is what no thermometer would say (exactly zero, −274, 125 from a sensor that is off).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.collectors.android_text import THERMAL_STATUS, parse_thermalservice
from harness.collectors.unavailable import Unavailable

# Names of zones that hold something else: limits of Qualcomm's hardware, voltages, currents, the state of charge, and a
# constant 100 °C of the first Jetson Nano.
_NOT_TEMPERATURES = re.compile(r"lmh-dcvs|(^|[-_])(ibat|vbat|bcl|vph)([-_]|$)|^soc$|-lvl\d|trip|^pmic-die$")
_KINDS = (
    ("battery", r"batt|^bms|^bat$"),
    ("gpu", r"gpu|mali|kgsl|^g3d$"),
    ("npu", r"npu|tpu|cdsp|dsp"),
    ("skin", r"skin|quiet|shell|back[-_]?therm|surface"),
    (
        "cpu",
        r"cpu|x86_pkg|coretemp|package|k10temp|tctl|tdie|bigcore|littlecore|^big$|^mid$|^little$|apc|cluster|core\d",
    ),
    ("soc", r"soc|tsens|^ap$|^ap[-_]|tj|exynos|bcm2835|acpitz|imx_thermal|mtktsap"),
)
_PI_NOW = {
    0: "under-voltage",
    1: "ARM frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}

_LARGEST_DEGREES, _LARGEST_TENTHS = 150, 1500
_PLAUSIBLE_C = (-30.0, 124.0)


def kind_of(name: str) -> str:
    """What a sensor of that name sits on: cpu, soc, gpu, npu, battery, skin, or other."""
    lower = name.lower()
    return next((kind for kind, pattern in _KINDS if re.search(pattern, lower)), "other")


def celsius(raw: int) -> float | None:
    """A zone's number in °C: millidegrees; in old phones' kernels tenths or whole degrees. None for what cannot be."""
    scale = 1 if abs(raw) <= _LARGEST_DEGREES else 10 if abs(raw) <= _LARGEST_TENTHS else 1000
    low, high = _PLAUSIBLE_C
    return round(raw / scale, 1) if low < raw / scale < high and raw != 0 else None


def parse_thermal_zones(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """`name`, `kind`, `c` of each zone in /sys/class/thermal that holds a temperature."""
    found = []
    for name, text in texts.items():
        zone = re.fullmatch(r"(/sys/class/thermal/thermal_zone(\d+))/temp", name)
        if zone is None or not re.fullmatch(r"-?\d+", text.strip()):
            continue
        label = texts.get(f"{zone[1]}/type", "").strip() or f"zone {zone[2]}"
        value = celsius(int(text))
        if value is not None and not _NOT_TEMPERATURES.search(label.lower()):
            found.append((int(zone[2]), {"name": label, "kind": kind_of(label), "c": value}))
    return [entry for _, entry in sorted(found, key=lambda item: item[0])]


def parse_hwmon_temperatures(texts: Mapping[str, str]) -> list[dict[str, Any]]:
    """`name` (chip and label), `kind`, `c` of each hwmon temperature."""
    found = []
    for name, text in sorted(texts.items()):
        node = re.fullmatch(r"(/sys/class/hwmon/hwmon\d+)/(temp\d+)_input", name)
        if node is None or not re.fullmatch(r"-?\d+", text.strip()):
            continue
        chip = texts.get(f"{node[1]}/name", "").strip() or "hwmon"
        label = texts.get(f"{node[1]}/{node[2]}_label", "").strip()
        value = celsius(int(text)) if abs(int(text)) > _LARGEST_TENTHS else None
        if value is not None:
            kind = kind_of(chip)
            found.append(
                {
                    "name": f"{chip} {label}".strip(),
                    "kind": kind if kind != "other" else kind_of(label) if label else "other",
                    "c": value,
                }
            )
    return found


def service_facts(text: str) -> dict[str, Any] | None:
    """Android's thermal service (`dumpsys thermalservice`, Android 10 and newer): `status`, `overridden`, `sensors`."""
    told = parse_thermalservice(text)
    if isinstance(told, Unavailable):
        return None
    sensors = []
    for item in told.temperatures:
        kind = {"tpu": "npu"}.get(item.type, item.type)
        entry = {
            "name": item.name,
            "kind": kind_of(item.name) if kind == "unknown" else kind,
            "c": round(item.celsius, 1),
        }
        if item.celsius != 0 and entry not in sensors:
            sensors.append(entry)
    known = told.status is not None and 0 <= told.status < len(THERMAL_STATUS)
    status = THERMAL_STATUS[told.status] if known and told.status is not None else None
    return {"status": status, "overridden": told.overridden, "sensors": sensors}


def headline(sensors: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The sensor to show and to heed: the hottest of the CPU, else of the SoC, else skin, else any but the battery."""
    for kinds in ({"cpu"}, {"soc"}, {"skin"}, {"other", "unknown", "gpu", "npu"}):
        found = [sensor for sensor in sensors if sensor["kind"] in kinds]
        if found:
            return max(found, key=lambda sensor: float(sensor["c"]))
    return None


def parse_pi_throttled(text: str) -> dict[str, Any] | None:
    """A Raspberry Pi's `throttled=0x50005` (or the bare number of the sysfs node), in words: `now` and `since_boot`."""
    found = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", text.strip())
    if found is None:
        return None
    bits = int(found[1], 16)
    return {
        "raw": f"0x{bits:x}",
        "now": [words for bit, words in _PI_NOW.items() if bits >> bit & 1],
        "since_boot": [words for bit, words in _PI_NOW.items() if bits >> (bit + 16) & 1],
    }


def parse_cooling(texts: Mapping[str, str]) -> list[str]:
    """Cooling devices that hold the CPU back just now (fans cool without slowing anything, and do not count)."""
    active = []
    for name, text in sorted(texts.items()):
        device = re.fullmatch(r"(/sys/class/thermal/cooling_device\d+)/cur_state", name)
        if device is None or not text.strip().isdigit() or int(text) == 0:
            continue
        kind = texts.get(f"{device[1]}/type", "").strip()
        if re.search(r"cpufreq|cpu|processor|cluster", kind.lower()) and "fan" not in kind.lower():
            active.append(kind)
    return active
