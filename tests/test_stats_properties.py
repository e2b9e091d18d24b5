"""Property tests of distributions, quantiles, comparisons, looks, stopping and shares: see stats_held.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st
from stats_held import SEEDS, held, numbers

from harness.stats import compare, distributions, looks, prediction, proportions, quantiles, stopping

scipy_stats = pytest.importorskip("scipy.stats")
scipy_special = pytest.importorskip("scipy.special")
QS = st.sampled_from([0.5, 0.9, 0.95, 0.99])
P = st.floats(0.001, 0.999)


@held(
    "distributions.regularized_beta",
    "`scipy.special.betainc`",
    a=st.floats(0.5, 5000),
    b=st.floats(0.5, 5000),
    x=st.floats(-0.2, 1.2),
)
def test_regularized_beta(a: float, b: float, x: float) -> None:
    expected = scipy_special.betainc(a, b, min(max(x, 0.0), 1.0))
    assert distributions.regularized_beta(a, b, x) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@held("distributions.binomial_cdf", "`scipy.special.bdtr`", n=st.integers(1, 20_000), share=st.floats(-0.01, 1.01), p=P)
def test_binomial_cdf(n: int, share: float, p: float) -> None:
    k = math.floor(n * share)
    expected = 0.0 if k < 0 else 1.0 if k >= n else scipy_special.bdtr(k, n, p)
    assert distributions.binomial_cdf(k, n, p) == pytest.approx(expected, rel=1e-7, abs=1e-12)


@held("distributions.t_cdf", "`scipy.special.stdtr`", t=st.floats(-200, 200), df=st.floats(1, 500))
def test_t_cdf(t: float, df: float) -> None:
    assert distributions.t_cdf(t, df) == pytest.approx(scipy_special.stdtr(df, t), rel=1e-8, abs=1e-13)


@held("distributions.t_quantile", "`scipy.special.stdtrit`", p=P, df=st.floats(1, 500))
def test_t_quantile(p: float, df: float) -> None:
    assert distributions.t_quantile(p, df) == pytest.approx(scipy_special.stdtrit(df, p), rel=1e-6, abs=1e-9)


@held("quantiles.minimum_n", "counting up from one until both tails of the binomial allow it", q=st.floats(0.02, 0.995))
def test_minimum_n(q: float) -> None:
    n = quantiles.minimum_n(q)
    assert max(q, 1 - q) ** n <= 0.025 * (1 + 1e-9)
    assert n == 1 or max(q, 1 - q) ** (n - 1) > 0.025 * (1 - 1e-9)


@held(
    "quantiles.nearest_rank",
    "counting through the ranks (whole thousandths, exact)",
    n=st.integers(1, 3000),
    thousandths=st.integers(1, 999),
)
def test_nearest_rank(n: int, thousandths: int) -> None:
    assert quantiles.nearest_rank(n, thousandths / 1000) == -(-n * thousandths // 1000)


@held("quantiles.interval_ranks", "a search through all ranks with `scipy.special.bdtr`", n=st.integers(1, 800), q=QS)
def test_interval_ranks(n: int, q: float) -> None:
    cdf = scipy_special.bdtr(np.arange(n), n, q)  # P(B ≤ k), k = 0 … n-1
    lows = [rank for rank in range(1, n + 1) if cdf[rank - 1] <= 0.025]
    highs = [rank for rank in range(1, n + 1) if 1 - cdf[rank - 1] <= 0.025]
    expected = (max(lows), min(highs)) if lows and highs else None
    assert quantiles.interval_ranks(n, q) == expected


@held(
    "quantiles.median",
    "`numpy.median` and sorted values at ranks of `scipy.stats.binom`",
    seed=SEEDS,
    n=st.integers(1, 60),
)
def test_median(seed: int, n: int) -> None:
    values = numbers(seed, n)
    got, ordered = quantiles.median(values), np.sort(values)
    assert got.value == np.median(values)
    if n < 6:
        assert (got.low, got.high, got.reason is None) == (None, None, False)
        return
    below = int((scipy_special.bdtr(np.arange(n), n, 0.5) <= 0.025).sum())
    assert (got.low, got.high) == (ordered[below - 1], ordered[n - below])


@held("quantiles.percentile", "its definition, and NA below the minimum n", seed=SEEDS, n=st.integers(1, 900), q=QS)
def test_percentile(seed: int, n: int, q: float) -> None:
    values = numbers(seed, n)
    got = quantiles.percentile(values, q)
    if n < {0.5: 6, 0.9: 36, 0.95: 72, 0.99: 368}[q]:
        assert (got.value, got.low, got.high) == (None, None, None)
        assert got.reason is not None
        assert got.reason.startswith(f"n/a (n={n})")
        return
    assert got.value == np.quantile(values, q, method="inverted_cdf")
    assert got.low is not None
    assert got.high is not None
    assert got.low <= got.value <= got.high


@held(
    "quantiles.pooled_percentile",
    "a bootstrap that really makes and sorts every resample, and its expanded and Student intervals by scipy",
    seed=SEEDS,
    runs=st.integers(1, 9),
    size=st.integers(1, 40),
    q=st.sampled_from([0.5, 0.9]),
)
def test_pooled_percentile(seed: int, runs: int, size: int, q: float) -> None:
    samples = [numbers(seed + number, size + number) for number in range(runs)]
    n = sum(sample.size for sample in samples)
    got = quantiles.pooled_percentile(samples, q, seed=5, resamples=20)
    if n < {0.5: 6, 0.9: 36}[q]:
        assert (got.value, got.low) == (None, None)
        return
    assert got.value == np.quantile(np.concatenate(samples), q, method="inverted_cdf")
    if runs < 6:
        assert (got.low, got.high) == (None, None)
        return
    draws = np.random.default_rng(5).multinomial(runs, np.full(runs, 1 / runs), size=20)
    made = [np.concatenate([np.tile(s, c) for s, c in zip(samples, counts, strict=True)]) for counts in draws]
    estimates = [np.sort(m)[quantiles.nearest_rank(m.size, q) - 1] for m in made]
    t = scipy_stats.t.ppf(0.975, runs - 1)
    alpha = scipy_stats.norm.cdf(-math.sqrt(runs / (runs - 1)) * t)
    half = t * np.std(estimates, ddof=1) * math.sqrt(runs / (runs - 1))
    low = min(np.quantile(estimates, alpha, method="nearest"), got.value - half)
    high = max(np.quantile(estimates, 1 - alpha, method="nearest"), got.value + half)
    assert (got.low, got.high) == pytest.approx((max(low, min(map(np.min, samples))), high), rel=1e-7)


@held(
    "quantiles.tails",
    "sorting everything: every rank from the quantile on, each run's own quantiles, the least",
    seed=SEEDS,
    runs=st.integers(1, 9),
    size=st.integers(1, 60),
    q=st.sampled_from([0.1, 0.5, 0.9, 0.99]),
)
def test_tails(seed: int, runs: int, size: int, q: float) -> None:
    samples = [numbers(seed + number, 1 + (seed + size * number) % 60) for number in range(runs)]
    if seed % 2:
        samples = [np.round(sample).astype(np.int64) for sample in samples]
    ends = quantiles.tails(samples, q)
    ordered = np.sort(np.concatenate(samples))
    assert ends.n == ordered.size
    assert ends.least == ordered[0]
    for higher in (q, (1.0 + q) / 2.0):
        ranks = range(quantiles.nearest_rank(ends.n, higher), ends.n + 1)
        assert [ends.at(rank) for rank in ranks] == ordered[[rank - 1 for rank in ranks]].tolist()
        assert ends.own(higher) == [np.sort(s)[quantiles.nearest_rank(s.size, higher) - 1] for s in samples]
        estimate = quantiles.early_stopping_estimate(ends, higher)
        assert estimate == quantiles.early_stopping_estimate(ordered, higher)


@held("quantiles.early_stopping_rank", "counting down from n with `scipy.special.bdtr`", n=st.integers(1, 5000), q=QS)
def test_early_stopping_rank(n: int, q: float) -> None:
    passing = np.flatnonzero(scipy_special.bdtr(np.arange(n + 1), n, 1 - q) < 0.01)
    expected = int(passing[-1]) if passing.size and passing[-1] >= 1 else None
    assert quantiles.early_stopping_rank(n, q) == expected


@held(
    "quantiles.early_stopping_estimate",
    "the sorted samples at that rank; `mlcommons-loadgen` (G10)",
    seed=SEEDS,
    n=st.integers(1, 1500),
)
def test_early_stopping_estimate(seed: int, n: int) -> None:
    values = numbers(seed, n)
    passing = np.flatnonzero(scipy_special.bdtr(np.arange(n + 1), n, 0.1) < 0.01)
    expected = np.sort(values)[n - passing[-1]] if n >= 64 else None
    assert quantiles.early_stopping_estimate(values, 0.9) == expected


@held("compare.run_log_ratio", "a loop over the blocks", seed=SEEDS, n=st.integers(1, 30))
def test_run_log_ratio(seed: int, n: int) -> None:
    a, b = numbers(seed, n), numbers(seed // 7, n)
    logs = sorted(math.log(x) - math.log(y) for x, y in zip(a, b, strict=True))
    middle = (logs[(n - 1) // 2] + logs[n // 2]) / 2
    assert compare.run_log_ratio(a, b) == pytest.approx(middle, abs=1e-9)


def _claims(low: float, high: float) -> set[str]:
    """What the rule allows to say of an interval: beyond 1 % either way, inside 2 %, or nothing."""
    found = {"slower"} if low > 1.01 else {"faster"} if high < 1 / 1.01 else set()
    return found | ({"equivalent"} if low > 1 / 1.02 and high < 1.02 else set()) or {"inconclusive"}


def _check(found: compare.Comparison, low: float, high: float) -> None:
    assert found.low == pytest.approx(math.exp(low), rel=1e-6)
    assert found.high == pytest.approx(math.exp(high), rel=1e-6)
    edges = [abs(math.exp(x) - bound) for x in (low, high) for bound in (1.01, 1 / 1.01, 1.02, 1 / 1.02)]
    if min(edges) > 1e-9:
        assert found.verdict in _claims(math.exp(low), math.exp(high))


@held("compare.paired", "`scipy.stats.t.interval` and the verdict's rule on it", seed=SEEDS, n=st.integers(1, 24))
def test_paired(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    ratios = rng.normal(rng.normal(0, 0.02), 10 ** rng.uniform(-4, -1.5), n)
    found = compare.paired(list(ratios))
    if n < compare.MINIMUM_RUNS:
        assert (found.low, found.verdict) == (None, "inconclusive")
        return
    half = scipy_special.stdtrit(n - 1, 0.975) * ratios.std(ddof=1) / math.sqrt(n)
    _check(found, ratios.mean() - half, ratios.mean() + half)


@held(
    "compare.unpaired",
    "Welch's interval of `scipy.stats.ttest_ind`",
    seed=SEEDS,
    n=st.integers(3, 14),
    m=st.integers(3, 14),
)
def test_unpaired(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    spreads = 10 ** rng.uniform(-4, -1.5, 2)
    a, b = rng.normal(rng.normal(0, 0.02), spreads[0], n), rng.normal(0, spreads[1], m)
    interval = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    _check(compare.unpaired(list(np.exp(a)), list(np.exp(b))), interval.low, interval.high)


@held(
    "compare.holm",
    "the definition: each p times the count left, made monotone, taken one by one",
    seed=SEEDS,
    n=st.integers(1, 25),
)
def test_holm(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    ps = [None if rng.random() < 0.1 else float(10 ** rng.uniform(-5, 0)) for _ in range(n)]
    before = [
        compare.Comparison(1.1, 1.0, 1.2, 6, p, p, "slower" if p is not None and p < 0.05 else "inconclusive")
        for p in ps
    ]
    after = compare.holm(before)
    known = [p for p in ps if p is not None]
    for p, old, new in zip(ps, before, after, strict=True):
        if p is None:
            assert new == old
            continue
        smaller = [q for q in known if q <= p]
        expected = max(min(1.0, q * sum(other >= q for other in known)) for q in smaller)
        assert new.p_adjusted == pytest.approx(expected)
        assert new.verdict == (old.verdict if expected < 0.05 else "inconclusive")


@held("compare.geometric_mean", "`scipy.stats.gmean` and `paired`", seed=SEEDS, n=st.integers(1, 12))
def test_geometric_mean(seed: int, n: int) -> None:
    ratios = np.exp(np.random.default_rng(seed).normal(0, 0.1, n))
    found = compare.geometric_mean(list(ratios))
    if n < 5:
        assert (found.ratio, found.verdict) == (None, "inconclusive")
        return
    assert found.ratio == pytest.approx(scipy_stats.gmean(ratios))
    assert found == compare.paired([math.log(ratio) for ratio in ratios])


@held(
    "looks.adjusted",
    "the bound of its docstring, with `scipy.stats.norm`",
    p=st.floats(1e-12, 1),
    first=st.integers(1, 50),
    more=st.integers(0, 90),
)
def test_adjusted(p: float, first: int, more: int) -> None:
    small = min(p, 0.1)
    z, span = scipy_special.ndtri(1 - small / 2), math.log((first + more) / first)
    rate = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z - 1 / z) / small
    expected = min(1.0, p * min(more + 1, 1 + span * rate + 0.2 * math.log2(first) * math.sqrt(span)))
    assert looks.adjusted(p, looks.Looks(first, first + more)) == pytest.approx(expected, rel=1e-4)


@held(
    "looks.nominal_level",
    "`adjusted`, whose inverse it is",
    alpha=st.floats(1e-4, 0.2),
    first=st.integers(2, 50),
    more=st.integers(0, 90),
)
def test_nominal_level(alpha: float, first: int, more: int) -> None:
    plan = looks.Looks(first, first + more)
    level = looks.nominal_level(alpha, plan)
    assert 0 < level <= alpha
    assert looks.adjusted(level, plan) == pytest.approx(alpha, rel=1e-6)


@held("stopping.relative_half_width", "the interval of the median over runs", seed=SEEDS, n=st.integers(0, 40))
def test_relative_half_width(seed: int, n: int) -> None:
    values = numbers(seed, n)
    got = stopping.relative_half_width(list(values))
    if n < 6:
        assert got is None
        return
    below = int((scipy_special.bdtr(np.arange(n), n, 0.5) <= 0.025).sum())
    ordered = np.sort(values)
    assert got == pytest.approx((ordered[n - below] - ordered[below - 1]) / 2 / np.median(values))


@held(
    "stopping.stand",
    "the three sentences of its module's docstring",
    seed=SEEDS,
    n=st.integers(0, 16),
    stop_on=st.sampled_from(["estimate", "verdict", "both"]),
    compared=st.booleans(),
)
def test_stand(seed: int, n: int, stop_on: str, compared: bool) -> None:
    rng = np.random.default_rng(seed)
    times = 100 * np.exp(rng.normal(0, 10 ** rng.uniform(-3, -1), n))
    rule = stopping.StoppingRule(6, 12, 0.03, stop_on)  # type: ignore[arg-type]
    ratios = list(rng.normal(rng.normal(0, 0.05), 0.01, n))
    comparison = compare.paired(ratios, rule.looks) if compared else None
    got = stopping.stand(rule, list(times), comparison)
    width = stopping.relative_half_width(list(times))
    narrow = width is not None and width <= 0.03
    decided = comparison is not None and comparison.verdict != "inconclusive"
    wanted = {"estimate": narrow, "verdict": decided, "both": narrow and decided}[stop_on] if compared else narrow
    assert got.settled == (wanted and n >= 6)
    assert got.done == (got.settled or n >= 12)
    assert (got.further == 0) == got.settled
    assert got.half_width == width


@held(
    "proportions.wilson",
    "`scipy.stats.binomtest(…).proportion_ci('wilson')`",
    n=st.integers(1, 5000),
    share=st.floats(0, 1),
)
def test_wilson(n: int, share: float) -> None:
    k = round(n * share)
    expected = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
    assert proportions.wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@held(
    "proportions.paired_difference",
    "Newcombe's method 10 written from its table of four counts",
    seed=SEEDS,
    n=st.integers(1, 200),
)
def test_paired_difference(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.random(n) < rng.random()
    second = np.where(rng.random(n) < rng.random(), first, rng.random(n) < rng.random())
    e, f, g, h = (int(np.sum(x)) for x in (first & second, first & ~second, ~first & second, ~first & ~second))
    (l1, u1), (l2, u2) = proportions.wilson(e + f, n), proportions.wilson(e + g, n)
    p1, p2 = (e + f) / n, (e + g) / n
    product = (e + f) * (g + h) * (e + g) * (f + h)
    top = e * h - f * g
    phi = 0.0 if product == 0 else (max(top - n / 2, 0) if top > 0 else top) / math.sqrt(product)
    low = p1 - p2 - math.sqrt(max(0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    high = p1 - p2 + math.sqrt(max(0, (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2))
    got = proportions.paired_difference(first, second)
    assert (got.value, got.low, got.high) == pytest.approx((p1 - p2, low, high), abs=1e-9)


@held("proportions.top_k_right", "a loop over the rows", seed=SEEDS, n=st.integers(1, 40), k=st.integers(1, 5))
def test_top_k_right(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    top, labels = np.argsort(rng.random((n, 6)), axis=1)[:, :5].astype(np.int32), rng.integers(0, 6, n)
    expected = [label in list(row[:k]) for row, label in zip(top, labels, strict=True)]
    assert proportions.top_k_right(top, labels, k).tolist() == expected


@held("proportions.macro_f1", "precision and recall of each class, by counting", seed=SEEDS, n=st.integers(1, 60))
def test_macro_f1(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels, said = rng.integers(0, 5, n), rng.integers(0, 5, n)
    scores = []
    for one in sorted({*labels.tolist(), *said.tolist()}):
        hit = sum(a == b == one for a, b in zip(labels, said, strict=True))
        precision = hit / max(1, (said == one).sum())
        recall = hit / max(1, (labels == one).sum())
        scores.append(0.0 if hit == 0 else 2 * precision * recall / (precision + recall))
    assert proportions.macro_f1(said, labels) == pytest.approx(sum(scores) / len(scores))


@held("proportions.agreement", "counting", seed=SEEDS, n=st.integers(1, 60))
def test_agreement(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = rng.integers(0, 3, n), rng.integers(0, 3, n)
    assert proportions.agreement(one, two) == pytest.approx(sum(a == b for a, b in zip(one, two, strict=True)) / n)


@held("proportions.errors", "a loop over the elements in exact sums", seed=SEEDS, n=st.integers(1, 60))
def test_errors(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, labels = rng.normal(0, 100, (n, 1)), rng.normal(0, 100, n)
    parts = [float(a) - float(b) for a, b in zip(outputs.ravel(), labels, strict=True)]
    mae, rmse = math.fsum(map(abs, parts)) / n, math.sqrt(math.fsum(x * x for x in parts) / n)
    assert proportions.errors(outputs, labels) == pytest.approx((mae, rmse))


@held(
    "prediction.predicted_median",
    "see test_stats_prediction.py (coverage); here: only from enough runs, in order, and scaling with its values",
    seed=SEEDS,
    n=st.integers(0, 24),
    future=st.integers(1, 24),
)
def test_predicted_median(seed: int, n: int, future: int) -> None:
    values = list(numbers(seed, n))
    got = prediction.predicted_median(values, future)
    if got is None:
        return
    twice = prediction.predicted_median([2 * value for value in values], future)
    assert twice is not None
    assert got.low <= got.high
    assert (twice.low, twice.high) == pytest.approx((2 * got.low, 2 * got.high))
