"""Energy per inference from synthetic meters whose truth is known: jitter, gaps, signs, slow gauges; and every refusal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_meter import (
    IDLE_S,
    T0,
    WINDOWS,
    S,
    counter_channels,
    draw,
    gauge,
    gauge_channels,
    lose,
    phases_of,
    power_channel,
    rail,
    text,
    ticks,
    truth,
)

from harness.agent.protocol import SensorChannel
from harness.collectors.energy import Energy, Phase, energy_of, energy_of_run, joules_in, series_of
from harness.collectors.meters import CHARGE, Meter
from harness.collectors.power import choose
from harness.collectors.unavailable import Unavailable
from harness.plan import MeasurementProtocol
from harness.profile_parts import Power as PowerWish
from harness.session.metering import plan_for


@settings(max_examples=30, deadline=None)
@given(
    idle_w=st.floats(0.3, 6.0),
    over=st.floats(1.5, 5.0),
    ripple=st.floats(0.0, 0.05),
    jitter=st.floats(0.0, 0.45),
    lost=st.floats(0.0, 0.1),
    seed=st.integers(0, 10_000),
)
def test_ten_readings_a_second_over_ten_seconds(
    idle_w: float, over: float, ripple: float, jitter: float, lost: float, seed: int
) -> None:
    phases = phases_of()
    power = draw(phases, idle_w, idle_w * over, ripple)
    t = ticks(phases, 10.0, jitter, seed)
    found = energy_of(rail(), phases, lose(power_channel(power, t), lost, seed + 1))
    assert isinstance(found, Energy), found
    total, dynamic = truth(power, phases)
    assert found.total_uj == pytest.approx(total, rel=0.01)
    assert found.dynamic_uj == pytest.approx(dynamic, rel=0.02)
    assert found.idle_power_uw == pytest.approx(idle_w * 1e6, rel=0.01)
    assert found.updates >= 80


@settings(max_examples=15, deadline=None)
@given(
    idle_w=st.floats(0.3, 6.0),
    over=st.floats(1.5, 5.0),
    ripple=st.floats(0.0, 0.05),
    sign=st.sampled_from([-1, 1]),
    phase_s=st.floats(0.0, 1.0),
    seed=st.integers(0, 10_000),
)
def test_a_fuel_gauge_of_one_value_a_second_polled_faster(
    idle_w: float, over: float, ripple: float, sign: int, phase_s: float, seed: int
) -> None:
    phases = phases_of()
    power = draw(phases, idle_w, idle_w * over, ripple)
    t = ticks(phases, 10.0, 0.2, seed)
    channels = gauge_channels(power, t, sign=sign, phase_s=phase_s, seed=seed)
    found = energy_of(gauge(), phases, channels)
    assert isinstance(found, Energy), found
    total, dynamic = truth(power, phases)
    assert found.total_uj == pytest.approx(total, rel=0.05)
    assert found.dynamic_uj == pytest.approx(dynamic, rel=0.05)
    assert 9 <= found.updates <= 11


@settings(max_examples=10, deadline=None)
@given(idle_w=st.floats(1.0, 20.0), over=st.floats(1.5, 5.0), begin=st.floats(0.0, 1.0), seed=st.integers(0, 10_000))
def test_a_counter_that_begins_again_at_zero(idle_w: float, over: float, begin: float, seed: int) -> None:
    phases = phases_of()
    power = draw(phases, idle_w, idle_w * over, 0.03)
    t = ticks(phases, 10.0, 0.4, seed)
    meter, channels = counter_channels(power, t, begin=begin)
    found = energy_of(meter, phases, channels)
    assert isinstance(found, Energy), found
    total, dynamic = truth(power, phases)
    assert found.total_uj == pytest.approx(total, rel=0.01)
    assert found.dynamic_uj == pytest.approx(dynamic, rel=0.02)


def test_a_charge_counter_needs_long_windows() -> None:
    """A phone's coarse counter: refused over ten seconds, right over three minutes."""
    channels = (SensorChannel("charge", "/c"), SensorChannel("voltage", "/v"), SensorChannel("status battery", "/s"))
    scales = {"charge": 3.6e-3, "voltage": 1e-6}
    meter = Meter("power_supply", "battery", CHARGE, channels, scales, battery=True, fresh=False)

    def measure(window_s: float) -> tuple[Energy | Unavailable, float]:
        phases = phases_of(window_s=window_s, idle_s=max(IDLE_S, window_s))
        power = draw(phases, 1.5, 4.0, 0.0)
        t = ticks(phases, 2.0, 0.1, 1)
        coulombs = np.concatenate(([0.0], np.cumsum(power(t)[1:] * np.diff(t) / S / 3.9)))
        counter = np.floor((3000_000 - coulombs / 3.6e-3) / 500) * 500
        found = energy_of(
            meter,
            phases,
            {
                "charge": (t, text(counter)),
                "voltage": (t, ["3900000"] * t.size),
                "status battery": (t, ["Discharging"] * t.size),
            },
        )
        return found, truth(power, phases)[0]

    short, _ = measure(10.0)
    assert isinstance(short, Unavailable)
    assert "new values of the meter" in short.reason
    long, total = measure(180.0)
    assert isinstance(long, Energy), long
    assert long.total_uj == pytest.approx(total, rel=0.05)


