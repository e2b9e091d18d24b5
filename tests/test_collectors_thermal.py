"""Temperatures, throttling and Android's two dumps, from what real devices say."""

from __future__ import annotations

from typing import Any

import pytest

from harness.collectors.android_text import Battery, ThermalService, parse_battery, parse_thermalservice
from harness.collectors.thermal import parse_heat, parse_throttled, parse_zone_c, throttling
from harness.collectors.unavailable import Unavailable

PIXEL_BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3946000
  status: 2
  health: 2
  present: true
  level: 88
  scale: 100
  voltage: 4233
  temperature: 277
  technology: Li-ion
  Charging state: 0
"""
THERMAL = """IsStatusOverride: {override}
ThermalEventListeners:
	callbacks: 1
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue=31.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}}
HAL Ready: true
HAL connection:
	ThermalHAL AIDL 1 connected: yes
Current temperatures from HAL:
	Temperature{{mValue=44.5, mType=0, mName=BIG, mStatus=0}}
	Temperature{{mValue=33.2, mType=3, mName=VIRTUAL-SKIN, mStatus=0}}
	Temperature{{mValue=27.6, mType=2, mName=battery, mStatus=0}}
	Temperature{{mValue=4233.0, mType=6, mName=vbat, mStatus=0}}
	Temperature{{mValue=NaN, mType=1, mName=G3D, mStatus=0}}
Current cooling devices from HAL:
	CoolingDevice{{mValue=0, mType=2, mName=thermal-cpufreq-0}}
Temperature static thresholds from HAL:
	TemperatureThreshold{{mType=3, mName=VIRTUAL-SKIN, mHotThrottlingThresholds=[NaN, 39.0]}}
"""


def test_a_pixels_battery() -> None:
    found = parse_battery(PIXEL_BATTERY)
    assert found == Battery(
        status="charging",
        powered=("USB",),
        level_percent=88,
        voltage_mv=4233,
        temperature_c=27.7,
        charge_counter_uah=3_946_000,
        current_ma=None,
        health="good",
        technology="Li-ion",
        updates_stopped=False,
    )


@pytest.mark.parametrize(("text", "millivolts"), [("4081", 4081), ("4081000", 4081), ("4", 4000), ("0", None)])
def test_the_voltage_of_a_battery_is_recognised_by_its_size(text: str, millivolts: int | None) -> None:
    found = parse_battery(PIXEL_BATTERY.replace("voltage: 4233", f"voltage: {text}"))
    assert isinstance(found, Battery)
    assert found.voltage_mv == millivolts


def test_odd_batteries() -> None:
    assert isinstance(parse_battery("Permission Denial: can't dump batteryservice\n"), Unavailable)
    found = parse_battery(PIXEL_BATTERY.replace("Charge counter: 3946000", "Charge counter: -2147483648"))
    assert isinstance(found, Battery)
    assert found.charge_counter_uah is None
    found = parse_battery(PIXEL_BATTERY.replace("scale: 100", "scale: 200").replace("status: 2", "status: 5"))
    assert isinstance(found, Battery)
    assert (found.level_percent, found.status) == (44, "full")


def test_the_thermal_service_gives_what_is_hot_now_not_what_was_cached() -> None:
    found = parse_thermalservice(THERMAL.format(status=0, override="false"))
    assert isinstance(found, ThermalService)
    assert [(t.type, t.name, t.celsius) for t in found.temperatures] == [
        ("cpu", "BIG", 44.5),
        ("skin", "VIRTUAL-SKIN", 33.2),
        ("battery", "battery", 27.6),
    ]
    assert (found.status, found.overridden, found.fresh) == (0, False, True)
    cached = parse_thermalservice(THERMAL.format(status=2, override="true").partition("HAL Ready")[0])
    assert isinstance(cached, ThermalService)
    assert (cached.status, cached.overridden, cached.fresh) == (2, True, False)
    assert [t.celsius for t in cached.temperatures] == [31.0]
    assert isinstance(parse_thermalservice("Can't find service: thermalservice"), Unavailable)


@pytest.mark.parametrize(
    ("text", "celsius"),
    [("48312", 48.312), ("38", 38.0), ("-5000", -5.0), ("0", None), ("-274000", None), ("200000", None), ("x", None)],
)
def test_a_zone(text: str, celsius: float | None) -> None:
    found = parse_zone_c(text)
    assert isinstance(found, Unavailable) if celsius is None else found == celsius


def test_zones_that_are_no_temperatures_are_left_out() -> None:
    zones = {
        "thermal_zone0 cpuss-0": "47300",
        "thermal_zone1 lmh-dcvs-00": "75000",
        "thermal_zone2 soc": "88",
        "thermal_zone3 vbat": "4120",
        "thermal_zone4 pm8350-ibat-lvl0": "0",
        "thermal_zone5 soc-thermal": "51000",
        "thermal_zone6 gpu-step": "60000",
    }
    found = parse_heat({"zones": zones, "frequency_khz": {"policy0": "1500000", "policy4": "<unknown>"}, "cooling": {}})
    assert found.temperatures_c == {"thermal_zone0 cpuss-0": 47.3, "thermal_zone5 soc-thermal": 51.0}
    assert found.hottest_c == 51.0
    assert found.frequency_khz == {"policy0": 1_500_000}
    assert parse_heat({}).hottest_c is None


@pytest.mark.parametrize(("text", "bits"), [("throttled=0x50005", 0x50005), ("50005", 0x50005), ("0", 0), ("?", None)])
def test_throttle_bits_of_a_raspberry_pi(text: str, bits: int | None) -> None:
    found = parse_throttled(text)
    assert isinstance(found, Unavailable) if bits is None else found == bits


def look(**values: Any) -> dict[str, Any]:
    return {"t_ns": 1, "name": "thermal", "values": {"zones": {}, "frequency_khz": {}, "cooling": {}, **values}}


def test_what_held_a_run_back_in_words() -> None:
    assert throttling([look(throttled="0"), look(throttled="0")]) == ()
    assert throttling([]) == ()
    # Under-voltage long before the run is no fault of it; capping during the run is.
    assert throttling([look(throttled="50000"), look(throttled="throttled=0x70002")]) == ("frequency capped",)
    assert throttling([look(throttle_count=4), look(throttle_count=9)]) == ("the CPU throttled 5 times for heat",)
    cooled = look(cooling={"cooling_device0 cpufreq-cpu0": "3", "cooling_device1 pwm-fan": "2"})
    assert throttling([look(), cooled]) == ("cpufreq-cpu0 slows the CPU (state 3)",)
    phone = look(thermalservice=THERMAL.format(status=2, override="false"))
    assert throttling([look(), phone]) == ("Android's thermal status moderate",)
