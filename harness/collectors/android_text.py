"""Text of `dumpsys battery` and `dumpsys thermalservice` → values. Pure; for power, heat and the facts of a phone alike.

Vendors add, drop and rename lines, so lines are found by key, not by place. What a phone does not say is None.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from harness.collectors.unavailable import Unavailable

# BatteryManager.BATTERY_STATUS_*, BATTERY_HEALTH_*
_STATUS = {1: "unknown", 2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_HEALTH = {1: "unknown", 2: "good", 3: "overheat", 4: "dead", 5: "over voltage", 6: "failure", 7: "cold"}
# android.os.Temperature.TYPE_*
TEMPERATURE_TYPES = {
    -1: "unknown",
    0: "cpu",
    1: "gpu",
    2: "battery",
    3: "skin",
    4: "usb port",
    5: "power amplifier",
    6: "bcl voltage",
    7: "bcl current",
    8: "bcl percentage",
    9: "npu",
    10: "tpu",
    11: "display",
    12: "modem",
    13: "soc",
    14: "wifi",
    15: "camera",
    16: "flashlight",
    17: "speaker",
    18: "ambient",
    19: "pogo",
}
THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_BCL = {6, 7, 8}  # volts, amps and percent in a list of temperatures
_PLAUSIBLE_C = (-40.0, 150.0)
_LINE = re.compile(r"^\s*([A-Za-z][A-Za-z _]*?)\s*[:=]\s*(.*?)\s*$")
_TEMPERATURE = re.compile(r"Temperature\{mValue=([^,]+), mType=(-?\d+), mName=([^,]*), mStatus=(\d+)\}")


@dataclass(frozen=True, slots=True)
class Battery:
    """`dumpsys battery`. `powered`: supplies said to be connected ("AC", "USB", "Wireless", "Dock"). `current_ma`: only
    where the vendor adds it, sign as the vendor has it. `updates_stopped`: somebody set values by hand, so that
    nothing here is to be believed until `dumpsys battery reset`."""

    status: str | None
    powered: tuple[str, ...]
    level_percent: int | None
    voltage_mv: int | None
    temperature_c: float | None
    charge_counter_uah: int | None
    current_ma: int | None
    health: str | None
    technology: str | None
    updates_stopped: bool


@dataclass(frozen=True, slots=True)
class Temperature:
    """One sensor of the thermal service: °C, type in words, throttling status 0 (none) … 6 (shutdown)."""

    name: str
    type: str
    celsius: float
    status: int


@dataclass(frozen=True, slots=True)
class ThermalService:
    """`dumpsys thermalservice`. `status`: 0 … 6; `overridden`: somebody set it by hand. `fresh`: temperatures come from
    the hardware now, not from a cache."""

    status: int | None
    overridden: bool
    temperatures: tuple[Temperature, ...]
    fresh: bool


def _lines(text: str) -> dict[str, str]:
    """Key in lower case → value; the first line of a key counts, for vendors append logs with the same words."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None:
            found.setdefault(match[1].lower(), match[2])
    return found


def _integer(value: str | None) -> int | None:
    match = re.match(r"[-+]?\d+", value or "")
    return None if match is None else int(match[0])


def _words(value: str | None, names: dict[int, str]) -> str | None:
    """A number by its name; some vendors write the word at once."""
    number = _integer(value)
    if number is not None:
        return names.get(number)
    return value.lower() if value else None


def _voltage_mv(value: int | None) -> int | None:
    """Millivolts; some phones give microvolts or whole volts, told apart by size: a battery has 2 to 100 V."""
    if value is None:
        return None
    for low, high, scale in ((2_000, 100_000, 1.0), (2_000_000, 100_000_000, 1e-3), (2, 100, 1e3)):
        if low <= value <= high:
            return round(value * scale)
    return None


def parse_battery(text: str) -> Battery | Unavailable:
    """Parse `dumpsys battery`. Unavailable for text that is none: a permission error, a missing service."""
    lines = _lines(text)
    if not {"level", "status", "voltage", "present"} & set(lines):
        said = " ".join(text.split())[:120]
        return Unavailable(f"`dumpsys battery` says nothing of a battery: {said!r}")
    powered = tuple(
        name for name in ("AC", "USB", "Wireless", "Dock") if lines.get(f"{name.lower()} powered", "").lower() == "true"
    )
    level, scale = _integer(lines.get("level")), _integer(lines.get("scale"))
    tenths = _integer(lines.get("temperature"))
    current = next((lines[key] for key in ("current now", "mcurrentnow", "currentnow") if key in lines), None)
    charge = _integer(lines.get("charge counter"))
    return Battery(
        status=_words(lines.get("status"), _STATUS),
        powered=powered,
        level_percent=level if level is None or not scale else round(100 * level / scale),
        voltage_mv=_voltage_mv(_integer(lines.get("voltage"))),
        temperature_c=None if tenths is None else tenths / 10,
        # Phones without the counter say 0 or the lowest integer.
        charge_counter_uah=charge if charge is not None and charge > 0 else None,
        current_ma=_integer(current),
        health=_words(lines.get("health"), _HEALTH),
        technology=lines.get("technology") or None,
        updates_stopped="UPDATES STOPPED" in text,
    )


def _temperatures(text: str) -> tuple[Temperature, ...]:
    found = []
    for value, kind, name, status in _TEMPERATURE.findall(text):
        try:
            celsius = float(value)
        except ValueError:
            continue
        low, high = _PLAUSIBLE_C
        if int(kind) not in _BCL and math.isfinite(celsius) and low <= celsius <= high:
            found.append(Temperature(name.strip(), TEMPERATURE_TYPES.get(int(kind), "unknown"), celsius, int(status)))
    return tuple(found)


def parse_thermalservice(text: str) -> ThermalService | Unavailable:
    """Parse `dumpsys thermalservice` (Android 10 and newer). Unavailable where there is no such service."""
    status = re.search(r"^\s*Thermal Status:\s*(-?\d+)", text, re.MULTILINE)
    if status is None and "Temperature{" not in text:
        said = " ".join(text.split())[:120]
        return Unavailable(f"`dumpsys thermalservice` says nothing of temperatures: {said!r}")
    _, marker, hal = text.partition("Current temperatures from HAL")
    # What follows the current values are thresholds and cooling devices, which have other names.
    fresh = _temperatures(hal) if marker else ()
    return ThermalService(
        status=None if status is None else int(status[1]),
        overridden=re.search(r"IsStatusOverride:\s*true", text) is not None,
        temperatures=fresh or _temperatures(text),
        fresh=bool(fresh),
    )