def synthetic(
    rate_hz: float = 10.0, idle_w: float = 2.0, load_w: float = 5.0, **options: Any
) -> tuple[list[Phase], dict[str, Any]]:
    phases = phases_of(**options)
    t = ticks(phases, rate_hz, 0.1, 7)
    return phases, power_channel(draw(phases, idle_w, load_w, 0.01), t)


def refused(meter: Meter, phases: Sequence[Phase], channels: dict[str, Any], errors: tuple[str, ...] = ()) -> str:
    found = energy_of(meter, phases, channels, errors)
    assert isinstance(found, Unavailable), found
    return str(found)


def test_the_synthetic_run_is_accepted_as_it_is() -> None:
    found = energy_of(rail(), *synthetic())
    assert isinstance(found, Energy)
    assert found.source == "hwmon ina226"
    assert len(found.totals_uj) == WINDOWS
    assert found.resolution_uj == pytest.approx(1e6 * 0.001 * 10 / 2 / 1000, rel=0.01)


def test_short_windows_are_refused() -> None:
    assert "lasted 5.0 s, less than 10 s" in refused(rail(), *synthetic(window_s=5.0))
    assert "the idle phase lasted 4.0 s" in refused(rail(), *synthetic(idle_s=4.0))


def test_too_few_updates_are_refused() -> None:
    assert "fewer than 10" in refused(rail(), *synthetic(rate_hz=0.5))
    # Ten readings a second of a meter that converts every three seconds are no ten values a second.
    assert "3.3 new values" in refused(rail(update_s=3.0), *synthetic())


def test_idle_before_and_after_must_agree() -> None:
    phases, channels = synthetic()
    t, texts = channels["power"]
    late = t > phases[-2].ended_ns + S
    warm = [str(int(float(value) * 1.06)) if after else value for value, after in zip(texts, late, strict=True)]
    assert "before and 2.1" in refused(rail(), phases, {"power": (t, warm)})
    cool = [str(int(float(value) * 1.03)) if after else value for value, after in zip(texts, late, strict=True)]
    assert isinstance(energy_of(rail(), phases, {"power": (t, cool)}), Energy)


def test_a_meter_that_vanishes_is_refused_with_the_kernels_words() -> None:
    phases, channels = synthetic()
    t, texts = channels["power"]
    gone = [None if when > phases[3].started_ns else value for when, value in zip(t, texts, strict=True)]
    words = refused(rail(), phases, {"power": (t, gone)}, ("power: No such device",))
    assert "No such device" in words
    assert "window 3" in words
    nothing = refused(rail(), phases, {"power": (t, [None] * t.size)}, ("power: Permission denied",))
    assert nothing == "hwmon ina226: power could not be read (power: Permission denied)"
    assert "was never read" in refused(rail(), phases, {})


def test_garbage_instead_of_numbers_is_no_reading() -> None:
    phases, channels = synthetic()
    t, _ = channels["power"]
    assert "power could not be read" in refused(rail(), phases, {"power": (t, ["n/a"] * t.size)})


