"""Energy through a whole session with devices that are told how to behave: asked or not, metered or not, refused, failed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_device import Crash, FakeDevice, MemoryStore, make_variant, record_of

from harness.agent.protocol import EnergyPlan, Job, encode_message
from harness.devices.transport.base import Completed
from harness.devices.transport.fake import Call, Script
from harness.plan import MeasurementProtocol, energy_plan
from harness.profile_parts import Power
from harness.records import ENERGY, SessionData
from harness.row import Row
from harness.runner import SessionSpec, run_session
from harness.session.resume import progress_of
from harness.store import Store
from harness.table import build_rows

S = 1_000_000_000
PROTOCOL = MeasurementProtocol(
    preset="quick", runs=1, max_runs=1, probes=1, rounds=1, run_samples=6, energy=True, energy_rate_hz=5.0
)
RAIL = {
    "kind": "hwmon",
    "name": "hwmon1",
    "folder": "/sys/class/hwmon/hwmon1",
    "real": "/sys/devices/i2c-1/1-0040/hwmon/hwmon1",
    "texts": {"name": "ina226"},
    "series": {"power1_input": ["2000000", "2001000"]},
    "errors": {},
    "cost_ns": {"power1_input": 200_000},
}


@dataclasses.dataclass
class MeteredDevice(FakeDevice):
    """Answers a survey with `nodes`; in an energy run draws 2 W at rest and 5 W at work, as `text` writes it."""

    nodes: list[dict[str, Any]] = dataclasses.field(default_factory=lambda: [RAIL])
    power: Power = dataclasses.field(default_factory=Power)
    text: Callable[[float, int], str | None] = lambda watts, index: str(int(watts * 1e6) + index % 3)
    surveys: int = 0

    def profile(self, **changes: Any) -> Any:
        return super().profile(power=self.power, **changes)

    def handle(self, call: Call) -> Completed | Script:
        if call.argv[1:3] == ("-m", "agent.survey"):
            self.surveys += 1
            assert call.env["PYTHONPATH"]
            survey = {"sysfs": json.loads(call.argv[3])["sysfs"], "t_ns": [], "refusals": {}, "nodes": self.nodes}
            return Completed(0, json.dumps(survey).encode(), b"")
        return super().handle(call)

    def _play(self, job: Job, call: Call) -> Iterator[str]:
        for line in super()._play(job, call):
            if job.energy is not None and json.loads(line)["type"] == "done":
                yield from self._energy(job, job.energy)
            yield line

    def _energy(self, job: Job, plan: EnergyPlan) -> Iterator[str]:
        def say(name: str, values: dict[str, Any]) -> str:
            return encode_message("sensor", 1, name=name, values=values)

        yield say("meter", plan.meter)
        at = 10 * S
        kinds = [("idle", 0)] + [("load", index) for index in range(plan.windows)] + [("idle", 1)]
        for index, (kind, window) in enumerate(kinds):
            self.behave(job, f"energy {kind} {window}")
            seconds = plan.idle_s if kind == "idle" else plan.window_s
            end = at + int(seconds * S)
            values = {"phase": kind, "id": job.models[0].id, "window": window, "started_ns": at, "ended_ns": end}
            yield say("phase", values | {"inferences": 0 if kind == "idle" else 100})
            times = np.arange(at, end + S, int(S / plan.rate_hz)).tolist()
            texts = [self.text(2.0 if kind == "idle" else 5.0, number + index) for number in range(len(times))]
            samples: dict[str, Any] = {
                channel.name: {"t_ns": times, "text": texts} for channel in plan.channels if channel.every_s == 0
            }
            yield say("samples", samples | {"errors": {"power": "No such device"} if None in texts else {}})
            at = end + 2 * S


def measure(tmp_path: Path, device: MeteredDevice, **changes: Any) -> tuple[list[Row], MemoryStore]:
    artifacts = {name: make_variant(tmp_path, name) for name in ("a", "b")}
    store = MemoryStore()
    records = [record_of(variant) for variant in artifacts.values()]
    protocol = changes.pop("protocol", PROTOCOL)
    spec = SessionSpec("energy", records, artifacts, [device.profile()], protocol, **changes)
    run_session(spec, store, opener=device.open, pause=lambda _: None)
    assert store.session is not None
    data = SessionData(store.session, tuple(records), tuple(store.devices.values()), tuple(store.runs))
    return build_rows(data), store


def reason(row: Row, name: str = "energy_total_uj") -> str:
    return dict(text.split(": ", 1) for text in row.null_reasons)[name]


def test_energy_is_measured_after_everything_else(tmp_path: Path) -> None:
    device = MeteredDevice()
    rows, store = measure(tmp_path, device)
    for row in rows:
        assert row.status == "ok"
        assert row.energy_total_uj == pytest.approx(5.0 * 10 / 100 * 1e6, rel=1e-3)
        assert row.energy_dynamic_uj == pytest.approx(3.0 * 10 / 100 * 1e6, rel=1e-3)
        assert row.idle_power_uw == pytest.approx(2e6, rel=1e-3)
        assert row.energy_resolution_uj == pytest.approx(1e-6 * 10 / 2 / 100 * 1e6, rel=1e-3)
        assert row.power_source == "hwmon ina226"
        assert not any("energy" in text for text in row.grade_reasons)
    kinds = [run.kind for run in store.runs]
    assert kinds == sorted(kinds, key=["probe", "latency", ENERGY].index)
    assert kinds.count(ENERGY) == 2
    assert device.surveys == 1
    power = store.devices["fake"].facts["power"]
    assert (power["meter"], power["quantity"]) == ("hwmon ina226", "power")


def test_not_asked_for_is_not_done_and_says_so(tmp_path: Path) -> None:
    device = MeteredDevice()
    rows, store = measure(tmp_path, device, protocol=dataclasses.replace(PROTOCOL, energy=False))
    assert device.surveys == 0
    assert ENERGY not in {run.kind for run in store.runs}
    assert reason(rows[0]) == "energy was not asked for (--energy)"
    assert reason(rows[0], "idle_power_uw") == "energy was not asked for (--energy)"


def test_without_a_meter_the_reason_stands_in_every_field(tmp_path: Path) -> None:
    denied = {**RAIL, "series": {"power1_input": [None, None]}, "errors": {"power1_input": "Permission denied"}}
    rows, store = measure(tmp_path, MeteredDevice(nodes=[denied]))
    assert ENERGY not in {run.kind for run in store.runs}
    for row in rows:
        assert row.status == "ok"
        for name in ("energy_total_uj", "energy_dynamic_uj", "energy_resolution_uj", "idle_power_uw", "power_source"):
            assert getattr(row, name) is None
            assert "power1_input cannot be read: Permission denied" in reason(row, name)
    rows, _ = measure(tmp_path, MeteredDevice(nodes=[]))
    assert "the device shows no power meter" in reason(rows[0])
    rows, _ = measure(tmp_path, MeteredDevice(power=Power(source="none")))
    assert "power: {source: none}" in reason(rows[0])


def test_a_meter_that_vanishes_costs_the_energy_and_nothing_else(tmp_path: Path) -> None:
    device = MeteredDevice(text=lambda watts, index: str(int(watts * 1e6) + index) if index < 30 else None)
    rows, _ = measure(tmp_path, device)
    for row in rows:
        assert row.status == "ok"
        assert row.latency_median_ns is not None
        assert row.energy_total_uj is None
        assert "No such device" in reason(row)


def test_a_crash_in_an_energy_run_costs_the_energy_and_nothing_else(tmp_path: Path) -> None:
    def behave(job: Job, stage: str) -> None:
        if stage == "energy load 1" and job.models[0].id == "a":
            raise Crash

    rows, store = measure(tmp_path, MeteredDevice(behave=behave))
    first, second = rows
    assert first.status == "ok"
    assert first.latency_median_ns is not None
    assert "SIGSEGV" in reason(first)
    assert second.energy_total_uj is not None
    progress = progress_of(
        SessionData(store.session, (), tuple(store.devices.values()), tuple(store.runs))  # type: ignore[arg-type]
    )
    assert progress.energy == {("fake", "a"), ("fake", "b")}
    assert ("fake", "a") not in progress.failed


def test_few_windows_and_short_idling_are_remarked(tmp_path: Path) -> None:
    protocol = dataclasses.replace(PROTOCOL, energy_windows=2, energy_idle_s=12.0)
    rows, _ = measure(tmp_path, MeteredDevice(), protocol=protocol)
    assert "energy of 2 windows, fewer than 5" in rows[0].grade_reasons
    assert any("12 s of idling" in text for text in rows[0].grade_reasons)


def test_a_fixture_is_named_as_one(tmp_path: Path) -> None:
    rows, _ = measure(tmp_path, MeteredDevice(power=Power(sysfs="/tmp/files")))
    assert rows[0].power_source == "hwmon ina226 [fixture /tmp/files]"


def test_energy_runs_survive_the_store(tmp_path: Path) -> None:
    rows, memory = measure(tmp_path, MeteredDevice())
    assert memory.session is not None
    with Store.open(tmp_path / "store.sqlite") as store:
        variants = [record_of(make_variant(tmp_path, name)) for name in ("a", "b")]
        store.add_session(memory.session, variants, tuple(memory.devices.values()))
        for run in memory.runs:
            store.add_run(run)
        assert build_rows(store.load(memory.session.id)) == rows


def test_a_slow_meter_gets_longer_windows_and_a_dear_one_fewer_readings() -> None:
    quick = energy_plan(PROTOCOL, (), {}, update_s=None, cost_s=0.0)
    assert (quick.window_s, quick.idle_s, quick.rate_hz) == (10.0, 30.0, 5.0)
    slow = energy_plan(PROTOCOL, (), {}, update_s=5.0, cost_s=0.0)
    assert slow.window_s == 55.0
    assert slow.idle_s == 55.0
    assert slow.settle_s == 10.0
    dear = energy_plan(PROTOCOL, (), {}, update_s=None, cost_s=0.05)
    assert dear.rate_hz == 2.0
    assert energy_plan(PROTOCOL, (), {}, update_s=60.0, cost_s=0.0).window_s == 180.0
