"""Order statistics against the binomial they come from, against scipy, and against their own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats import distributions, quantiles

FINITE = st.floats(1.0, 1e9, allow_nan=False)


@pytest.mark.stats
def test_distributions_agree_with_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for n in (1, 2, 7, 64, 368, 5000, 100_000):
        for p in (0.01, 0.1, 0.5, 0.9, 0.99):
            for k in {0, 1, n // 10, n // 2, n - 1, round(n * p)}:
                expected = scipy.binom.cdf(k, n, p)
                assert distributions.binomial_cdf(k, n, p) == pytest.approx(expected, rel=1e-7, abs=1e-12)
    for df in (1, 2, 5, 11.3, 200):
        for t in (-40.0, -2.0, 0.0, 0.3, 2.571, 12.7):
            assert distributions.t_cdf(t, df) == pytest.approx(scipy.t.cdf(t, df), rel=1e-9, abs=1e-14)
        for p in (0.001, 0.3, 0.5, 0.975, 0.9999):
            assert distributions.t_quantile(p, df) == pytest.approx(scipy.t.ppf(p, df), rel=1e-9, abs=1e-12)


def test_t_quantile_refuses_impossible_probabilities() -> None:
    with pytest.raises(ValueError, match="not between"):
        distributions.t_quantile(1.0, 3)


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_minimum_n_is_where_the_interval_begins(q: float, n: int) -> None:
    assert quantiles.minimum_n(q) == n
    assert quantiles.interval_ranks(n - 1, q) is None
    assert quantiles.interval_ranks(n, q) is not None
    below = quantiles.percentile(range(1, n), q)
    assert (below.value, below.low, below.high) == (None, None, None)
    assert below.reason is not None
    assert below.reason.startswith(f"n/a (n={n - 1})")
    assert quantiles.percentile(range(1, n + 1), q).value is not None


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=100, deadline=None)
def test_ranks_keep_both_tails_and_could_not_be_closer(n: int, q: float) -> None:
    ranks = quantiles.interval_ranks(n, q)
    if ranks is None:
        assert n < quantiles.minimum_n(q)
        return
    low, high = ranks
    assert 1 <= low <= quantiles.nearest_rank(n, q) <= high <= n
    cdf = distributions.binomial_cdf
    assert cdf(low - 1, n, q) <= 0.025 < cdf(low, n, q)
    assert 1 - cdf(high - 1, n, q) <= 0.025
    assert high == 1 or 1 - cdf(high - 2, n, q) > 0.025


@given(st.lists(FINITE, min_size=1, max_size=400), st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=80, deadline=None)
def test_percentile_is_a_sample_with_the_share_below(values: list[float], q: float) -> None:
    estimate = quantiles.percentile(values, q)
    if estimate.value is None:
        assert len(values) < quantiles.minimum_n(q)
        return
    assert estimate.value in values
    array = np.asarray(values)
    assert (array <= estimate.value).mean() >= q - 1e-9
    assert (array < estimate.value).mean() < q
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= estimate.value <= estimate.high


@given(st.lists(FINITE, min_size=1, max_size=40), st.randoms())
@settings(max_examples=100, deadline=None)
def test_median_ignores_order_and_lies_in_its_interval(values: list[float], random: object) -> None:
    estimate = quantiles.median(values)
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert quantiles.median(shuffled) == estimate
    assert (estimate.low is None) == (len(values) < 6)
    if estimate.low is not None and estimate.high is not None and estimate.value is not None:
        assert estimate.low <= estimate.value <= estimate.high


def test_median_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantiles.median([])


def test_pooled_percentile_equals_the_plain_one_and_is_reproducible() -> None:
    rng = np.random.default_rng(3)
    runs = [rng.lognormal(0, 0.1, 80) * factor for factor in (1, 1.02, 0.99, 1.05, 1.0, 1.01)]
    first, again = (quantiles.pooled_percentile(runs, 0.9, seed=7) for _ in range(2))
    assert first == again
    assert first.value == quantiles.percentile(np.concatenate(runs), 0.9).value
    assert first.low is not None
    assert first.high is not None
    assert first.low <= first.value <= first.high
    few = quantiles.pooled_percentile(runs[:5], 0.9, seed=7)
    assert (few.low, few.high) == (None, None)
    assert few.value is not None
    assert few.reason is not None
    assert "n=5" in few.reason
    assert quantiles.pooled_percentile([[1.0] * 5] * 7, 0.9, seed=7).value is None


@pytest.mark.parametrize("rounded", [None, 1, 6])
def test_bootstrap_resamples_whole_runs_exactly(rounded: int | None) -> None:
    rng = np.random.default_rng(5)
    # Some large enough for the first, coarse search, some with ties.
    sizes = (40, 17, 60, 33, 50, 21) if rounded is None else (9000, 4000, 9000, 7000, 50, 8000)
    runs = [rng.normal(100, 5, size).round(9 if rounded is None else rounded) for size in sizes]
    got = quantiles._bootstrap(quantiles.tails(runs, 0.9), 0.9, seed=11, resamples=60)
    draws = np.random.default_rng(11).multinomial(6, np.full(6, 1 / 6), size=60)
    for estimate, counts in zip(got, draws, strict=True):
        drawn = np.sort(np.concatenate([np.tile(run, c) for run, c in zip(runs, counts, strict=True)]))
        assert estimate == drawn[quantiles.nearest_rank(drawn.size, 0.9) - 1]


def test_what_is_not_among_the_slow_ends_is_not_told() -> None:
    ends = quantiles.tails([range(100), range(50, 150)], 0.9)
    assert (ends.n, ends.least, ends.at(200)) == (200, 0.0, 149.0)
    with pytest.raises(ValueError, match="rank 1 of 200"):
        ends.at(1)
    assert quantiles.pooled_percentile([], 0.9, seed=1).n == 0


def test_early_stopping_begins_where_mlperf_says() -> None:
    assert quantiles.early_stopping_rank(63, 0.9) is None
    assert quantiles.early_stopping_rank(64, 0.9) == 1
    assert quantiles.early_stopping_rank(661, 0.99) is None
    assert quantiles.early_stopping_rank(662, 0.99) == 1
    assert quantiles.early_stopping_estimate(range(1, 65), 0.9) == 64
    assert quantiles.early_stopping_estimate(range(1, 64), 0.9) is None


@given(st.integers(1, 5000), st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=80, deadline=None)
def test_early_stopping_rank_is_the_largest_that_passes(n: int, q: float) -> None:
    rank = quantiles.early_stopping_rank(n, q)

    def passes(t: int) -> bool:
        terms = (
            math.exp(
                math.lgamma(n + 1)
                - math.lgamma(k + 1)
                - math.lgamma(n - k + 1)
                + k * math.log(1 - q)
                + (n - k) * math.log(q)
            )
            for k in range(t + 1)
        )
        return math.fsum(terms) < 0.01

    if rank is None:
        assert n < 2 or not passes(1)
    else:
        assert passes(rank)
        assert not passes(rank + 1)


def _coverage(draw: object, truth: float, trials: int, n: int) -> float:
    held = 0
    for _ in range(trials):
        estimate = quantiles.median(draw(n))  # type: ignore[operator]
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= truth <= estimate.high
    return held / trials


@pytest.mark.stats
@pytest.mark.parametrize("name", ["normal", "lognormal", "bimodal", "run effect"])
def test_median_interval_over_runs_covers(name: str) -> None:
    rng = np.random.default_rng(17)

    def run_medians(n: int) -> np.ndarray:
        shape = (n, 50)
        if name == "normal":
            return np.median(rng.normal(1, 0.05, shape), axis=1)
        if name == "lognormal":
            return np.median(rng.lognormal(0, 0.2, shape), axis=1)
        if name == "bimodal":
            # A device that is, in each run, in one of two states; the median run lies between them.
            return np.median(rng.normal(1, 0.02, shape), axis=1) + rng.choice([-0.1, 0.1], n) * rng.random(n)
        return np.median(rng.normal(1, 0.02, shape), axis=1) * np.exp(rng.normal(0, 0.03, n))

    truth = 1.0
    for n in (6, 12, 20):
        assert _coverage(run_medians, truth, 1000, n) >= 0.93


@pytest.mark.stats
def test_one_runs_samples_would_not_cover() -> None:
    """The control: the same interval over the samples of one run misses the truth, so the run is the unit."""
    rng = np.random.default_rng(18)

    def one_run(n: int) -> np.ndarray:
        return rng.normal(1, 0.02, n * 50) * math.exp(rng.normal(0, 0.03))

    assert _coverage(one_run, 1.0, 400, 6) < 0.5


@pytest.mark.stats
@pytest.mark.parametrize(("n", "least"), [(6, 0.87), (12, 0.90), (20, 0.90)])
def test_pooled_p90_interval_covers(n: int, least: float) -> None:
    """A bootstrap of few runs is a little narrow; docs/result-schema.md says by how much."""
    rng = np.random.default_rng(19)
    # log latency = run effect + sample noise, both normal: the pooled p90 is known.
    run_sd, sample_sd = 0.02, 0.05
    truth = math.exp(1.2815515655446004 * math.hypot(run_sd, sample_sd))
    held = 0
    for trial in range(300):
        runs = [np.exp(rng.normal(rng.normal(0, run_sd), sample_sd, 60)) for _ in range(n)]
        estimate = quantiles.pooled_percentile(runs, 0.9, seed=trial, resamples=400)
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= truth <= estimate.high
    assert held / 300 >= least
