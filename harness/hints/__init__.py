"""Rows, session and device facts → advice: what to do for better figures, each with the evidence that it rests on. Pure.

Place in the flow: after the table, beside `harness.compare`; reports show the few that matter most, `--json` has those of each row in
its `hints`. Advice about the measurement; what to deploy is `harness.choose`'s business. Every kind is in KINDS, the most
important first. A hint is given only where something was seen that calls for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.hints.longer import more_time, times_of
from harness.records import DeviceRecord, SessionData
from harness.row import OK, Row
from harness.stats.contention import REMARKED_SHARE

# Kind → what it is about. In order of importance: what spoils the figures first, what would add to them last.
KINDS = {
    "contention": "blocks had to share their CPUs",
    "heat": "a run started hot, or the device was held back",
    "pin": "the agent could run on cores of different kinds",
    "governor": "the clock was free to change, and need not be",
    "charger": "what is plugged in disturbs, or is missing",
    "preset": "the preset is too short for figures to rely on",
    "more time": "what further runs would settle, or would not",
    "energy": "there is a meter that was not asked",
}
SHOWN = 5
_LOW_BATTERY = 20
_MOST_BUSY = 2
_HOT = ("started hot", "throttled", "held back")
_UNIX_SHELL = "shell"


@dataclass(frozen=True, slots=True)
class Hint:
    """One piece of advice. `kind`: of KINDS; `text`: what to do, then why; `variants`: whom it concerns, () all on the device."""

    kind: str
    device: str
    text: str
    variants: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """As rows carry it: "kind: text"."""
        return f"{self.kind}: {self.text}"


def hints_of(rows: Sequence[Row], data: SessionData) -> tuple[Hint, ...]:
    """All advice for a session, the most important first; devices in the session's order."""
    found: list[Hint] = []
    times = times_of(data)
    for device in data.devices:
        mine = [
            row for row in rows if row.device == device.name and row.status == OK and row.latency_median_ns is not None
        ]
        if not mine or device.facts.get("counts_instructions") is True:
            continue
        found += _contention(device, mine)
        if not device.emulated:
            found += _heat(device, mine)
            found += _pin(device, mine)
            found += _governor(device)
            found += _charger(device, mine)
            found += _energy(device, data)
        found += _preset(device, data)
        found += [
            Hint("more time", device.name, text, variants) for text, variants in more_time(device.name, mine, times)
        ]
    order = list(KINDS)
    return tuple(sorted(found, key=lambda hint: order.index(hint.kind)))


def with_hints(rows: Iterable[Row], hints: Sequence[Hint]) -> list[Row]:
    """The rows with the advice that concerns each; those that were not measured have none."""
    found = []
    for row in rows:
        words = tuple(
            hint.words
            for hint in hints
            if hint.device == row.device and (not hint.variants or row.variant in hint.variants)
        )
        found.append(dataclasses.replace(row, hints=words) if row.status == OK and words else row)
    return found


def shown(hints: Sequence[Hint], most: int = SHOWN) -> list[str]:
    """What a report has room for: the most important ones, several devices' same words together, and how many are left out."""
    places: dict[str, list[str]] = {}
    for hint in hints:
        places.setdefault(hint.words, []).append(hint.device)
    several = len({hint.device for hint in hints}) > 1
    lines = [f"{', '.join(dict.fromkeys(devices))}: {words}" if several else words for words, devices in places.items()]
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"… and {len(lines) - most} more, in the rows' `hints` of `harness table --json`"]


def _contention(device: DeviceRecord, rows: Sequence[Row]) -> Iterator[Hint]:
    judged = [row for row in rows if row.uncontended_blocks is not None]
    blocks = sum(row.blocks for row in judged)
    contended = blocks - sum(row.uncontended_blocks or 0 for row in judged)
    if not blocks or contended <= REMARKED_SHARE * blocks:
        return
    share = f"{contended / blocks:.0%} of its blocks ({contended} of {blocks}) had to share their CPUs"
    stolen = sum("the hypervisor" in reason for row in judged for reason in row.grade_reasons)
    busy = [str(words) for words in device.facts.get("background", {}).get("busiest", ())][:_MOST_BUSY]
    who = f"; busiest before the session: {', '.join(busy)}" if busy else ""
    what = "close what else runs there"
    if stolen * 2 > len(judged):
        what = "measure on a machine whose CPUs are its own"
    yield Hint("contention", device.name, f"{what}: {share}{who}")


