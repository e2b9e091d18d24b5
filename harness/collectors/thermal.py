"""The agent's thermal readings → temperatures in °C, frequencies, and whether the device was held back. Pure.

The agent sends what `harness.agent.heat` reads at the start and at the end of every run; they stay in Run.sensors. What cannot
be a temperature (limits, charge levels and voltages that kernels list among their zones) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.collectors.android_text import THERMAL_STATUS, ThermalService, parse_thermalservice
from harness.collectors.unavailable import Unavailable

# Qualcomm lists limits (75000 throughout), voltages, currents and the state of charge among the thermal zones.
_NO_TEMPERATURE = re.compile(r"lmh|limit|bcl|vbat|ibat|-lvl\d|^soc$|^socd$|-dvfs|-step|cdev", re.IGNORECASE)
_PLAUSIBLE_C = (-40.0, 150.0)
# A Raspberry Pi's bits: now in 0..3, since boot in 16..19.
_PI_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_SINCE_BOOT = 16
_CPU_COOLING = re.compile(r"cpufreq|Processor|cpu", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Heat:
    """One look: °C by zone, kHz by frequency policy, state of CPU cooling devices above zero, and words of what holds the
    device back `now` or did so since it was started (`since_boot`). `throttle_count`: x86 thermal events since boot."""

    temperatures_c: dict[str, float]
    frequency_khz: dict[str, int]
    cooling: dict[str, int]
    now: tuple[str, ...] = ()
    since_boot: tuple[str, ...] = ()
    throttle_count: int | None = None
    service: ThermalService | None = None

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature; None where no zone can be read."""
        return max(self.temperatures_c.values(), default=None)


def parse_zone_c(text: str) -> float | Unavailable:
    """A zone's `temp` in °C: the kernel documents 1/1000 °C; some vendors give whole degrees, which no device's
    thousandths can be mistaken for."""
    match = re.fullmatch(r"-?\d+", text.strip())
    if match is None:
        return Unavailable(f"{text!r} is no temperature")
    value = int(match[0])
    celsius = value / 1000 if abs(value) >= 1000 else float(value)  # noqa: PLR2004 - one degree in thousandths
    low, high = _PLAUSIBLE_C
    if value == 0 or not low <= celsius <= high:
        return Unavailable(f"{celsius:g} °C cannot be")
    return celsius


def parse_throttled(text: str) -> int | Unavailable:
    """The bits of `vcgencmd get_throttled` ("throttled=0x50005") or of the firmware's file ("50005")."""
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", text.strip())
    return Unavailable(f"{text!r} is no set of throttle bits") if match is None else int(match[1], 16)


def _words(bits: int) -> tuple[str, ...]:
    return tuple(word for index, word in enumerate(_PI_BITS) if bits >> index & 1)


def _integers(texts: Mapping[str, str]) -> dict[str, int]:
    return {name: int(text) for name, text in texts.items() if re.fullmatch(r"\d+", text.strip())}


def parse_heat(values: Mapping[str, Any]) -> Heat:
    """One `thermal` message's values."""
    temperatures: dict[str, float] = {}
    for name, text in values.get("zones", {}).items():
        label = str(name).partition(" ")[2] or str(name)
        celsius = parse_zone_c(str(text))
        if not _NO_TEMPERATURE.search(label) and not isinstance(celsius, Unavailable):
            temperatures[str(name)] = celsius
    service = parse_thermalservice(str(values.get("thermalservice", "")))
    found = None if isinstance(service, Unavailable) else service
    if found is not None:
        temperatures |= {f"{item.type} {item.name}": item.celsius for item in found.temperatures}
    bits = parse_throttled(str(values.get("throttled", "")))
    pi = 0 if isinstance(bits, Unavailable) else bits
    cooling = {
        n: state for n, state in _integers(values.get("cooling", {})).items() if state and _CPU_COOLING.search(n)
    }
    now = [*_words(pi)]
    if found is not None and found.status:
        level = THERMAL_STATUS[found.status] if found.status < len(THERMAL_STATUS) else str(found.status)
        now.append(f"Android's thermal status {level}" + (" (set by hand)" if found.overridden else ""))
    now += [f"{name.partition(' ')[2] or name} slows the CPU (state {state})" for name, state in cooling.items()]
    count = values.get("throttle_count")
    return Heat(
        temperatures_c=temperatures,
        frequency_khz=_integers(values.get("frequency_khz", {})),
        cooling=cooling,
        now=tuple(now),
        since_boot=_words(pi >> _SINCE_BOOT),
        throttle_count=count if isinstance(count, int) else None,
        service=found,
    )


def heats_of(sensors: Iterable[Mapping[str, Any]]) -> tuple[Heat, ...]:
    """The looks of a run, from its `sensors`, in time order."""
    return tuple(parse_heat(item["values"]) for item in sensors if item["name"] == "thermal")


def throttling(sensors: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """In words, what held the device back during a run; () when nothing is known to have done so."""
    looks = heats_of(sensors)
    if not looks:
        return ()
    first, last = looks[0], looks[-1]
    found = dict.fromkeys(word for look in looks for word in look.now)
    found |= dict.fromkeys(word for word in last.since_boot if word not in first.since_boot)
    if (
        first.throttle_count is not None
        and last.throttle_count is not None
        and last.throttle_count > first.throttle_count
    ):
        found[f"the CPU throttled {last.throttle_count - first.throttle_count} times for heat"] = None
    return tuple(found)
