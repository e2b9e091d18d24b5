"""The thermal gate in a session: waited before a run, told, recorded with the run, and said in the row."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fake_device import FakeDevice
from sample_session import VARIANTS, sample_session
from test_runner import Lab

from harness.devices import device
from harness.profile_parts import Thermal
from harness.profiles import DeviceProfile
from harness.records import LATENCY, SessionData
from harness.session.events import COOLING
from harness.table import build_rows


class Hot(FakeDevice):
    """It must be below 50 °C before a run."""

    def profile(self, **changes: Any) -> DeviceProfile:
        return super().profile(thermal=Thermal(start_below_c=50, wait_s=30, limit_c=80), **changes)


def test_a_run_waits_until_the_device_is_cool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([61.0, 54.0, 49.0])
    monkeypatch.setattr(device, "read_temperatures", lambda _shell, _wanted: {"cpu": next(readings, 45.0)})
    lab = Lab(tmp_path, Hot("a"), formats={"t1": "tflite"})
    lab.run()
    first = lab.store.runs[0].environment
    assert first["cool_down"] == {
        "sensor": "cpu", "start_c": 61.0, "below_c": 50.0, "end_c": 49.0, "waited_s": 10.0, "reached": True,
    }  # fmt: skip
    assert first["limit_c"] == 80
    assert lab.pauses == [5.0, 5.0]
    told = [event.text for event in lab.events if event.kind == COOLING]
    assert told[0] == "a litert t1: cooling: 61 °C, waiting for < 50 °C"
    assert len(told) == 2
    assert {run.environment["cool_down"]["waited_s"] for run in lab.store.kinds(kind=LATENCY)} == {0.0}


def with_environment(**values: Any) -> SessionData:
    made = sample_session(devices=("laptop",), variants=VARIANTS[:1], runs=2, block_s=0.01)
    runs = tuple(dataclasses.replace(run, environment={**run.environment, **values}) for run in made.runs)
    return dataclasses.replace(made, runs=runs)


def reasons(data: SessionData) -> str:
    return "; ".join(next(row for row in build_rows(data) if row.status == "ok").grade_reasons)


def test_a_row_says_that_its_runs_began_hot() -> None:
    hot = {"sensor": "cpu", "start_c": 61.0, "below_c": 50.0, "end_c": 58.5, "waited_s": 300.0, "reached": False}
    assert "started hot: 58.5 °C, not below 50 °C after waiting 300 s" in reasons(with_environment(cool_down=hot))
    assert "hot" not in reasons(with_environment(cool_down=hot | {"reached": True}))
    unknown = {"below_c": 50.0, "reason": "no temperature sensor can be read", "waited_s": 0.0, "reached": None}
    assert "hot" not in reasons(with_environment(cool_down=unknown))


def test_a_row_says_that_its_runs_ended_above_the_limit() -> None:
    above = with_environment(limit_c=80, after={"temperature_c": 83.2})
    assert "ended above the limit of the device, the hottest at 83 °C" in reasons(above)
    assert "throttled" not in reasons(with_environment(limit_c=80, after={"temperature_c": 71.0}))
