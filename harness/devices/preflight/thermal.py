"""The thermal gate: how hot a device is, and waiting until it is cool enough for the next run.

Temperatures come from the kernel's thermal zones, or else its hwmon sensors, or else Android's thermal service. Parsers are
pure. Limits that pass for temperatures (lmh-dcvs…) and dead sensors are left out; without a sensor there is no gate, said so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from harness.collectors.android_text import parse_thermalservice
from harness.collectors.unavailable import Unavailable
from harness.devices.preflight.shell import Shell
from harness.profile_parts import Thermal

STEP_S = 5.0
_PLAUSIBLE_C = (1.0, 150.0)
_SPREAD_LIMITS = re.compile(r"lmh-dcvs|-step$|-lowf|-lowc|vbat|ibat|soc-?charge|pm\d+.*-bcl", re.IGNORECASE)
_CPU = re.compile(
    r"cpu|soc|core|cluster|pkg|package|k10temp|tctl|tdie|bigcore|littlecore|^ap$|mtkts(cpu|ap)|^apc", re.IGNORECASE
)
# Android's kinds of sensor, those to heed first.
_SERVICE_KINDS = ({"cpu", "soc"}, {"skin"})

Temperatures = dict[str, float]


def parse_zones(types: Sequence[str], values: Sequence[str]) -> Temperatures:
    """Names and millidegrees of thermal zones (or hwmon inputs) → °C by name, a name's hottest."""
    found: Temperatures = {}
    for name, text in zip(types, values, strict=True):
        if not re.fullmatch(r"-?\d+", text) or _SPREAD_LIMITS.search(name):
            continue
        # A few old kernels give whole degrees.
        celsius = int(text) / 1000 if abs(int(text)) >= 1000 else float(text)  # noqa: PLR2004 - 1 °C in millidegrees
        if _PLAUSIBLE_C[0] < celsius < _PLAUSIBLE_C[1]:
            found[name] = max(celsius, found.get(name, celsius))
    return found


def of_service(text: str, wanted: Sequence[str]) -> Temperatures:
    """`dumpsys thermalservice` → °C of the sensors to heed: the wanted, else CPU and SoC, else the skin."""
    told = parse_thermalservice(text)
    if isinstance(told, Unavailable):
        return {}
    every = {item.name: item.celsius for item in told.temperatures}
    if wanted:
        return choose(every, wanted)
    kinds = [{item.name: item.celsius for item in told.temperatures if item.type in kind} for kind in _SERVICE_KINDS]
    return next(filter(None, kinds), {})


def choose(found: Temperatures, wanted: Sequence[str]) -> Temperatures:
    """The sensors to heed: those whose names hold one of `wanted`; without any, those of CPU and SoC, else all."""
    if wanted:
        return {name: value for name, value in found.items() if any(part.lower() in name.lower() for part in wanted)}
    return {name: value for name, value in found.items() if _CPU.search(name)} or found


def read_temperatures(shell: Shell, wanted: Sequence[str] = ()) -> Temperatures:
    """°C of the sensors to heed, by name; {} where there is none. Raises TransportError."""
    zones = _pairs(shell, "class/thermal/thermal_zone*/type", "class/thermal/thermal_zone*/temp")
    found = choose(zones, wanted)
    if not found:
        found = choose(_pairs(shell, "class/hwmon/hwmon*/name", "class/hwmon/hwmon*/temp[0-9]*_input"), wanted)
    if not found and shell.has("dumpsys"):
        done = shell.run(("dumpsys", "thermalservice"))
        found = of_service(done.stdout.decode("utf-8", "replace"), wanted)
    return found


def _pairs(shell: Shell, names: str, values: str) -> Temperatures:
    """Values with the name that stands in the same folder."""
    readings = shell.files(values)
    if not readings:
        return {}
    titles = {file.path.rpartition("/")[0]: file.text for file in shell.files(names)}
    return parse_zones([titles.get(file.path.rpartition("/")[0], "?") for file in readings], [f.text for f in readings])


def cool_down(
    limits: Thermal, read: Callable[[], Temperatures], *, pause: Callable[[float], None], tell: Callable[[str], None]
) -> dict[str, Any] | None:
    """Wait until the hottest sensor is below `limits.start_below_c`, at most `limits.wait_s`.

    What to record with the run: sensor, start_c, end_c, below_c, waited_s, reached; or reason, where nothing can be read;
    None without a limit. `waited_s` counts the pauses. Raises whatever `read` raises.
    """
    below = limits.start_below_c
    if below is None:
        return None
    found = read()
    if not found:
        return {"below_c": below, "reason": "no temperature sensor can be read", "waited_s": 0.0, "reached": None}
    sensor = max(found, key=lambda name: found[name])
    record: dict[str, Any] = {"sensor": sensor, "start_c": found[sensor], "below_c": below}
    waited = 0.0
    while max(found.values(), default=below) >= below and waited < limits.wait_s:
        hottest = max(found.values(), default=below)
        tell(f"cooling: {hottest:.0f} °C, waiting for < {below:g} °C")
        step = min(STEP_S, limits.wait_s - waited)
        pause(step)
        waited += step
        found = read()
    end = max(found.values()) if found else None
    return record | {"end_c": end, "waited_s": waited, "reached": end is not None and end < below}
