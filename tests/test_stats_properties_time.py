"""Property tests of what looks at time: drift, throttling, contention, operators' times, and the grade: see stats_held.py."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import strategies as st
from stats_held import SEEDS, held, numbers

from harness.stats import attribution, contention, drift, grade, throttle

scipy_stats = pytest.importorskip("scipy.stats")


def _s_and_ties(values: np.ndarray) -> tuple[int, float]:
    s = sum(int(np.sign(b - a)) for a, b in itertools.combinations(values, 2))
    n = len(values)
    ties = sum(c * (c - 1) * (2 * c + 5) for c in np.unique(values, return_counts=True)[1])
    return s, (n * (n - 1) * (2 * n + 5) - ties) / 18


@held(
    "drift.mann_kendall",
    "S by counting all pairs, Kendall's variance with ties, `scipy.stats.norm`",
    seed=SEEDS,
    n=st.integers(1, 25),
)
def test_mann_kendall(seed: int, n: int) -> None:
    values = numbers(seed, n)
    s, variance = _s_and_ties(values)
    expected = 1.0
    if n >= 4 and s and variance > 0:
        expected = 2 * scipy_stats.norm.sf((abs(s) - 1) / math.sqrt(variance))
    assert drift.mann_kendall(values) == pytest.approx(expected, abs=1e-9)


@held("drift.theil_sen", "`scipy.stats.theilslopes`", seed=SEEDS, n=st.integers(2, 30))
def test_theil_sen(seed: int, n: int) -> None:
    values = numbers(seed, n)
    times = np.cumsum(np.random.default_rng(seed).uniform(0.1, 2.0, n))
    assert drift.theil_sen(times, values) == pytest.approx(
        scipy_stats.theilslopes(values, times).slope, rel=1e-9, abs=1e-12
    )


@held("drift.pettitt", "U by counting pairs on both sides of every place", seed=SEEDS, n=st.integers(1, 24))
def test_pettitt(seed: int, n: int) -> None:
    values = numbers(seed, n)
    index, p = drift.pettitt(values)
    if n < 4:
        assert (index, p) == (0, 1.0)
        return
    u = [abs(np.sign(values[:t, None] - values[None, t:]).sum()) for t in range(1, n)]
    assert index == int(np.argmax(u)) + 1
    assert p == pytest.approx(min(1.0, 2 * math.exp(-6 * max(u) ** 2 / (n**3 + n**2))))


@held(
    "drift.run_order_test",
    "all orders of whole runs, by hand; from eight runs the variance over random orders",
    seed=SEEDS,
    runs=st.integers(1, 5),
    blocks=st.integers(1, 5),
)
def test_run_order_test(seed: int, runs: int, blocks: int) -> None:
    values = numbers(seed, runs * blocks).reshape(runs, blocks)
    got = drift.run_order_test(values.ravel(), np.repeat(np.arange(runs) * 7, blocks))
    if runs < 4:
        assert got == 1.0
        return
    pair = {(i, j): np.sign(values[j][None, :] - values[i][:, None]).sum() for i in range(runs) for j in range(runs)}
    sums = [
        sum(pair[i, j] for i, j in itertools.combinations(order, 2)) for order in itertools.permutations(range(runs))
    ]
    assert got == pytest.approx(np.mean([abs(s) >= abs(sums[0]) for s in sums]))


@pytest.mark.stats
def test_run_order_variance_is_that_of_random_orders() -> None:
    rng = np.random.default_rng(8)
    values = rng.normal(0, 1, (9, 4)) + rng.normal(0, 1, (9, 1))
    d = np.array([[np.sign(b[None, :] - a[:, None]).sum() for b in values] for a in values])
    upper = np.triu_indices(9, 1)
    sums = [d[np.ix_(order, order)][upper].sum() for order in (rng.permutation(9) for _ in range(40_000))]
    p = drift.run_order_test(values.ravel(), np.repeat(np.arange(9), 4))
    assert p == pytest.approx(2 * scipy_stats.norm.sf((abs(d[upper].sum()) - 1) / np.std(sums)), rel=0.03)


@held(
    "drift.burst_and_sustained",
    "medians of the seconds before 30 s and of the last third, by a loop",
    seed=SEEDS,
    n=st.integers(0, 60),
    step=st.floats(0.1, 5),
)
def test_burst_and_sustained(seed: int, n: int, step: float) -> None:
    values, times = numbers(seed, n), np.arange(n) * step
    got = drift.burst_and_sustained(times, values)
    if n == 0 or times[-1] * 2 / 3 <= 30:
        assert got == (None, None)
        return
    early = [v for t, v in zip(times, values, strict=True) if t <= 30]
    late = [v for t, v in zip(times, values, strict=True) if t >= times[-1] * 2 / 3]
    assert got == (np.median(early), np.median(late))


@held("drift.common_change", "a loop over the blocks", seed=SEEDS, n=st.integers(2, 8), rows=st.integers(1, 3))
def test_common_change(seed: int, n: int, rows: int) -> None:
    others = np.array([numbers(seed + row, n) for row in range(rows)])
    others[np.random.default_rng(seed).random(others.shape) < 0.2] = math.nan
    others[:, 0] = 5.0
    got = drift.common_change(list(others))
    for block in range(n):
        known = [row[block] / np.nanmedian(row) for row in others if not math.isnan(row[block])]
        if known:
            assert got[block] == pytest.approx(math.exp(float(np.median(np.log(known)))))
        else:
            assert math.isnan(got[block])


@held(
    "drift.analyse",
    "its rules: p < 0.01 and > 2 % (trend; 0.5 % where each run falls anew) or > 3 % (step); scaling changes nothing; what all share is not one variant's own",
    seed=SEEDS,
    runs=st.integers(1, 6),
    blocks=st.integers(1, 4),
    beside=st.integers(0, 2),
)
def test_analyse(seed: int, runs: int, blocks: int, beside: int) -> None:
    rng = np.random.default_rng(seed)
    n = runs * blocks
    values = 1e6 * np.exp(rng.normal(0, 0.01, n)) * np.linspace(1, 1 + rng.choice([0.0, 0.05, 0.3]), n)
    owners, times = np.repeat(np.arange(runs), blocks), np.arange(n) * 1.0
    others = [list(3 * values) for _ in range(beside)]
    got = drift.analyse(list(times), list(values), list(owners), others)
    if n < 4:
        assert not got.flagged
        return
    assert got.trend is not None
    assert got.step is not None
    assert not got.trend.flagged or (
        got.trend.p_value < 0.01 and abs(got.trend.change) > (0.005 if got.trend.within_runs else 0.02)
    )
    assert not got.step.flagged or (got.step.p_value < 0.01 and abs(got.step.change) > 0.03)
    assert got.shared in ((True,) if got.flagged and beside else (None,))
    twice = drift.analyse(list(times), list(2 * values), list(owners), others)
    assert twice.flagged == got.flagged
    assert twice.trend is not None
    assert twice.trend.change == pytest.approx(got.trend.change, abs=1e-9)


@held("throttle.running_median", "a loop over windows of five", seed=SEEDS, n=st.integers(1, 60))
def test_running_median(seed: int, n: int) -> None:
    values = numbers(seed, n)
    padded = [values[0]] * 2 + list(values) + [values[-1]] * 2
    expected = [sorted(padded[i : i + 5])[2] for i in range(n)]
    assert throttle.running_median(values).tolist() == pytest.approx(expected)


@held(
    "throttle.cut",
    "the cost of every way to cut a short series (see also test_stats_throttle.py)",
    seed=SEEDS,
    n=st.integers(1, 11),
)
def test_cut(seed: int, n: int) -> None:
    values = numbers(seed, n)
    got = throttle.cut(values, 2)
    if n < 4:
        assert got == []
        return
    logs = throttle.running_median(np.log(values))
    differences = np.diff(np.log(values))
    spread = np.median(np.abs(differences - np.median(differences)))
    penalty = 3 * math.log(n) * max((1.4826 * spread) ** 2 / 2, 1e-8)

    def cost(cuts: tuple[int, ...]) -> float:
        parts = [logs[a:b] for a, b in itertools.pairwise((0, *cuts, n))]
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts) + penalty * len(cuts)

    ways = [
        cuts
        for count in range(n // 2)
        for cuts in itertools.combinations(range(2, n - 1), count)
        if all(b - a >= 2 for a, b in itertools.pairwise((0, *cuts, n)))
    ]
    assert cost(tuple(got)) == pytest.approx(min(cost(way) for way in ways), rel=1e-6, abs=1e-9)


@held(
    "throttle.throttle",
    "its definition: nothing below 5 %, the place of a clean step, burst and sustained as above",
    seed=SEEDS,
    n=st.integers(1, 120),
    at=st.integers(10, 60),
    share=st.sampled_from([0.0, 0.02, 0.1, 0.5]),
)
def test_throttle(seed: int, n: int, at: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    times = np.arange(n) * 1.0
    values = np.where(times < at, 1.0, 1.0 + share) * np.exp(rng.normal(0, 0.002, n))
    got = throttle.throttle(list(times), list(values))
    assert (got.burst, got.sustained) == drift.burst_and_sustained(times, values)
    assert (got.time_s is None) == (got.reason is not None)
    lasting = n - at >= 40 and n >= 50
    if share < 0.05:
        assert got.time_s is None
    elif lasting:
        assert got.time_s == pytest.approx(at, abs=3)
        assert got.slowdown == pytest.approx(share, abs=0.02)


@held(
    "contention.is_contended",
    "the sentence: more than 5 % of the wall time and 1 µs a sample is missing",
    seed=SEEDS,
    n=st.integers(1, 60),
)
def test_is_contended(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    wall = rng.integers(500, 10 ** rng.integers(3, 8), n)
    cpu = (wall * rng.uniform(0.85, 1.02)).astype(np.int64)
    missing = sum(int(w) - int(c) for w, c in zip(wall, cpu, strict=True))
    assert contention.is_contended(wall, cpu) == (missing > 0.05 * sum(map(int, wall)) + 1000 * n)


@held(
    "contention.can_judge",
    "the sentence: one thread, and a CPU clock of thread or process",
    threads=st.one_of(st.none(), st.integers(1, 8)),
    clock=st.sampled_from(["thread", "process", "none"]),
)
def test_can_judge(threads: int | None, clock: str) -> None:
    assert contention.can_judge(threads, clock) == (threads == 1 and clock != "none")


@held(
    "contention.causes_of",
    "CPU time alone: preempted or not; no evidence, no answer; each counter by itself",
    seed=SEEDS,
    threads=st.integers(1, 4),
    kind=st.sampled_from(["", "quota_us", "throttles", "waited_ns"]),
)
def test_causes_of(seed: int, threads: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    wall = rng.integers(10_000, 1_000_000, 20)
    cpu = (wall * rng.uniform(0.8, 1.0)).astype(np.int64)
    span = int(wall.sum())
    amount = int(span * rng.uniform(0, 0.2))
    counted = {"span_ns": span, kind: amount // 1000 if kind == "quota_us" else amount} if kind else None
    got = contention.causes_of(wall, cpu, counted, cpu_clock="thread", threads=threads, cpus=2)
    expected = ["preempted"] if threads == 1 and contention.is_contended(wall, cpu) else []
    known = threads == 1
    if kind == "quota_us" and amount // 1000 * 1000 > 0.05 * span:
        expected, known = [*expected, "quota"], True
    if kind == "throttles" and amount:
        expected, known = [*expected, "heat"], True
    if kind == "waited_ns" and threads > 1:
        expected, known = (["waited"] if amount > 0.05 * span else []), True
    assert got == (tuple(expected) if known else None)


@held("contention.judge", "counting", seed=SEEDS, n=st.integers(0, 40))
def test_judge(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    medians, flags = [float(x) for x in numbers(seed, n)], [bool(x) for x in rng.random(n) < 0.3]
    got = contention.judge(medians, flags)
    assert (got.blocks, got.contended) == (n, sum(flags))
    assert got.share == pytest.approx(sum(flags) / n if n else 0.0)
    quiet = [m for m, flag in zip(medians, flags, strict=True) if not flag]
    expected = None if not quiet else pytest.approx(np.median(quiet) / np.median(medians))
    assert got.quiet_ratio == expected


@held("attribution.central_ns", "`scipy.stats.trim_mean(…, 0.25)`", seed=SEEDS, n=st.integers(0, 60))
def test_central(seed: int, n: int) -> None:
    values = numbers(seed, n)
    assert attribution.central_ns(list(values)) == pytest.approx(scipy_stats.trim_mean(values, 0.25) if n else 0.0)


@held("attribution.quiet", "the sentence, by a loop", seed=SEEDS, n=st.integers(0, 30))
def test_quiet(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    wall = [int(x) for x in rng.integers(1000, 100_000, n)]
    cpu = [int(w * s) for w, s in zip(wall, rng.uniform(0.7, 1.0, n), strict=True)]
    shares = [c / w for w, c in zip(wall, cpu, strict=True)]
    good = [place for place in range(n) if shares[place] >= 0.95]
    got = attribution.quiet(wall, cpu)
    if len(good) >= 5:
        assert got == good
    else:
        assert len(got) == min(5, n)
        assert all(shares[place] <= min((shares[p] for p in got), default=1.0) for place in set(range(n)) - set(got))


_GOOD = grade.Evidence("standard", 6, 1.1, 50, 0.5, 5, 0.02, None, contention.Contention(60, 0, 1.0))


@held(
    "grade.grade",
    "rule 10 as a truth table: failed → invalid; emulated or contended → C; any rule unmet → B; else A",
    failed=st.booleans(),
    emulated=st.booleans(),
    contended=st.sampled_from([0, 2, 6, 20]),
    runs=st.sampled_from([0, 1, 5, 6, 30]),
    half_width=st.sampled_from([None, 0.001, 0.03, 0.031, 0.5]),
    samples=st.sampled_from([49, 50, 5000]),
    remarked=st.booleans(),
)
def test_grade(
    failed: bool, emulated: bool, contended: int, runs: int, half_width: float | None, samples: int, remarked: bool
) -> None:
    evidence = dataclasses.replace(
        _GOOD,
        failure="it broke" if failed else None,
        emulated=emulated,
        contention=contention.Contention(60, contended, 0.9),
        runs=runs,
        half_width=half_width,
        run_samples=samples,
        remarks=("in bf16",) if remarked else (),
    )
    letter, reasons = grade.grade(evidence)
    unmet = runs < 6 or samples < 50 or (half_width or 0) > 0.03 or remarked or contended == 6
    if failed or runs == 0:
        expected = "invalid"
    elif emulated or contended == 20:
        expected = "C"
    else:
        expected = "B" if unmet else "A"
    assert letter == expected
    assert (letter == "A") == (reasons == ())
