"""Which power meter to use, and whether its readings can be believed: probing before use. Pure functions of a survey.

The order is on-device rails (hwmon, IIO), fuel gauge (power_supply, dumpsys), RAPL; the first that is plausible wins, and
all others stand beside it with the reason why not. The device profile's word on unit and sign is taken; without it a
reading that cannot be what the kernel documents is refused, never scaled in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.collectors.android_text import Battery, parse_battery
from harness.collectors.meters import CHARGE, CURRENT_VOLTAGE, ENERGY, POWER, Found, Meter, find_meters
from harness.collectors.unavailable import Unavailable

if TYPE_CHECKING:
    from harness.profile_parts import Power

Float64Array = NDArray[np.float64]

RANK = ("hwmon", "iio", "power_supply", "dumpsys", "rapl")
# Watts that a device which runs an operating system can draw; a single rail may draw less.
LEAST_W, LEAST_RAIL_W, MOST_W = 0.02, 1e-3, 1000.0
BATTERY_V = (2.0, 100.0)
# Share of readings that must agree in sign, and that may be zero, which no running device draws.
SAME_SIGN, ZEROS = 0.95, 0.05


@dataclass(frozen=True, slots=True)
class Choice:
    """The meter to use, or None with the reason and what to do. `rejected`: (meter, why not) of all others."""

    meter: Meter | None
    reason: str | None = None
    remedy: str | None = None
    rejected: tuple[tuple[str, str], ...] = ()

    def facts(self) -> dict[str, Any]:
        """For the device's record."""
        meter = self.meter
        found: dict[str, Any] = {"meter": None, "reason": self.reason, "remedy": self.remedy}
        if meter is not None:
            found = {"meter": meter.label, "quantity": meter.quantity, "sign": meter.sign, "update_s": meter.update_s}
            found |= {"scales": dict(meter.scales), "notes": list(meter.notes)}
        return found | {"rejected": dict(self.rejected)}


def number_of(text: str | None) -> float:
    """A reading's number, NaN where it is none."""
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")


def _from_dumpsys(battery: Battery | Unavailable, channel: str) -> float:
    if isinstance(battery, Unavailable):
        return float("nan")
    value = {"current": battery.current_ma, "voltage": battery.voltage_mv, "charge": battery.charge_counter_uah}[
        channel
    ]
    return float("nan") if value is None else float(value)


def values_of(meter: Meter, readings: Mapping[str, Sequence[str | None]], channel: str) -> Float64Array:
    """A channel's readings in W, A, V, J or C, float64 [readings]; NaN where there is none. Battery volts told in mV or V
    instead of µV are recognised by size: there is only one way to read them."""
    if meter.source == "dumpsys":
        raw = np.array([_from_dumpsys(parse_battery(text or ""), channel) for text in readings["battery"]])
    else:
        raw = np.array([number_of(text) for text in readings[channel]], dtype=np.float64)
    values: Float64Array = (raw + meter.offsets.get(channel, 0.0)) * meter.scales[channel]
    if channel == "voltage" and meter.battery and np.isfinite(values).any():
        low, high = BATTERY_V
        middle = float(np.nanmedian(values))
        values = values * next((scale for scale in (1.0, 1e3, 1e6) if low <= middle * scale <= high), 1.0)
    return values


def sign_of(values: Float64Array, meter: Meter) -> int | Unavailable:
    """Which sign a reading has while the device draws power. Unavailable when the readings do not agree."""
    moving = values[np.isfinite(values) & (values != 0.0)]
    if moving.size == 0:
        return Unavailable("it reads zero, which no running device draws" if values.size else "it gives no reading")
    share = float((moving > 0).mean())
    if SAME_SIGN > share > 1 - SAME_SIGN:
        return Unavailable(
            f"its sign changes: {min(share, 1 - share):.0%} of the readings flow the other way",
            "is something charging in bursts? Unplug the device",
        )
    sign = 1 if share >= SAME_SIGN else -1
    if meter.sign is not None and sign != meter.sign:
        return Unavailable(
            "the current flows into the battery, by the sign that the device profile gives",
            "unplug the device, or correct power.discharge_sign",
        )
    return sign


