"""The energy run, the sampler and the survey on the device's side, with the engine that fails on purpose and files for meters."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from agent_process import of, run

from harness.agent import protocol as p
from harness.agent.heat import thermal
from harness.agent.sensors import Sampler, run_command
from harness.agent.survey import survey


def channel(path: Path, **options: Any) -> p.SensorChannel:
    return p.SensorChannel(path.name, str(path), **options)


def sampled(channels: tuple[p.SensorChannel, ...], seconds: float, rate_hz: float = 50.0) -> dict[str, Any]:
    with Sampler(channels, rate_hz) as sampler:
        time.sleep(seconds)
        return sampler.take()


def test_the_sampler_keeps_its_rate_and_its_clock(tmp_path: Path) -> None:
    path = tmp_path / "power"
    path.write_text(" 1234\n")
    before = time.monotonic_ns()
    found = sampled((channel(path),), 0.5)
    times = found["power"]["t_ns"]
    assert 15 <= len(times) <= 27
    assert before <= times[0] < times[-1] <= time.monotonic_ns()
    assert sorted(times) == times
    assert set(found["power"]["text"]) == {"1234"}
    assert found["errors"] == {}


def test_slow_channels_are_read_seldom_and_commands_with_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/the/bundle")
    path = tmp_path / "power"
    path.write_text("1")
    print_it = ("/bin/sh", "-c", "echo ${LD_LIBRARY_PATH:-none}")
    slow = p.SensorChannel("battery", argv=print_it, every_s=0.2)
    found = sampled((channel(path), slow), 0.5)
    assert 2 <= len(found["battery"]["t_ns"]) <= 4
    assert set(found["battery"]["text"]) == {"none\n"}
    with pytest.raises(OSError, match="ended with code 3: no service"):
        run_command(("/bin/sh", "-c", "echo no service >&2; exit 3"))


def test_a_file_that_vanishes_and_comes_back_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "power"
    path.write_text("1")
    with Sampler((channel(path),), 100.0) as sampler:
        time.sleep(0.1)
        path.unlink()
        time.sleep(0.1)
        gone = sampler.take()
        path.with_suffix(".new").write_text("2")
        path.with_suffix(".new").rename(path)
        time.sleep(0.1)
        back = sampler.take()
    assert gone["power"]["text"][0] == "1"
    assert gone["power"]["text"][-1] is None
    assert gone["errors"] == {"power": "No such file or directory"}
    assert back["power"]["text"][-1] == "2"


def test_a_slow_reading_makes_the_sampler_skip_not_hurry(tmp_path: Path) -> None:
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)

    def feed() -> None:
        time.sleep(0.3)
        fifo.write_text("7")

    threading.Thread(target=feed, daemon=True).start()
    quick = tmp_path / "quick"
    quick.write_text("1")
    with Sampler((channel(fifo, every_s=60.0), channel(quick)), 50.0) as sampler:
        time.sleep(0.7)
        found = sampler.take()
    assert found["slow"]["text"] == ["7"]
    times = found["quick"]["t_ns"]
    assert min(b - a for a, b in itertools.pairwise(times)) > 5_000_000


@pytest.fixture
def energy(tmp_path: Path) -> Any:
    meter = tmp_path / "power"
    meter.write_text("2500000")

    def job(**settings: Any) -> p.Job:
        path = tmp_path / "m.json"
        path.write_text(json.dumps(settings))
        plan = p.EnergyPlan((channel(meter),), 50.0, 0.2, 0.05, 0.2, 3, {"source": "hwmon"})
        return p.Job("fault", (p.Model("m", str(path)),), p.Data(), energy=plan)

    return job


def test_an_energy_run_tells_its_phases_and_readings(energy: Any) -> None:
    code, messages, errors = run(energy())
    assert code == 0, errors
    sensors = of(messages, "sensor")
    assert [m["values"] for m in sensors if m["name"] == "meter"] == [{"source": "hwmon"}]
    phases = [m["values"] for m in sensors if m["name"] == "phase"]
    assert [(q["phase"], q["window"]) for q in phases] == [
        ("idle", 0),
        ("load", 0),
        ("load", 1),
        ("load", 2),
        ("idle", 1),
    ]
    for phase in phases:
        assert phase["id"] == "m"
        assert phase["ended_ns"] - phase["started_ns"] >= 190_000_000
        assert (phase["inferences"] > 0) == (phase["phase"] == "load")
    edges = [edge for phase in phases for edge in (phase["started_ns"], phase["ended_ns"])]
    assert edges == sorted(edges)
    times = [t for m in sensors if m["name"] == "samples" for t in m["values"].get("power", {"t_ns": []})["t_ns"]]
    assert times == sorted(times)
    assert times[0] < edges[0]
    assert times[-1] > edges[-1]
    assert len(times) > 30
    assert [m["values"]["stage"] for m in sensors if m["name"] == "stage"] == ["load", "energy"]
    # Heat at the start and at the end of every run.
    assert len([m for m in sensors if m["name"] == "thermal"]) == 2
    assert of(messages, "loaded")[0]["first_inference_ns"] > 0
    assert messages[-1]["type"] == "done"


def test_a_model_that_fails_in_its_energy_run_is_an_error_of_its_own(energy: Any) -> None:
    code, messages, _ = run(energy(mode="error", after=3))
    assert code == 0
    assert of(messages, "error")[0]["id"] == "m"
    assert messages[-1]["type"] == "done"


def test_a_job_has_one_kind_of_run_only(energy: Any) -> None:
    import dataclasses

    code, messages, _ = run(dataclasses.replace(energy(), probe=p.ProbePlan()))
    assert code == 1
    assert "exactly one of latency, probe, energy, profile" in of(messages, "error")[0]["message"]


def test_the_job_comes_through_the_wire_unchanged(energy: Any) -> None:
    job = energy()
    assert p.decode_job(p.encode_job(job)) == job


def make_sysfs(root: Path) -> None:
    battery = root / "class/power_supply/BAT0"
    battery.mkdir(parents=True)
    for name, text in {"type": "Battery", "status": "Discharging", "power_now": "7800000", "uevent": "x"}.items():
        (battery / name).write_text(text + "\n")
    chip = root / "class/hwmon/hwmon1"
    chip.mkdir(parents=True)
    for name, text in {
        "name": "ina226",
        "power1_input": "5000000",
        "update_interval": "2",
        "fan1_input": "900",
    }.items():
        (chip / name).write_text(text)


def test_the_survey_sees_what_is_there_and_reads_it_again_and_again(tmp_path: Path) -> None:
    make_sysfs(tmp_path)
    found = survey(str(tmp_path), readings=3, period_s=0.01)
    assert found["sysfs"] == str(tmp_path)
    assert len(found["t_ns"]) == 3
    nodes = {(node["kind"], node["name"]): node for node in found["nodes"]}
    battery, chip = nodes["power_supply", "BAT0"], nodes["hwmon", "hwmon1"]
    assert battery["texts"] == {"type": "Battery"}
    assert battery["series"] == {"power_now": ["7800000"] * 3, "status": ["Discharging"] * 3}
    assert chip["texts"] == {"name": "ina226", "update_interval": "2"}
    assert chip["series"] == {"power1_input": ["5000000"] * 3}
    assert chip["cost_ns"]["power1_input"] > 0
    assert "dumpsys_battery" not in found


def test_the_survey_of_nothing_takes_no_time(tmp_path: Path) -> None:
    started = time.monotonic()
    assert survey(str(tmp_path), readings=100)["nodes"] == []
    assert time.monotonic() - started < 1.0


def test_the_survey_reports_refusals_in_the_kernels_words(tmp_path: Path) -> None:
    make_sysfs(tmp_path)
    node = tmp_path / "class/power_supply/BAT0/power_now"
    node.unlink()
    node.mkdir()  # root may read everything but this
    found = survey(str(tmp_path), 2, 0.01)
    battery = next(item for item in found["nodes"] if item["name"] == "BAT0")
    assert battery["series"]["power_now"] == [None, None]
    assert battery["errors"] == {"power_now": "Is a directory"}


def test_heat_is_read_as_it_stands(tmp_path: Path) -> None:
    zone = tmp_path / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("48312\n")
    (tmp_path / "class/thermal/thermal_zone1").mkdir()
    policy = tmp_path / "devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_cur_freq").write_text("1500000\n")
    throttle = tmp_path / "devices/system/cpu/cpu0/thermal_throttle"
    throttle.mkdir(parents=True)
    (throttle / "core_throttle_count").write_text("4")
    found = thermal(str(tmp_path))
    assert found["zones"] == {"thermal_zone0 cpu-thermal": "48312"}
    assert found["frequency_khz"] == {"policy0": "1500000"}
    assert found["throttle_count"] == 4