def test_a_hole_in_the_readings_is_refused() -> None:
    phases, channels = synthetic()
    t, texts = channels["power"]
    start = phases[2].started_ns + 3 * S
    hole = [None if start < when < start + 2 * S else value for when, value in zip(t, texts, strict=True)]
    assert "window 2 has no reading for 2." in refused(rail(), phases, {"power": (t, hole)})


def battery_run(**changes: Any) -> tuple[list[Phase], dict[str, Any]]:
    phases = phases_of()
    t = ticks(phases, 10.0, 0.1, 3)
    watts = draw(phases, 1.5, 3.5, 0.02)(t)
    channels: dict[str, Any] = {
        "current": (t, text(-watts / 4.0 * 1e6)),
        "voltage": (t, ["4000000"] * t.size),
        "status battery": (t[::20], ["Discharging"] * t[::20].size),
        "online usb": (t[::20], ["0"] * t[::20].size),
    }
    return phases, channels | changes


def test_a_battery_run_is_accepted() -> None:
    # The ripple makes each reading another one; at rest the readings are equal, as they may be.
    assert isinstance(energy_of(gauge(), *battery_run()), Energy)


@pytest.mark.parametrize(
    ("channel", "words", "said"),
    [
        ("status battery", "Charging", "the battery says 'charging'"),
        ("status battery", "Full", "the battery says 'full'"),
        ("online usb", "1", "usb supplies power beside the battery"),
    ],
)
def test_a_cable_plugged_in_during_the_run_is_refused(channel: str, words: str, said: str) -> None:
    phases, channels = battery_run()
    t, texts = channels[channel]
    channels[channel] = (t, [*texts[:-1], words])
    assert said in refused(gauge(), phases, channels)


def test_a_status_that_was_never_read_is_refused() -> None:
    phases, channels = battery_run()
    t, texts = channels["status battery"]
    channels["status battery"] = (t, [None] * len(texts))
    assert "nothing tells whether" in refused(gauge(), phases, channels)


def test_a_sign_that_flips_is_refused_and_a_wrong_unit_too() -> None:
    phases, channels = battery_run()
    t, texts = channels["current"]
    flipped = [str(-int(value)) if index % 4 == 0 else value for index, value in enumerate(texts)]
    assert "its sign changes: 25%" in refused(gauge(), phases, {**channels, "current": (t, flipped)})
    milli = [str(int(int(value) / 1000)) for value in texts]
    assert "looks like mA" in refused(gauge(), phases, {**channels, "current": (t, milli)})
    scaled = gauge(scales={"current": 1e-3, "voltage": 1e-6}, sign=-1)
    assert isinstance(energy_of(scaled, phases, {**channels, "current": (t, milli)}), Energy)


def test_zeros_are_never_energy() -> None:
    phases, channels = synthetic()
    t, texts = channels["power"]
    assert "reads zero" in refused(rail(), phases, {"power": (t, ["0"] * t.size)})
    some = ["0" if index % 10 == 0 else value for index, value in enumerate(texts)]
    assert "10% of the readings are zero" in refused(rail(), phases, {"power": (t, some)})
    few = ["0" if index % 50 == 0 else value for index, value in enumerate(texts)]
    found = energy_of(rail(), phases, {"power": (t, few)})
    assert isinstance(found, Energy)
    assert any("were zero and left out" in note for note in found.notes)


def test_a_meter_that_stands_still_is_refused() -> None:
    phases, channels = synthetic()
    t, _ = channels["power"]
    assert "does not update" in refused(rail(), phases, {"power": (t, ["2000000"] * t.size)})


def test_work_that_cannot_be_told_from_idling_has_no_dynamic_energy() -> None:
    phases = phases_of()
    t = ticks(phases, 10.0, 0.1, 5)
    watts = np.where(np.arange(t.size) % 2 == 0, 2.0, 2.001)
    found = energy_of(rail(), phases, {"power": (t, text(watts * 1e6))})
    assert isinstance(found, Energy)
    assert found.dynamic_uj is None
    assert found.dynamic_reason is not None
    assert "cannot be told from idling" in found.dynamic_reason


