"""Battery and supply, from `dumpsys battery` and /sys/class/power_supply. Pure.

Units in the result: percent, °C, µV, µA, µAh. Fuel gauges' currents are shown as told; what they mean for energy is the
business of the power collector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.collectors.android_text import parse_battery
from harness.collectors.unavailable import Unavailable

# What a battery that works can have, in tenths of a degree.
_TENTHS_C = range(-299, 1000)
_SMALLEST_UA = 10_000


def _microamperes(current: int | None) -> int | None:
    """The documented µA. A number that is small in µA is mA on many phones: left to the power collector to find out."""
    return current if current is not None and (current == 0 or abs(current) >= _SMALLEST_UA) else None


def service_facts(text: str) -> dict[str, Any] | None:
    """Android's battery service (`dumpsys battery`); None where there is no battery or no such service.

    `updates_stopped`: somebody has set values by hand (`dumpsys battery unplug`): what it says is not true.
    """
    told = parse_battery(text)
    if isinstance(told, Unavailable) or re.search(r"^\s*present: false", text, flags=re.MULTILINE):
        return None
    facts: dict[str, Any] = {
        "level_percent": told.level_percent,
        "status": told.status,
        "plugged": [name.lower() for name in told.powered],
        "health": told.health,
        "temperature_c": told.temperature_c,
        "voltage_uv": None if told.voltage_mv is None else told.voltage_mv * 1000,
        "charge_uah": told.charge_counter_uah,
        # Samsung adds the current, in mA where AOSP would have µA.
        "current_ua": None if told.current_ma is None else told.current_ma * 1000,
        "technology": told.technology,
        "updates_stopped": told.updates_stopped or None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _microvolts(voltage: int | None) -> int | None:
    """Millivolts as documented; some devices give microvolts. Anything else says nothing."""
    if voltage is None:
        return None
    for low, high, scale in ((1_000, 25_000, 1000), (1_000_000, 25_000_000, 1)):
        if low <= voltage <= high:
            return voltage * scale
    return None


def parse_power_supply(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """The machine's own battery, from sysfs; None where there is none. Batteries of mice and pens do not count."""
    supplies: dict[str, dict[str, str]] = {}
    for name, text in texts.items():
        found = re.fullmatch(r"/sys/class/power_supply/([^/]+)/([^/]+)", name)
        if found is not None:
            supplies.setdefault(found[1], {})[found[2]] = text.strip()
    own = {name: nodes for name, nodes in supplies.items() if nodes.get("scope") != "Device"}
    # Phones have several gauges of one battery; the one that Android itself reads is called so.
    batteries = [name for name, nodes in own.items() if nodes.get("type") == "Battery" and nodes.get("present") != "0"]
    if not batteries:
        return None
    name = "battery" if "battery" in batteries else min(batteries)
    facts = _gauge(own[name])
    facts["plugged"] = sorted(
        {
            _plug(nodes["type"])
            for nodes in own.values()
            if nodes.get("online") == "1" and nodes.get("type", "") != "Battery"
        }
    )
    facts["node"] = name
    return {key: value for key, value in facts.items() if value is not None}


def _plug(kind: str) -> str:
    return {"Mains": "ac", "USB": "usb", "Wireless": "wireless"}.get(kind, kind.lower().replace("_", " "))


def _gauge(nodes: Mapping[str, str]) -> dict[str, Any]:
    def number(key: str) -> int | None:
        return int(nodes[key]) if re.fullmatch(r"-?\d+", nodes.get(key, "")) else None

    temp = number("temp")
    return {
        "level_percent": number("capacity"),
        "status": nodes["status"].lower() if nodes.get("status") else None,
        "health": nodes["health"].lower() if nodes.get("health") else None,
        "temperature_c": None if temp is None or temp not in _TENTHS_C else temp / 10,
        "voltage_uv": _microvolts(number("voltage_now")),
        "charge_uah": number("charge_counter") or number("charge_now"),
        "current_ua": _microamperes(number("current_now")),
        "power_uw": number("power_now"),
        "technology": nodes.get("technology") or None,
    }
