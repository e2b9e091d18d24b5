"""Which meter is chosen, and which reading is believed: one JSON file per device in tests/golden/power."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.collectors.meters import Meter, find_meters, meter_from_json
from harness.collectors.power import Choice, choose, typical_watts
from harness.collectors.unavailable import Unavailable
from harness.profile_parts import Power

GOLDEN = sorted((Path(__file__).parent / "golden" / "power").glob("*.json"))


def survey_of(case: dict[str, Any]) -> dict[str, Any]:
    """The case's survey with what every node has."""
    survey = {"t_ns": [], "uid": 2000, **case["survey"]}
    folders = {"power_supply": "class/power_supply", "hwmon": "class/hwmon", "iio": "bus/iio/devices"}
    survey["nodes"] = [
        {
            "folder": f"{survey['sysfs']}/{folders.get(node['kind'], 'class/powercap')}/{node['name']}",
            "real": f"/sys/devices/{node['name']}",
            "errors": {},
            "cost_ns": dict.fromkeys(node["series"], 100_000),
            **node,
        }
        for node in survey["nodes"]
    ]
    return survey


def chosen(case: dict[str, Any]) -> Choice:
    return choose(survey_of(case), Power(**case["power"]))


def test_there_are_enough_cases() -> None:
    assert len(GOLDEN) >= 40


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    expect, choice = case["expect"], chosen(case)
    if "reason" in expect:
        assert choice.meter is None
        words = f"{choice.reason}; {choice.remedy}"
        assert expect["reason"] in words
        assert expect.get("remedy", "") in words
        assert expect.get("remedy_in_reason", "") in (choice.reason or "")
        assert choice.facts()["meter"] is None
        return
    assert choice.meter is not None, choice.reason
    assert choice.meter.label == expect["meter"]
    assert choice.meter.quantity == expect.get("quantity", choice.meter.quantity)
    if "channels" in expect:
        assert [channel.name for channel in choice.meter.channels] == expect["channels"]
    if "update_s" in expect:
        assert choice.meter.update_s == pytest.approx(expect["update_s"], rel=0.01)
    assert any(expect.get("note", "") in note for note in (*choice.meter.notes, ""))
    rejected = dict(choice.rejected)
    for name, why in expect.get("rejected", {}).items():
        assert why in rejected[name]
    if "watts" in expect:
        readings = next(
            found.readings
            for found in find_meters(survey_of(case))
            if isinstance(found.meter, Meter) and expect["meter"].startswith(f"{found.source} {found.name}")
        )
        assert typical_watts(choice.meter, readings) == pytest.approx(expect["watts"], rel=0.002)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_meter_survives_the_way_to_the_device_and_back(path: Path) -> None:
    for found in find_meters(survey_of(json.loads(path.read_text(encoding="utf-8")))):
        if isinstance(found.meter, Meter):
            assert meter_from_json(json.loads(json.dumps(found.meter.to_json()))) == found.meter
        else:
            assert isinstance(found.meter, Unavailable)
            assert found.meter.reason