def implausible(watts: float, meter: Meter) -> Unavailable | None:
    """Why a typical power in W cannot be true, or None. Milliamperes given as microamperes are named as such."""
    least = LEAST_W if meter.battery else LEAST_RAIL_W
    if least <= watts <= MOST_W:
        return None
    where = f"{watts:.3g} W is not what a running device draws"
    if watts < least <= 1e3 * watts and "current" in meter.scales:
        return Unavailable(
            f"{where}: its current looks like mA where the kernel documents µA",
            "if that is so, set 'power: {current_scale: 1000}' in the device profile",
        )
    if watts > MOST_W >= 1e-3 * watts and "current" in meter.scales:
        return Unavailable(
            f"{where}: its current looks a thousand times too large",
            "if that is so, set 'power: {current_scale: 0.001}' in the device profile",
        )
    return Unavailable(f"{where}: unit or meter is not what it seems")


def charging(meter: Meter, readings: Mapping[str, Sequence[str | None]]) -> Unavailable | None:
    """Why a battery's current is not what the device draws: something charges, or nobody can tell; else None."""
    if not meter.battery:
        return None
    unplug = "unplug it (over Wi-Fi or with a switched hub), then measure"
    if meter.source == "dumpsys":
        return _charging_by_dumpsys(readings["battery"], unplug)
    told = False
    for channel, texts in readings.items():
        said = {text.strip().lower() for text in texts if text}
        if channel.startswith("status"):
            told = told or bool(said)
            other = " and ".join(sorted(said - {"discharging"}))
            if other:
                return Unavailable(f"the battery says {other!r}, not 'discharging'", unplug)
        elif channel.startswith("dumpsys") and said:
            why = _charging_by_dumpsys(texts, unplug)
            if why is not None:
                return why
            told = True
        elif channel.startswith("online") and said - {"0"}:
            return Unavailable(f"{channel.partition(' ')[2]} supplies power beside the battery", unplug)
    return None if told else Unavailable("nothing tells whether the battery is being charged")


def _charging_by_dumpsys(texts: Sequence[str | None], unplug: str) -> Unavailable | None:
    batteries = [parse_battery(text) for text in texts if text]
    known = [battery for battery in batteries if isinstance(battery, Battery)]
    if not known:
        return Unavailable("nothing tells whether the battery is being charged")
    for battery in known:
        if battery.updates_stopped:
            return Unavailable(
                "the battery's values were set by hand (UPDATES STOPPED), so 'unplugged' may be a fake",
                "run `adb shell dumpsys battery reset`",
            )
        if battery.powered:
            return Unavailable(f"{' and '.join(battery.powered)} supplies power beside the battery", unplug)
        if battery.status != "discharging":
            return Unavailable(f"the battery says {battery.status!r}, not 'discharging'", unplug)
    return None


def typical_watts(meter: Meter, readings: Mapping[str, Sequence[str | None]]) -> float | Unavailable | None:
    """Median power of a survey's readings, unsigned; None for a counter, which shows its power only over time."""
    if meter.quantity in (ENERGY, CHARGE):
        return None
    if meter.quantity == POWER:
        signed = values_of(meter, readings, "power")
    else:
        current, volts = values_of(meter, readings, "current"), values_of(meter, readings, "voltage")
        signed = current * volts
    sign = sign_of(signed, meter)
    if isinstance(sign, Unavailable):
        return sign
    return float(np.nanmedian(signed)) * sign


def _check(found: Found, survey: Mapping[str, Any]) -> Found:
    """The same, with its meter replaced by the reason when its readings cannot be believed."""
    meter = found.meter
    if isinstance(meter, Unavailable):
        return found
    why = charging(meter, {**found.readings, **_watched(meter, survey)})
    watts = typical_watts(meter, found.readings) if why is None else None
    if isinstance(watts, Unavailable):
        why = watts
    elif watts is not None:
        why = implausible(watts, meter)
    elif why is None and meter.source == "rapl":
        counts = [len({text for text in texts if text}) for texts in found.readings.values()]
        why = Unavailable("its counter does not move") if min(counts) < 2 else None  # noqa: PLR2004 - one value, no motion
    return found if why is None else replace(found, meter=why)


