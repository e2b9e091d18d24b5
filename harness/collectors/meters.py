"""What `agent.survey` saw → the power meters that are there, each with its channels, units and factors. Pure.

Kernel units: power_supply µA, µV, µW, µAh, µWh; hwmon mA, mV, µW; IIO raw × scale in mA, mV, mW; RAPL µJ. Whether a
meter may be believed (plugged in, wrong unit, silent) is `harness.collectors.power`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.agent.protocol import SensorChannel
from harness.collectors.android_text import parse_battery
from harness.collectors.unavailable import Unavailable

# How seconds between readings of what hardly changes, and of a command, are chosen.
STATUS_EVERY_S = 2.0
COMMAND_EVERY_S = 5.0
# Channels that carry no power but tell whether something charges; for a meter of its own dumpsys is "battery".
WATCHED = ("status", "online", "dumpsys")
DUMPSYS_BATTERY = ("/system/bin/dumpsys", "battery")

POWER, CURRENT_VOLTAGE, ENERGY, CHARGE = "power", "current_voltage", "energy", "charge"
# Chips that meter one part of the machine, which is not what an inference costs.
_PARTS_ONLY = {
    "amdgpu",
    "nouveau",
    "nvme",
    "drivetemp",
    "iwlwifi_1",
    "fam15h_power",
    "zenpower",
    "amd_energy",
    "xe",
    "i915",
}
_WH_UJ = 3600.0


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter: what to read and how to read it. `quantity`: "power"; "current_voltage"; or a counter, "energy", "charge".

    `scales`: channel → factor to W, A, V, J or C, after adding `offsets`; `wraps`: channel → raw range of a counter that
    begins again at zero. `battery`: only to be believed while it discharges. `sign`: of a reading while it discharges
    (None: found out). `fresh`: each reading is a new conversion; `update_s`: seconds between new values, where known.
    """

    source: str
    name: str
    quantity: str
    channels: tuple[SensorChannel, ...]
    scales: dict[str, float]
    offsets: dict[str, float] = field(default_factory=dict)
    wraps: dict[str, float] = field(default_factory=dict)
    battery: bool = False
    sign: int | None = None
    fresh: bool = True
    update_s: float | None = None
    cost_s: float = 0.0
    fixture: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How rows name it."""
        fixture = "" if self.fixture is None else f" [fixture {self.fixture}]"
        return f"{self.source} {self.name}{fixture}"

    def to_json(self) -> dict[str, Any]:
        """As it goes into an EnergyPlan and comes back with its readings."""
        return asdict(self)


def meter_from_json(data: Mapping[str, Any]) -> Meter:
    """Inverse of `to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    channels = tuple(SensorChannel(**{**item, "argv": tuple(item["argv"])}) for item in data["channels"])
    return Meter(**{**data, "channels": channels, "notes": tuple(data["notes"])})


@dataclass(frozen=True, slots=True)
class Found:
    """A meter with what the survey read: channel → texts (None: refused). Or why it is none: `meter` is Unavailable."""

    source: str
    name: str
    meter: Meter | Unavailable
    readings: dict[str, list[str | None]] = field(default_factory=dict)
    total: bool = False


Node = Mapping[str, Any]


def find_meters(survey: Mapping[str, Any]) -> list[Found]:
    """All meters of a survey, also those that cannot be read (with the reason)."""
    nodes = survey["nodes"]
    by_kind = {kind: [node for node in nodes if node["kind"] == kind] for kind in ("hwmon", "iio", "powercap")}
    supplies = [node for node in nodes if node["kind"] == "power_supply"]
    found = [item for node in by_kind["hwmon"] for item in _hwmon(node)]
    found += [item for node in by_kind["iio"] for item in _iio(node)]
    found += _power_supplies(supplies, survey)
    found += _dumpsys(survey)
    found += _rapl(by_kind["powercap"])
    return found


def _found(node: Node, source: str, name: str, quantity: str, wanted: Mapping[str, str], **options: Any) -> Found:
    """A meter of `wanted` (channel → attribute of the node), or why not: an attribute that was never readable."""
    readings = {channel: list(node["series"].get(attribute, [])) for channel, attribute in wanted.items()}
    for channel, attribute in wanted.items():
        if all(text is None for text in readings[channel]):
            words = node["errors"].get(attribute) or node["errors"].get(".") or "no reading"
            remedy = options.pop("remedy", None)
            return Found(source, name, Unavailable(f"{attribute} cannot be read: {words}", remedy))
    options.pop("remedy", None)
    total = bool(options.pop("total", False))
    channels = tuple(SensorChannel(channel, f"{node['folder']}/{attribute}") for channel, attribute in wanted.items())
    cost = sum(node.get("cost_ns", {}).get(attribute, 0) for attribute in wanted.values()) / 1e9
    extra = options.pop("extra_channels", ())
    meter = Meter(source, name, quantity, (*channels, *extra), cost_s=cost, **options)
    return Found(source, name, meter, readings, total)


def _seconds(text: str | None, *, frequency: bool = False) -> float | None:
    """Seconds between conversions, from ms or from Hz; None where it is not told."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    if value <= 0:
        return None
    return 1.0 / value if frequency else value / 1e3


# The rail that feeds all others goes by such names.
_TOTAL = re.compile(r"VDD_IN|POM_5V_IN|VIN_SYS|\bVIN\b|5V_IN|\bSYS|TOTAL|INPUT|\bMAIN", re.IGNORECASE)


def _hwmon(node: Node) -> Iterator[Found]:
    texts, chip = node["texts"], node["texts"].get("name", node["name"])
    if "/power_supply/" in node["real"]:
        return  # the kernel shows each battery once more as hwmon
    attributes = {*node["series"]}
    for index in sorted({int(number) for a in attributes if (number := "".join(re.findall(r"\d+", a)))}):
        power = next((f"power{index}_{x}" for x in ("input", "average") if f"power{index}_{x}" in attributes), None)
        current, volts = f"curr{index}_input", f"in{index}_input"
        label = next((texts[key] for k in ("power", "curr", "in") if (key := f"{k}{index}_label") in texts), "")
        if power is not None:
            quantity, wanted, scales = POWER, {"power": power}, {"power": 1e-6}
        elif current in attributes and volts in attributes:
            quantity, wanted = CURRENT_VOLTAGE, {"current": current, "voltage": volts}
            scales = {"current": 1e-3, "voltage": 1e-3}
        else:
            continue
        name = f"{chip} {label}" if label else chip if index == 1 else f"{chip} {index}"
        notes = (f"{chip} meters one part of the machine only",) if chip in _PARTS_ONLY else ()
        yield _found(
            node,
            "hwmon",
            name,
            quantity,
            wanted,
            scales=scales,
            update_s=_seconds(texts.get("update_interval")),
            notes=notes,
            total=_TOTAL.search(label) is not None,
        )


def _iio(node: Node) -> Iterator[Found]:
    texts = node["texts"]
    chip = texts.get("label") or texts.get("name", node["name"])
    live = {match[0]: match for a in node["series"] if (match := re.fullmatch(r"in_(\w+?)(\d*)_(raw|input)", a))}
    kinds: dict[str, list[re.Match[str]]] = {"power": [], "current": [], "voltage": []}
    for match in live.values():
        kinds[match[1]].append(match)

    def factor(match: re.Match[str], key: str, default: float) -> float:
        for name in (f"in_{match[1]}{match[2]}_{key}", f"in_{match[1]}_{key}"):
            try:
                return float(texts[name])
            except (KeyError, ValueError):
                continue
        return default

    def emit(quantity: str, parts: Mapping[str, re.Match[str]], name: str) -> Found:
        raw = {channel: match for channel, match in parts.items() if match[3] == "raw"}
        return _found(
            node,
            "iio",
            name,
            quantity,
            {channel: match[0] for channel, match in parts.items()},
            scales={c: 1e-3 * (factor(m, "scale", 1.0) if c in raw else 1.0) for c, m in parts.items()},
            offsets={c: offset for c, m in raw.items() if (offset := factor(m, "offset", 0.0))},
            update_s=next(
                (
                    s
                    for key in texts
                    if key.endswith("sampling_frequency")
                    if (s := _seconds(texts[key], frequency=True))
                ),
                None,
            ),
        )

    for match in kinds["power"]:
        yield emit(POWER, {"power": match}, chip if len(kinds["power"]) == 1 else f"{chip} {match[2]}")
    if not kinds["power"]:
        for match in kinds["current"]:
            same = next((v for v in kinds["voltage"] if v[2] == match[2]), None)
            # Where the numbers do not tell, the only voltage there is belongs to the current.
            volts = same or (kinds["voltage"][0] if len(kinds["voltage"]) == 1 else None)
            if volts is not None:
                name = chip if len(kinds["current"]) == 1 else f"{chip} {match[2]}"
                yield emit(CURRENT_VOLTAGE, {"current": match, "voltage": volts}, name)


def _rapl(nodes: list[Node]) -> Iterator[Found]:
    """The whole platform where it is metered ("psys"), else all processor packages together."""
    domains = [n for n in nodes if "energy_uj" in n["series"] and re.fullmatch(r"[a-z]+-rapl:\d+", n["name"])]
    chosen = [n for n in domains if n["texts"].get("name") == "psys"] or [
        n for n in domains if str(n["texts"].get("name", "")).startswith("package")
    ]
    if not chosen:
        return
    remedy = "let your user read it, e.g. `sudo chmod a+r /sys/class/powercap/*rapl:*/energy_uj` until the next start"
    parts = [
        _found(
            n,
            "rapl",
            str(n["texts"]["name"]),
            ENERGY,
            {"energy0": "energy_uj"},
            scales={"energy0": 1e-6},
            remedy=remedy,
        )
        for n in chosen
    ]
    bad = next((part for part in parts if isinstance(part.meter, Unavailable)), None)
    if bad is not None:
        yield bad
        return
    channels, wraps, readings, cost = [], {}, {}, 0.0
    for index, (node, part) in enumerate(zip(chosen, parts, strict=True)):
        name = f"energy{index}"
        channels.append(SensorChannel(name, f"{node['folder']}/energy_uj"))
        readings[name] = part.readings["energy0"]
        wraps[name] = float(node["texts"].get("max_energy_range_uj", 1 << 32))
        cost += node.get("cost_ns", {}).get("energy_uj", 0) / 1e9
    names = "+".join(part.name for part in parts)
    note = () if names == "psys" else ("the processor package only: neither memory nor the rest of the device",)
    scales = dict.fromkeys(wraps, 1e-6)
    meter = Meter("rapl", names, ENERGY, tuple(channels), scales, wraps=wraps, notes=note, cost_s=cost)
    yield Found("rapl", names, meter, readings)


def _power_supplies(nodes: list[Node], survey: Mapping[str, Any]) -> Iterator[Found]:
    batteries = [node for node in nodes if _is_battery(node)]
    refusal = survey["refusals"].get("power_supply")
    if not batteries and refusal:
        yield Found("power_supply", "battery", Unavailable(f"/sys/class/power_supply cannot be read: {refusal}"))
    for node in batteries:
        yield _battery(node, _watch(nodes, node, dumpsys="dumpsys_battery" in survey))


def _is_battery(node: Node) -> bool:
    texts = node["texts"]
    kind = texts.get("type", "Battery" if re.fullmatch(r"battery|bms|BAT\d", node["name"]) else "")
    # A mouse's or a pen's battery has the scope "Device".
    return kind in {"Battery", "BMS"} and texts.get("scope") != "Device" and texts.get("present") != "0"


def _readable(node: Node, attribute: str) -> bool:
    return any(text is not None for text in node["series"].get(attribute, ()))


def _watch(nodes: list[Node], battery: Node, *, dumpsys: bool) -> tuple[SensorChannel, ...]:
    """What tells whether anything charges: the battery's own status (else Android's), and whether a supply is connected."""
    holders = [battery, *(node for node in nodes if node is not battery and _is_battery(node))]
    status = next((node for node in holders if _readable(node, "status")), None)
    watched = [] if status is None else [(f"status {status['name']}", status, "status")]
    watched += [(f"online {n['name']}", n, "online") for n in nodes if not _is_battery(n) and _readable(n, "online")]
    channels = tuple(SensorChannel(name, f"{n['folder']}/{a}", every_s=STATUS_EVERY_S) for name, n, a in watched)
    if status is None and dumpsys:
        channels = (*channels, SensorChannel("dumpsys battery", argv=DUMPSYS_BATTERY, every_s=COMMAND_EVERY_S))
    return channels


def _battery(node: Node, watch: tuple[SensorChannel, ...]) -> Found:
    """Power before current × voltage before counters; the first that can be read, else why the first there is cannot."""
    ways: tuple[tuple[str, dict[str, str], dict[str, float]], ...] = (
        (POWER, {"power": "power_now"}, {"power": 1e-6}),
        (CURRENT_VOLTAGE, {"current": "current_now", "voltage": "voltage_now"}, {"current": 1e-6, "voltage": 1e-6}),
        (ENERGY, {"energy0": "energy_now"}, {"energy0": _WH_UJ * 1e-6}),
        (CHARGE, {"charge": "charge_counter", "voltage": "voltage_now"}, {"charge": 3.6e-3, "voltage": 1e-6}),
        (CHARGE, {"charge": "charge_now", "voltage": "voltage_now"}, {"charge": 3.6e-3, "voltage": 1e-6}),
    )
    refused: Found | None = None
    for quantity, wanted, scales in ways:
        if not set(wanted.values()) & {*node["series"], *node["errors"]}:
            continue
        if not set(wanted.values()) <= {*node["series"], *node["errors"]}:
            missing = min(set(wanted.values()) - set(node["series"]))
            refused = refused or Found("power_supply", node["name"], Unavailable(f"there is no {missing}"))
            continue
        found = _found(
            node,
            "power_supply",
            node["name"],
            quantity,
            wanted,
            scales=scales,
            battery=True,
            fresh=False,
            extra_channels=watch,
        )
        if isinstance(found.meter, Meter):
            return found
        refused = refused or found
    return refused or Found("power_supply", node["name"], Unavailable("it has neither power, current nor a counter"))


def _dumpsys(survey: Mapping[str, Any]) -> Iterator[Found]:
    text = survey.get("dumpsys_battery")
    if text is None:
        if "dumpsys" in survey["refusals"]:
            yield Found("dumpsys", "battery", Unavailable(f"dumpsys battery failed: {survey['refusals']['dumpsys']}"))
        return
    battery = parse_battery(text)
    if isinstance(battery, Unavailable):
        yield Found("dumpsys", "battery", battery)
        return
    if battery.voltage_mv is None or (battery.current_ma is None and battery.charge_counter_uah is None):
        missing = "no voltage" if battery.voltage_mv is None else "neither a current nor a charge counter"
        yield Found("dumpsys", "battery", Unavailable(f"`dumpsys battery` gives {missing}"))
        return
    quantity = CHARGE if battery.current_ma is None else CURRENT_VOLTAGE
    key, scale = ("charge", 3.6e-3) if battery.current_ma is None else ("current", 1e-3)
    meter = Meter(
        "dumpsys",
        "battery",
        quantity,
        (SensorChannel("battery", argv=DUMPSYS_BATTERY, every_s=COMMAND_EVERY_S),),
        {key: scale, "voltage": 1e-3},
        battery=True,
        fresh=False,
        notes=("Android's own report of the battery, seldom renewed",),
    )
    yield Found("dumpsys", "battery", meter, {"battery": [text]})
