"""Power meters of a real kernel: sbs-battery, ltc4151 and ina226 on i2c-stub in an x86-64 guest, reached over SSH.

A program in the guest plays the hardware behind the registers and logs what they say; that log is the truth here.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.agent.protocol import Data, EnergyPlan, Job
from harness.cli.artifacts import collect, record
from harness.collectors.energy import Energy, energy_of_run
from harness.collectors.meters import Meter
from harness.collectors.power import choose
from harness.collectors.unavailable import Unavailable
from harness.devices.bundle.build import Order, build_bundle
from harness.devices.device import Device
from harness.devices.emulators import start_emulator
from harness.devices.transport import Transport
from harness.plan import PRESETS
from harness.profile_parts import Power
from harness.profiles import DeviceProfile, profile_from_data
from harness.records import ENERGY
from harness.runner import SessionSpec, run_session
from harness.session.execution import Transcript, listen
from harness.session.metering import READINGS, choose_meter
from harness.store import Store
from harness.table import build_rows

pytestmark = [pytest.mark.power, pytest.mark.emulator, pytest.mark.slow, pytest.mark.quiet]

HERE = Path(__file__).parent
BUS = "/sys/bus/i2c/devices/i2c-0"
CHIPS = {"sbs-battery": "0x0b", "ltc4151": "0x6f", "ina226": "0x40"}
# Which column of the log is whose.
TRUTH = {"sbs": 0, "ltc4151": 1, "ina226": 2}
LOG, FLAG = "/data/meter.log", "/data/charging"
PLAN = {"rate_hz": 10.0, "idle_s": 10.0, "settle_s": 2.0, "window_s": 10.0, "windows": 2}


@dataclass
class Guest:
    """The running guest as a plain SSH device."""

    profile: DeviceProfile
    transport: Transport

    def with_power(self, name: str, **power: Any) -> DeviceProfile:
        return self.profile.model_copy(update={"name": name, "power": Power(**power)})

    def sh(self, command: str) -> str:
        done = self.transport.run(["sh", "-c", command], timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def truth(self) -> np.ndarray:
        """Rows of t_ns and the watts of sbs, ltc4151, ina226."""
        lines = self.sh(f"cat {LOG}").splitlines()
        return np.array([[float(word) for word in line.split()] for line in lines if len(line.split()) == 4])


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    for program in ("qemu-system-x86_64", "qemu-img", "mke2fs"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    bundle = build_bundle(Order(arch="x86_64", engines=("litert",), level=3))
    data = {
        "extends": "qemu-x86-64",
        "name": "power-guest",
        "bundle": str(bundle.path),
        "emulator": {
            "kernel_modules": [
                f"i2c-stub chip_addr={','.join(CHIPS.values())}",
                "i2c-dev",
                "sbs-battery",
                "ltc4151",
                "ina2xx-adc",
            ],
            "boot_timeout_s": 180,
        },
    }
    running = start_emulator(profile_from_data(data, tmp_path_factory.mktemp("guest") / "profile.yaml"))
    try:
        profile = running.profile.model_copy(update={"emulator": None})
        device = Device.open(profile)
        device.transport.push(HERE / "meter_simulator.py", "/data/meter_simulator.py")
        argv = [*device.runtime.argv, "/data/meter_simulator.py", "/dev/i2c-0", LOG, "3600", FLAG]
        simulator = device.transport.start(argv, env=device.runtime.env)
        try:
            found = Guest(profile, device.transport)
            found.sh(f"for i in $(seq 100); do [ -s {LOG} ] && break; sleep 0.1; done; [ -s {LOG} ]")
            for chip, address in CHIPS.items():
                found.sh(f"echo {chip} {address} > {BUS}/new_device")
            yield found
        finally:
            simulator.kill()
            device.close()
    finally:
        running.stop()


def show(figures: str) -> None:
    """The figures themselves, with `pytest -s`."""
    sys.stdout.write(f"\n{figures}\n")


def joules(truth: np.ndarray, column: int, start_ns: float, end_ns: float) -> float:
    """Energy between two moments: the registers hold their value until they are written again."""
    t, watts = truth[:, 0], truth[:, 1 + column]
    inside = t[(t > start_ns) & (t < end_ns)]
    edges = np.concatenate(([start_ns], inside, [end_ns]))
    held = watts[np.searchsorted(t, edges[:-1], side="right") - 1]
    return float((held * np.diff(edges) / 1e9).sum())


def expected(truth: np.ndarray, column: int, sensors: Any) -> tuple[float, float]:
    """Total and dynamic µJ per inference by the log, for the phases of a run."""
    phases = [item["values"] for item in sensors if item["name"] == "phase"]
    spans = {"idle": [], "load": []}
    for phase in phases:
        energy = joules(truth, column, phase["started_ns"], phase["ended_ns"])
        spans[phase["phase"]].append((energy, (phase["ended_ns"] - phase["started_ns"]) / 1e9, phase["inferences"]))
    idle_w = np.mean([energy / seconds for energy, seconds, _ in spans["idle"]])
    total = np.median([energy / count for energy, _, count in spans["load"]])
    dynamic = np.median([(energy - idle_w * seconds) / count for energy, seconds, count in spans["load"]])
    return 1e6 * float(total), 1e6 * float(dynamic)


def survey_of(device: Device) -> dict[str, Any]:
    return json.loads(device.run_agent_module("survey", json.dumps({"readings": READINGS})))


def run_energy(device: Device, meters: dict[str, Meter]) -> dict[str, list[dict[str, Any]]]:
    """One energy run that reads several meters at once: for each, the sensors as if it had been the only one."""
    model = device.deploy_variant(collect([HERE / "data" / "tiny_fp32.tflite"])[0])
    channels = tuple(
        replace(channel, name=f"{name}/{channel.name}") for name, meter in meters.items() for channel in meter.channels
    )
    job = Job("litert", (model,), data=Data(), energy=EnergyPlan(channels, **PLAN))
    transcript = Transcript()
    process = device.start_agent(job)
    try:
        listen(process, job, transcript, hang_s=120)
    finally:
        process.kill()
    assert transcript.failure is None, transcript.failure
    assert not transcript.failed
    return {name: _of_meter(transcript.sensors(), name, meter) for name, meter in meters.items()}


def _of_meter(sensors: Any, name: str, meter: Meter) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "meter", "values": json.loads(json.dumps(meter.to_json()))}]
    for item in sensors:
        if item["name"] == "phase":
            found.append(item)
        elif item["name"] == "samples":
            values = {key.partition("/")[2]: v for key, v in item["values"].items() if key.startswith(f"{name}/")}
            errors = {k.partition("/")[2]: v for k, v in item["values"]["errors"].items() if k.startswith(f"{name}/")}
            found.append({"name": "samples", "values": values | {"errors": errors}})
    return found


def test_the_meters_are_found_and_the_best_is_chosen(guest: Guest) -> None:
    device = Device.open(guest.profile)
    try:
        survey = survey_of(device)
        best = choose(survey, Power())
        assert best.meter is not None, best.reason
        assert best.meter.label == "hwmon ltc4151"
        assert set(dict(best.rejected)) >= {"iio ina226", "power_supply sbs-0-000b"}
        for node, quantity in (("ina226", "power"), ("sbs", "current_voltage")):
            meter = choose(survey, Power(node=node)).meter
            assert meter is not None
            assert meter.quantity == quantity
            # Its mirror in hwmon is not taken for a second meter.
            assert meter.source == ("iio" if node == "ina226" else "power_supply")
    finally:
        device.close()


def test_the_energy_of_a_session_follows_the_registers(guest: Guest, tmp_path: Path) -> None:
    variant = collect([HERE / "data" / "tiny_fp32.tflite"])[0]
    protocol = replace(
        PRESETS["quick"],
        runs=1,
        max_runs=1,
        rounds=2,
        run_samples=10,
        energy=True,
        energy_idle_s=10.0,
        energy_windows=2,
    )
    with Store.open(tmp_path / "store.sqlite") as store:
        session = run_session(
            SessionSpec(
                name="power",
                variants=[record(variant)],
                artifacts={variant.name: variant},
                devices=[guest.with_power("guest")],
                protocol=protocol,
            ),
            store,
        )
        data = store.load(session)
    row = build_rows(data)[0]
    assert row.status == "ok", row.error
    run = next(run for run in data.runs if run.kind == ENERGY)
    total, dynamic = expected(guest.truth(), TRUTH["ltc4151"], run.sensors)
    assert row.power_source == "hwmon ltc4151", row.null_reasons
    show(
        f"ltc4151: total {row.energy_total_uj:.1f} / {total:.1f}, dynamic {row.energy_dynamic_uj:.1f} / {dynamic:.1f} µJ"
    )
    assert row.energy_total_uj == pytest.approx(total, rel=0.02)
    assert row.energy_dynamic_uj == pytest.approx(dynamic, rel=0.02)
    assert row.idle_power_uw == pytest.approx(6e6, rel=0.03)
    assert row.grade == "C"
    assert any("energy of 2 windows" in reason for reason in row.grade_reasons)


def test_battery_and_iio_follow_the_registers_too_while_another_meter_vanishes(guest: Guest) -> None:
    """One run reads all three; twenty seconds into it the ltc4151's driver is taken away."""
    device = Device.open(guest.profile)
    vanishing = threading.Timer(24.0, lambda: guest.sh(f"echo {CHIPS['ltc4151']} > {BUS}/delete_device"))
    try:
        survey = survey_of(device)
        # The battery's driver asks the chip at every reading; nothing tells so, hence the profile's word.
        wishes = {
            "sbs": Power(node="sbs", update_s=0.1),
            "ina226": Power(node="ina226"),
            "ltc4151": Power(node="ltc4151"),
        }
        meters = {name: choose(survey, wish).meter for name, wish in wishes.items()}
        vanishing.start()
        sensors = run_energy(device, {name: meter for name, meter in meters.items() if meter is not None})
        gone = choose_meter(device_with(device, Power(node="ltc4151")))
        assert gone.meter is None
        assert "the device shows no power meter named 'ltc4151'" in str(gone.reason)
    finally:
        vanishing.cancel()
        guest.sh(f"[ -e {BUS}/0-006f ] || echo ltc4151 {CHIPS['ltc4151']} > {BUS}/new_device")
        device.close()
    truth = guest.truth()
    for name in ("sbs", "ina226"):
        found = energy_of_run(sensors[name])
        assert isinstance(found, Energy), (name, found)
        total, dynamic = expected(truth, TRUTH[name], sensors[name])
        show(f"{name}: total {found.total_uj:.1f} / {total:.1f}, dynamic {found.dynamic_uj:.1f} / {dynamic:.1f} µJ")
        assert found.total_uj == pytest.approx(total, rel=0.02)
        assert found.dynamic_uj == pytest.approx(dynamic, rel=0.02)
    vanished = energy_of_run(sensors["ltc4151"])
    assert isinstance(vanished, Unavailable)
    assert "has no reading for" in vanished.reason or "new values" in vanished.reason
    assert "No such" in vanished.reason


def test_charging_and_unreadable_meters_are_refused_with_the_reason(guest: Guest) -> None:
    node = guest.sh("echo /sys/bus/iio/devices/iio:device*/in_power2_raw").strip()
    # Root may read everything, but not this.
    guest.sh(f"touch {FLAG}; mount --bind /proc/1/mem {node}; sleep 1.5")
    device = Device.open(guest.profile)
    try:
        survey = survey_of(device)
    finally:
        device.close()
        guest.sh(f"rm {FLAG}; umount {node}; sleep 1.5")
    charging = choose(survey, Power(node="sbs"))
    assert charging.meter is None
    assert "the battery says 'charging', not 'discharging'" in str(charging.reason)
    unreadable = choose(survey, Power(node="ina226"))
    assert unreadable.meter is None
    assert "in_power2_raw cannot be read: Input/output error" in str(unreadable.reason)


def device_with(device: Device, power: Power) -> Device:
    device.profile = device.profile.model_copy(update={"power": power})
    return device