def test_a_noisy_meter_is_not_taken_for_work() -> None:
    phases = phases_of()
    t = ticks(phases, 10.0, 0.1, 5)
    told = 0
    for seed in range(40):
        watts = 2.0 + np.random.default_rng(seed).normal(0, 0.01, t.size)
        found = energy_of(rail(), phases, {"power": (t, text(watts * 1e6))})
        assert isinstance(found, Energy)
        told += found.dynamic_uj is not None
    assert told <= 6


def test_a_run_that_ended_early_and_one_that_is_no_energy_run() -> None:
    phases, channels = synthetic()
    assert "ended before" in refused(rail(), phases[:3], channels)
    assert isinstance(energy_of_run([]), Unavailable)
    broken = energy_of_run([{"name": "meter", "values": {"source": "hwmon"}}])
    assert isinstance(broken, Unavailable)
    assert "cannot be understood" in broken.reason


def test_from_the_messages_of_a_run() -> None:
    phases, channels = synthetic()
    t, texts = channels["power"]
    sensors: list[dict[str, Any]] = [{"name": "meter", "values": rail().to_json()}]
    begun = 0
    for phase in phases:
        values = {"phase": phase.kind, "id": "v", "window": phase.window, "inferences": phase.inferences}
        sensors.append(
            {"name": "phase", "values": values | {"started_ns": phase.started_ns, "ended_ns": phase.ended_ns}}
        )
        end = t.size if phase is phases[-1] else int(np.searchsorted(t, phase.ended_ns))
        batch = {"power": {"t_ns": t[begun:end].tolist(), "text": texts[begun:end]}, "errors": {}}
        sensors.append({"name": "samples", "values": batch})
        begun = end
    assert energy_of_run(sensors) == energy_of(rail(), phases, channels)


def test_a_trapezoid_is_exact_for_a_ramp_whatever_the_readings_times() -> None:
    t = np.sort(np.random.default_rng(2).integers(0, 12 * S, 60)) + T0
    watts = 1.0 + (t - T0) / S
    series = series_of(rail(), {"power": (t, text(watts * 1e9))}, ())
    assert isinstance(series, Unavailable)  # a gigawatt is refused
    series = series_of(rail(scales={"power": 1e-9}), {"power": (t, text(watts * 1e9))}, ())
    assert not isinstance(series, Unavailable)
    phase = Phase("load", 0, T0 + int(1.3 * S), T0 + int(9.1 * S), 1)
    assert joules_in(series, phase) == pytest.approx(7.8 * (1.0 + 5.2), rel=1e-6)


def test_a_phone_that_says_its_current_by_dumpsys_only() -> None:
    """Read every five seconds; windows as long as the plan makes them for it."""
    golden = Path(__file__).parent / "golden" / "power" / "galaxy_dumpsys_current.json"
    survey = json.loads(golden.read_text(encoding="utf-8"))["survey"]
    meter = choose(survey, PowerWish()).meter
    assert meter is not None
    plan = plan_for(MeasurementProtocol(), meter)
    assert (plan.window_s, plan.idle_s) == (55.0, 55.0)
    phases = phases_of(window_s=plan.window_s, idle_s=plan.idle_s)
    power = draw(phases, 1.2, 3.6, 0.0)
    t = ticks(phases, 0.2, 0.05, 4)
    noise = 1 + np.random.default_rng(4).normal(0, 0.004, t.size)
    dumps = [
        survey["dumpsys_battery"].replace("-411", str(-round(float(watts) / 4.081 * 1000)))
        for watts in power(t) * noise
    ]
    found = energy_of(meter, phases, {"battery": (t, dumps)})
    assert isinstance(found, Energy), found
    assert found.total_uj == pytest.approx(truth(power, phases)[0], rel=0.05)
    plugged = [*dumps[:-1], dumps[-1].replace("USB powered: false", "USB powered: true")]
    assert "USB supplies power" in refused(meter, phases, {"battery": (t, plugged)})
    faked = [*dumps[:-1], "(UPDATES STOPPED -- use 'reset' to restart)\n" + dumps[-1]]
    assert "UPDATES STOPPED" in refused(meter, phases, {"battery": (t, faked)})
