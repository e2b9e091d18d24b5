"""Power meters that a device shows: what could be read for energy, without judging it. Pure.

Whether a meter gives a trustworthy energy is found out by the power collector, which reads it over time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping


def meters_of(texts: Mapping[str, str]) -> list[str]:
    """`power_supply battery`, `hwmon ina226`, `iio ina226`, `rapl package-0`: meters with a value that can be read now."""
    found: dict[str, None] = {}
    for name, text in sorted(texts.items()):
        node = re.fullmatch(r"/sys/class/power_supply/([^/]+)/(?:current_now|power_now)", name)
        if node is not None and _is_number(text) and _kind_of_supply(texts, node[1]) == "Battery":
            found[f"power_supply {node[1]}"] = None
        node = re.fullmatch(r"(/sys/class/hwmon/hwmon\d+)/(?:power\d+_(?:input|average)|curr\d+_input)", name)
        if node is not None and _is_number(text):
            found[f"hwmon {texts.get(node[1] + '/name', 'without a name').strip()}"] = None
        node = re.fullmatch(r"(/sys/bus/iio/devices/iio:device\d+)/in_power\d*_raw", name)
        if node is not None and _is_number(text):
            found[f"iio {texts.get(node[1] + '/name', 'without a name').strip()}"] = None
        node = re.fullmatch(r"(/sys/class/powercap/[^/]+)/energy_uj", name)
        if node is not None and _is_number(text):
            found[f"rapl {texts.get(node[1] + '/name', '').strip()}".strip()] = None
    return list(found)


def _kind_of_supply(texts: Mapping[str, str], name: str) -> str:
    return texts.get(f"/sys/class/power_supply/{name}/type", "").strip()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text.strip()) is not None
