"""Drift is found where it is, and not where runs merely differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats import drift

RUNS, BLOCKS = 12, 10


def series(
    rng: np.random.Generator, *, ramp: float = 0.0, step: float = 0.0, noise: float = 0.01, run_effect: float = 0.01
) -> drift.Drift:
    n = RUNS * BLOCKS
    runs = np.repeat(np.arange(RUNS), BLOCKS)
    times = np.arange(n) * 1.0
    values = 1e6 * np.exp(rng.normal(0, noise, n) + rng.normal(0, run_effect, RUNS)[runs])
    values *= 1 + ramp * times / times[-1]
    values[int(n * 0.4) :] *= 1 + step
    return drift.analyse(list(times), list(values), list(runs))


def test_theil_sen_is_exact_on_a_line_and_ignores_an_outlier() -> None:
    times = np.arange(20.0)
    values = 3.0 + 0.5 * times
    assert drift.theil_sen(times, values) == pytest.approx(0.5)
    values[7] = 1e6
    assert drift.theil_sen(times, values) == pytest.approx(0.5)
    assert drift.theil_sen([1.0, 1.0], [2.0, 3.0]) == 0.0


def test_mann_kendall_against_a_published_case() -> None:
    # Gilbert (1987), Statistical Methods for Environmental Pollution Monitoring, section 16.4: S = 10 for n = 5
    # strictly rising values; variance n(n-1)(2n+5)/18.
    s, variance = drift._kendall_s(np.arange(5.0))
    assert (s, variance) == (10.0, pytest.approx(5 * 4 * 15 / 18))
    assert drift.mann_kendall(np.arange(12.0)) < 1e-5
    assert drift.mann_kendall([1.0, 1.0, 1.0, 1.0, 1.0]) == 1.0
    assert drift.mann_kendall([1.0, 2.0]) == 1.0


def test_pettitt_finds_the_place() -> None:
    values = np.r_[np.full(30, 1.0), np.full(30, 1.2)] + np.random.default_rng(1).normal(0, 0.01, 60)
    index, p = drift.pettitt(values)
    assert index == 30
    assert p < 1e-6


@given(st.lists(st.floats(1.0, 1e9), min_size=4, max_size=60))
@settings(max_examples=100, deadline=None)
def test_probabilities_are_probabilities_and_reversal_keeps_them(values: list[float]) -> None:
    p = drift.mann_kendall(values)
    assert 0.0 <= p <= 1.0
    assert drift.mann_kendall(values[::-1]) == pytest.approx(p)
    index, p = drift.pettitt(values)
    assert 0.0 <= p <= 1.0
    assert 1 <= index < len(values)


def test_ramp_and_step_are_measured_with_their_sign() -> None:
    rng = np.random.default_rng(4)
    ramp = series(rng, ramp=0.10, run_effect=0.0)
    assert ramp.trend is not None
    assert ramp.trend.flagged
    assert ramp.trend.change == pytest.approx(0.10, abs=0.02)
    step = series(rng, step=-0.10, run_effect=0.0)
    assert step.step is not None
    assert step.step.flagged
    assert step.step.change == pytest.approx(-0.10, abs=0.01)
    assert step.step.index == 48


def test_a_change_too_small_to_matter_is_not_flagged() -> None:
    found = series(np.random.default_rng(5), ramp=0.01, noise=0.0005, run_effect=0.0)
    assert found.trend is not None
    assert found.trend.p_value < 0.01
    assert not found.flagged


def test_what_comes_back_in_every_run_is_told_as_such() -> None:
    """A saw-tooth: every run begins slow and ends fast; over the session nothing changes."""
    rng = np.random.default_rng(6)
    runs = np.repeat(np.arange(6), 10)
    within = np.tile(np.linspace(1.1, 1.0, 10), 6)
    values = 1e6 * within * np.exp(rng.normal(0, 0.003, 60)) * np.exp(rng.normal(0, 0.02, 6))[runs]
    found = drift.analyse(list(np.arange(60.0)), list(values), list(runs)).trend
    assert found is not None
    assert (found.flagged, found.within_runs) == (True, True)
    assert found.change == pytest.approx(-0.095, abs=0.015)


def test_burst_and_sustained() -> None:
    times = np.arange(0, 120.0)
    values = np.where(times < 60, 1.0, 2.0)
    assert drift.burst_and_sustained(times, values) == (1.0, 2.0)
    assert drift.burst_and_sustained(times[:40], values[:40]) == (None, None)
    assert drift.burst_and_sustained([], []) == (None, None)


def test_short_series_and_wrong_lengths() -> None:
    assert not drift.analyse([0.0, 1.0], [1.0, 2.0], [0, 0]).flagged
    with pytest.raises(ValueError, match="lengths differ"):
        drift.analyse([0.0], [1.0, 2.0], [0, 0])


@pytest.mark.stats
@pytest.mark.parametrize(("run_effect", "allowed"), [(0.0, 0.05), (0.01, 0.05), (0.03, 0.05)])
def test_false_alarms_stay_rare(run_effect: float, allowed: float) -> None:
    rng = np.random.default_rng(31)
    alarms = sum(series(rng, run_effect=run_effect).flagged for _ in range(300))
    assert alarms / 300 <= allowed


@pytest.mark.stats
@pytest.mark.parametrize("change", [{"ramp": 0.05}, {"step": 0.10}])
def test_real_changes_are_found(change: dict[str, float]) -> None:
    rng = np.random.default_rng(32)
    found = sum(series(rng, run_effect=0.005, **change).flagged for _ in range(200))
    assert found / 200 >= 0.95


def _together(change: np.ndarray, *, alone: bool, seed: int = 9) -> drift.Drift:
    """Three variants on a machine that differs by 3 % from run to run; the first drifts alone, or all do."""
    rng = np.random.default_rng(seed)
    runs = np.repeat(np.arange(RUNS), BLOCKS)
    machine = np.exp(rng.normal(0, 0.03, RUNS)[runs])
    rows = [1e6 * machine * np.exp(rng.normal(0, 0.005, runs.size)) for _ in range(3)]
    rows = [row * change if index == 0 or not alone else row for index, row in enumerate(rows)]
    return drift.analyse(list(np.arange(runs.size) * 1.0), list(rows[0]), list(runs), [list(row) for row in rows[1:]])


def test_a_drift_of_one_variant_is_found_under_the_machines_noise() -> None:
    found = _together(np.linspace(1.0, 1.05, RUNS * BLOCKS), alone=True)
    assert found.flagged
    assert found.shared is False
    assert found.trend is not None
    assert found.trend.change == pytest.approx(0.05, abs=0.01)


def test_what_all_variants_share_is_the_devices() -> None:
    step = np.where(np.arange(RUNS * BLOCKS) < 60, 1.0, 1.5)
    found = _together(step, alone=False)
    assert found.flagged
    assert found.shared is True
    assert not _together(np.ones(RUNS * BLOCKS), alone=True).flagged


def test_the_other_of_two_is_not_blamed() -> None:
    rng = np.random.default_rng(10)
    runs, times = np.repeat(np.arange(RUNS), BLOCKS), np.arange(RUNS * BLOCKS) * 1.0
    steady, rising = (1e6 * np.exp(rng.normal(0, 0.005, runs.size)) for _ in range(2))
    rising = rising * np.linspace(1.0, 1.08, runs.size)
    assert drift.analyse(list(times), list(rising), list(runs), [list(steady)]).shared is False
    assert not drift.analyse(list(times), list(steady), list(runs), [list(rising)]).flagged


def test_a_warm_up_that_has_not_ended_shows_by_its_end() -> None:
    rng = np.random.default_rng(11)
    runs = np.repeat(np.arange(6), 10)
    values = 1e6 * np.tile(np.linspace(1.009, 1.0, 10), 6) * np.exp(rng.normal(0, 0.001, 60))
    found = drift.analyse(list(np.arange(60.0)), list(values), list(runs)).trend
    assert found is not None
    assert (found.flagged, found.within_runs) == (True, True)
    # The other way round, 0.9 % is too little to matter.
    assert not drift.analyse(list(np.arange(60.0)), list(values[::-1]), list(runs)).flagged