def _heat(device: DeviceRecord, rows: Sequence[Row]) -> Iterator[Hint]:
    reasons = [reason for row in rows for reason in row.grade_reasons if reason.startswith(_HOT)]
    if not reasons:
        return
    hot = [row.variant for row in rows if any(reason.startswith(_HOT) for reason in row.grade_reasons)]
    waited = any(reason.startswith("started hot") for reason in reasons)
    how = (
        "cool it down from outside, or wait longer (`thermal: {wait_s: …}` in its profile)"
        if waited
        else "let it cool down between runs (`thermal: {start_below_c: …}` in its profile)"
    )
    yield Hint("heat", device.name, f"{how}: {reasons[0]}", () if len(hot) == len(rows) else tuple(hot))


def _cores(cpus: Sequence[int]) -> str:
    """`4-7`, or `0,2,4` where they are not in a row."""
    if len(cpus) > 1 and list(cpus) == list(range(cpus[0], cpus[-1] + 1)):
        return f"cores {cpus[0]}-{cpus[-1]}"
    return f"core{'s' if len(cpus) > 1 else ''} {','.join(map(str, cpus))}"


def _pin(device: DeviceRecord, rows: Sequence[Row]) -> Iterator[Hint]:
    # A session keeps its devices' clusters in words ("CPU 4-5" → "2 × Cortex-A76 …"): there is then nothing to reckon with.
    clusters = [cluster for cluster in device.facts.get("clusters") or () if isinstance(cluster, Mapping)]
    allowed = {int(cpu) for row in rows if row.affinity for cpu in row.affinity.split(",")}
    used = [cluster for cluster in clusters if allowed & set(cluster["cpus"])]
    if len(used) <= 1:
        return
    threads = max((row.threads or 1 for row in rows), default=1)
    # A single core is shared with whatever else wants it: two at least, where there is such a cluster.
    fit = [c for c in clusters if len(c["cpus"]) >= max(2, threads)] or [
        c for c in clusters if len(c["cpus"]) >= threads
    ]
    if not fit:
        return
    best = fit[-1]  # slowest first
    cpus = sorted(best["cpus"])
    speed = f" at {best['max_khz'] / 1e6:.2f} GHz" if best.get("max_khz") else ""
    kind = f"{best.get('core') or 'the fastest'}{speed}"
    yield Hint(
        "pin",
        device.name,
        f"pin to {_cores(cpus)} (`affinity: {cpus}` in its profile), {kind}: the agent could run on {len(allowed)} cores "
        f"of {len(used)} kinds",
    )


def _governor(device: DeviceRecord) -> Iterator[Hint]:
    facts = device.facts
    governor, knobs = facts.get("governor"), facts.get("knobs") or {}
    if governor is None or set(str(governor).split("/")) == {"performance"} or {"governor", "frequency"} & set(knobs):
        return  # nothing to set, nothing to gain, or it was asked for: then what came of it is on record
    if "android" in facts and facts.get("user") == _UNIX_SHELL:
        if "fixed_performance" not in knobs:
            text = "ask for Android's fixed performance mode (`may_change: [fixed_performance]` in its profile)"
            yield Hint("governor", device.name, f"{text}: the governor is {governor}, and only root may change it")
        return
    text = f"set the governor to performance (`may_change: [governor]` in its profile): it is {governor}"
    yield Hint("governor", device.name, text)


def _charger(device: DeviceRecord, rows: Sequence[Row]) -> Iterator[Hint]:
    battery: Mapping[str, Any] = device.facts.get("battery") or {}
    plugged, level = battery.get("plugged") or (), battery.get("level_percent")
    refused = [
        reason.partition(": ")[2]
        for row in rows
        for reason in row.null_reasons
        if reason.startswith("energy_total_uj: ") and ("charg" in reason or "supplies power" in reason)
    ]
    hot = [reason for row in rows for reason in row.grade_reasons if reason.startswith(_HOT)]
    if refused:
        yield Hint("charger", device.name, f"unplug the charger: no energy could be measured, {refused[0]}")
    elif hot and battery.get("status") == "charging":
        yield Hint(
            "charger", device.name, "unplug the charger while measuring: the battery was charging, and the device hot"
        )
    elif isinstance(level, int | float) and level < _LOW_BATTERY and not plugged:
        yield Hint(
            "charger",
            device.name,
            f"plug in the charger: the battery was at {level:g} %, and devices slow down when it is low",
        )


def _preset(device: DeviceRecord, data: SessionData) -> Iterator[Hint]:
    protocol = data.session.protocol
    if protocol.get("preset") == "quick":
        text = "use `--preset standard` before relying on it: quick is indicative, with"
        text += (
            f" {protocol.get('run_s', 0.0):g} s measured per run after {protocol.get('warmup_s', 0.0):g} s of warm-up"
        )
        yield Hint("preset", device.name, text)


def _energy(device: DeviceRecord, data: SessionData) -> Iterator[Hint]:
    meters = device.facts.get("meters") or ()
    if meters and not data.session.protocol.get("energy"):
        yield Hint("energy", device.name, f"use `--energy` to have joules too: there is {meters[0]}")
