"""Time to throttle on series whose truth is known: steps, ramps, spikes, recoveries, noise, others on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.throttle import cut, running_median, throttle

SECONDS = np.arange(600.0)


def steady(seed: int = 0, noise: float = 0.01, n: int = 600) -> np.ndarray:
    return 1e6 * np.exp(np.random.default_rng(seed).normal(scale=noise, size=n))


def found(values: np.ndarray, cpu: np.ndarray | None = None) -> float | None:
    return throttle(SECONDS[: values.size], values, cpu).time_s


@pytest.mark.parametrize("at", [12, 20, 45, 200, 480])
@pytest.mark.parametrize("size", [0.08, 0.3])
def test_a_step_is_found_where_it_is(at: int, size: float) -> None:
    for seed in range(2):
        values = steady(seed)
        values[at:] *= 1 + size
        assert found(values) == pytest.approx(at, abs=3)


def test_a_ramp_is_found_when_it_has_grown_to_five_percent() -> None:
    values = steady() * (1 + 0.4 * np.clip((SECONDS - 100) / 200, 0, 1))
    time = found(values)
    assert time is not None
    assert 110 <= time <= 165  # 5 % is reached at 125 s; a segment's level is that of its middle
    result = throttle(SECONDS, values)
    assert result.burst == pytest.approx(1e6, rel=0.01)
    assert result.ratio == pytest.approx(1.4, rel=0.01)


def test_a_steady_device_does_not_throttle() -> None:
    alarms = sum(found(steady(seed, noise)) is not None for seed in range(8) for noise in (0.005, 0.02, 0.05))
    assert alarms == 0
    result = throttle(SECONDS, steady())
    assert result.reason is not None
    assert "no slowdown of 5 %" in result.reason.replace("5%", "5 %")
    assert result.ratio == pytest.approx(1.0, abs=0.01)


def test_autocorrelated_noise_is_no_throttling() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(8):
        noise = np.zeros(600)
        for i in range(1, 600):
            noise[i] = 0.8 * noise[i - 1] + rng.normal(scale=0.006)
        alarms += found(1e6 * np.exp(noise)) is not None
    assert alarms == 0


def test_what_recovers_or_is_too_small_or_a_single_second_is_none() -> None:
    for change in (slice(300, 320), slice(300, 302), slice(0, 8)):  # the last: a slow start
        values = steady()
        values[change] *= 1.4
        assert found(values) is None, change
    values = steady()
    values[300:] *= 1.03
    assert found(values) is None
    values = steady()
    values[::50] *= 5
    assert found(values) is None


def test_a_slow_start_does_not_hide_a_later_slowdown() -> None:
    values = steady()
    values[:8] *= 1.5
    values[250:] *= 1.2
    assert found(values) == pytest.approx(250, abs=3)


def test_others_on_the_cpu_are_told_apart_from_heat() -> None:
    values, cpu = steady(1), steady(2)
    values[200:] *= 1.5
    result = throttle(SECONDS, values, cpu)
    assert result.time_s is None
    assert result.reason is not None
    assert "others had the CPU" in result.reason
    cpu[200:] *= 1.5
    assert found(values, cpu) == pytest.approx(200, abs=3)


def test_short_runs_say_that_they_are() -> None:
    result = throttle(SECONDS[:20], steady(n=20))
    assert result.burst is None
    assert result.time_s is None
    assert result.short_reason is not None
    assert "too short" in result.short_reason
    assert "too short" in str(result.reason)
    middling = throttle(SECONDS[:44], steady(n=44))
    assert middling.burst is None
    assert middling.reason is not None
    assert "no slowdown" in middling.reason
    assert throttle([], []).time_s is None
    assert throttle([1.0], [5.0]).burst is None


def test_a_run_of_hours_is_pooled() -> None:
    values = steady(n=9000)
    values[4000:] *= 1.2
    assert throttle(np.arange(9000.0), values).time_s == pytest.approx(4000, abs=20)


def test_wrong_series_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths differ"):
        throttle([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="not positive"):
        throttle([1.0, 2.0], [0.0, 2.0])


def test_the_cut_is_the_best_there_is() -> None:
    """Against a search over all places of one cut, where one cut is what was put in."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = np.exp(rng.normal(scale=0.01, size=60))
        place = int(rng.integers(15, 45))
        values[place:] *= 1.3
        logs = running_median(np.log(values))
        costs = [logs[:k].var() * k + logs[k:].var() * (60 - k) for k in range(5, 56)]
        assert cut(values, 5)[:1] == [5 + int(np.argmin(costs))] or len(cut(values, 5)) > 1
        assert any(abs(index - place) <= 2 for index in cut(values, 5))