def _watched(meter: Meter, survey: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """What the survey read of the channels that tell whether something charges."""
    found: dict[str, list[str | None]] = {}
    for channel in meter.channels:
        what, _, name = channel.name.partition(" ")
        if what == "dumpsys":
            found[channel.name] = [survey.get("dumpsys_battery")]
        for node in survey["nodes"]:
            if what in ("status", "online") and node["kind"] == "power_supply" and node["name"] == name:
                found[channel.name] = list(node["series"][what])
    return found


def _with_profile(found: Found, wish: Power, survey: Mapping[str, Any]) -> Found:
    meter = found.meter
    if isinstance(meter, Unavailable):
        return found
    scales = {c: s * (wish.current_scale if c == "current" else 1.0) for c, s in meter.scales.items()}
    sign = wish.discharge_sign if meter.quantity in (POWER, CURRENT_VOLTAGE) and meter.battery else None
    fixture = None if survey["sysfs"] == "/sys" else str(survey["sysfs"])
    update_s = wish.update_s or meter.update_s
    return replace(found, meter=replace(meter, scales=scales, sign=sign, update_s=update_s, fixture=fixture))


def choose(survey: Mapping[str, Any], wish: Power) -> Choice:
    """The best meter that can be believed, in the order of RANK; the profile may name kind and node."""
    if wish.source == "none":
        return Choice(None, "the device profile says power: {source: none}")
    checked = [_check(_with_profile(found, wish, survey), survey) for found in find_meters(survey)]
    wanted = [
        found
        for found in checked
        if wish.source in ("auto", found.source) and (wish.node is None or wish.node.lower() in found.name.lower())
    ]
    usable = [(found, found.meter) for found in wanted if isinstance(found.meter, Meter)]
    rejected = [(f"{f.source} {f.name}", str(f.meter)) for f in wanted if isinstance(f.meter, Unavailable)]
    if wish.node is None and wish.source == "auto":
        partial = [(found, meter) for found, meter in usable if _one_part(meter)]
        usable = [pair for pair in usable if pair not in partial]
        rejected += [(meter.label, meter.notes[0]) for _, meter in partial]
    if not usable:
        return _none(wish, rejected, survey)

    def rank(item: tuple[Found, Meter]) -> tuple[int, bool, float]:
        watts = typical_watts(item[1], item[0].readings)
        return RANK.index(item[1].source), not item[0].total, -watts if isinstance(watts, float) else 0.0

    (first, meter), *others = sorted(usable, key=rank)
    rails = [other for _, other in others if other.source == meter.source]
    if rails and not first.total and meter.source in ("hwmon", "iio"):
        note = f"the largest of {len(rails) + 1} rails; name another as power.node in the device profile"
        meter = replace(meter, notes=(*meter.notes, note))
    rejected += [(other.label, f"{meter.label} comes first") for _, other in others]
    return Choice(meter, rejected=tuple(rejected))


def _one_part(meter: Meter) -> bool:
    return meter.source == "hwmon" and any("one part" in note for note in meter.notes)


def _none(wish: Power, rejected: Sequence[tuple[str, str]], survey: Mapping[str, Any]) -> Choice:
    if rejected:
        words = "; ".join(f"{name}: {why}" for name, why in rejected)
        return Choice(None, f"no power meter can be used: {words}", rejected=tuple(rejected))
    asked = f" of kind {wish.source}" if wish.source != "auto" else ""
    asked += f" named {wish.node!r}" if wish.node is not None else ""
    refusals = "; ".join(f"{kind} cannot be listed: {words}" for kind, words in survey["refusals"].items())
    where = f" ({refusals})" if refusals else ""
    return Choice(
        None,
        f"the device shows no power meter{asked}{where}",
        "power_supply, hwmon, IIO, RAPL and dumpsys were looked for",
    )
