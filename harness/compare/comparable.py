"""What must be the same in two sessions before a difference in time is a variant's own doing, and what is not.

Place in the flow: beside `harness.compare`, which refuses to compare different kinds of machines and passes on the rest as
remarks. Pure: reads records, measures nothing. What one of the two sessions does not know is no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records import LATENCY, DeviceRecord, SessionData

# What a device is: with another one, the ratio would be one of machines.
_IDENTITY = ("model", "soc", "cpu", "cpus", "machine")
# What a device is set to, or runs: a difference is named, for it may be the very thing that is compared.
_SYSTEM = ("os", "kernel", "virtual")
# What the agent read back in the latency runs.
_READ_BACK = ("threads", "affinity", "governor", "engine_version", "numpy", "python")
# What the session was told to do, and how thoroughly.
_ASKED = ("threads", "precision", "options")
_PROTOCOL = ("preset",)


@dataclass(frozen=True, slots=True)
class Differences:
    """`machine`: the two were not the same kind of machine; `setting`: what else was not alike. Each in words."""

    machine: tuple[str, ...] = ()
    setting: tuple[str, ...] = ()


def differences(one: SessionData, two: SessionData, devices: Iterable[str]) -> Differences:
    """What differs between two sessions on devices of these names, which both have."""
    machine: list[str] = []
    setting: list[str] = []
    for name in devices:
        mine, other = _device(one, name), _device(two, name)
        machine += [f"{name}: {words}" for words in _machines(mine, other)]
        found = [*_named(_SYSTEM, mine.facts, other.facts), *_hosts(mine, other), *_engines(one, two, name)]
        setting += [f"{name}: {words}" for words in found]
    asked = one.session.environment | one.session.experiment, two.session.environment | two.session.experiment
    setting += [f"asked for: {words}" for words in _named(_ASKED, *asked)]
    setting += [f"protocol: {words}" for words in _named(_PROTOCOL, one.session.protocol, two.session.protocol)]
    versions = one.session.harness_version, two.session.harness_version
    if versions[0] != versions[1]:
        setting.append(f"harness version: {versions[0]} and {versions[1]}")
    return Differences(tuple(machine), tuple(setting))


def _device(data: SessionData, name: str) -> DeviceRecord:
    return next(device for device in data.devices if device.name == name)


def _machines(one: DeviceRecord, two: DeviceRecord) -> list[str]:
    found = _named(_IDENTITY, one.facts, two.facts)
    if one.emulated != two.emulated:
        found.append("one of the two is emulated")
    return found


def _hosts(one: DeviceRecord, two: DeviceRecord) -> list[str]:
    """Two machines of one kind, as far as the ids tell: an id that a boot renews says nothing of the machine."""
    ids = one.host_id, two.host_id
    if None in ids or ids[0] == ids[1] or any(str(value).startswith("boot_id:") for value in ids):
        return []
    return ["another machine of the same kind, by its id"]


def _engines(one: SessionData, two: SessionData, device: str) -> list[str]:
    """What the agents of each engine read back in their latency runs; the first run of each session speaks for all."""
    mine, other = _environments(one, device), _environments(two, device)
    return [
        f"{engine}: {words}"
        for engine in mine
        if engine in other
        for words in _named(_READ_BACK, mine[engine], other[engine])
    ]


def _environments(data: SessionData, device: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for run in data.runs:
        if run.device == device and run.kind == LATENCY:
            found.setdefault(run.engine, run.environment)
    return found


def _named(names: Sequence[str], one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    return [
        f"{name.replace('_', ' ')}: {_text(one[name])} and {_text(two[name])}"
        for name in names
        if one.get(name) is not None and two.get(name) is not None and one[name] != two[name]
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
