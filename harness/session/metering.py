"""The power meter of each device of a session: looked for once, before the first energy run; the choice goes on record.

Between `harness.session.measuring`, which makes the runs, and `harness.collectors.power`, which judges what the survey saw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from harness.agent.protocol import EnergyPlan
from harness.collectors.meters import WATCHED, Meter
from harness.collectors.power import Choice, choose
from harness.devices.device import Device
from harness.errors import DeviceError
from harness.plan import MeasurementProtocol, energy_plan
from harness.records import DeviceRecord

# Two seconds of readings tell a gauge that is read at each access from one that renews itself now and then.
READINGS, PERIOD_S = 20, 0.1


class DeviceStore(Protocol):
    """What is needed of the store."""

    def add_device(self, session_id: str, device: DeviceRecord) -> None:
        """Replace a device's record."""


def choose_meter(device: Device) -> Choice:
    """Look at the device's meters and choose one; a device that cannot be looked at has none, for that reason."""
    profile = device.profile
    if profile.counts_instructions:
        return Choice(None, "a device that counts instructions has no power to meter")
    if profile.power.source == "none":
        return Choice(None, "the device profile says power: {source: none}")
    request = {"sysfs": profile.power.sysfs, "readings": READINGS, "period_s": PERIOD_S}
    try:
        survey = json.loads(device.run_agent_module("survey", json.dumps(request)))
    except (DeviceError, ValueError) as error:
        return Choice(None, f"its power meters could not be looked for: {error}")
    return choose(survey, profile.power)


def meters_of(
    devices: Mapping[str, Device], wanted: Iterable[str], store: DeviceStore, session_id: str
) -> dict[str, Meter]:
    """The meter of each device that has one; meter or reason are recorded with every device."""
    found: dict[str, Meter] = {}
    for name in sorted(set(wanted)):
        device = devices[name]
        with device.awake():
            choice = choose_meter(device)
        device.record = replace(device.record, facts={**device.record.facts, "power": choice.facts()})
        store.add_device(session_id, device.record)
        if choice.meter is not None:
            found[name] = choice.meter
    return found


def plan_for(protocol: MeasurementProtocol, meter: Meter) -> EnergyPlan:
    """What the agent is to do with this meter: one that is read seldom needs windows as long as one that is slow."""
    seldom_s = max((channel.every_s for channel in meter.channels if not _watches(channel.name)), default=0.0)
    update_s = max(meter.update_s or 0.0, seldom_s) or None
    return energy_plan(protocol, meter.channels, meter.to_json(), update_s=update_s, cost_s=meter.cost_s)


def _watches(channel: str) -> bool:
    """Whether a channel only tells if something charges."""
    return channel.partition(" ")[0] in WATCHED
