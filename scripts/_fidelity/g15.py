"""G15: is the recommended variant the same in at least 95 % of bootstraps over runs, and do two copies of one variant tie?

Made-up sessions first: seven variants, one of them twice, machines of five kinds, a second bootstrap written here as the judge. Then live
ones: one real artifact under five names, two of them as fast as each other, on the harness's own road to a recommendation.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import live
import numpy as np
from numpy.typing import NDArray
from result import Goal, Result, rate

from harness.choose import recommend
from harness.row import OK, Row
from harness.stats.quantiles import median
from harness.table import build_rows, run_medians

SESSIONS = 1000
LIVE = 20
RESAMPLES = 1000
LEAST = 0.95
# Relative times; "copy" is the fastest once more.
TIMES = {"fast": 1.0, "copy": 1.0, "near": 1.03, "next": 1.06, "slow": 1.2, "slower": 1.9, "slowest": 3.0}
LIVE_TIMES = {live.BASE: 0.0, live.CANDIDATE: 0.0, "near": 0.03, "next": 0.06, "slow": 0.2}
# Machine → standard deviations (log) of what a round does to all variants alike, and of each variant's own run effect.
MACHINES = {
    "quiet": (0.002, 0.002),
    "run effect 1 %": (0.01, 0.01),
    "run effect 3 %": (0.01, 0.03),
    "machine 10 %": (0.10, 0.01),
    "machine 3 %, run effect 1 %": (0.03, 0.01),
}
RUNS = (6, 12)


def made_up(rng: np.random.Generator, machine: str, runs: int, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Run medians in ns: float64 [variants, runs]."""
    shared, own = MACHINES[machine]
    effect = rng.normal(0.0, shared, runs) + rng.normal(0.0, own, (len(names), runs))
    return 1e6 * np.array([TIMES[name] for name in names])[:, None] * np.exp(effect)


def row_of(name: str, times: NDArray[np.float64], size: int) -> Row:
    found = median(times)
    return Row(
        session="s",
        variant=name,
        base="b",
        format="onnx",
        recipe=name,
        device="d",
        engine="onnxruntime",
        status=OK,
        latency_median_ns=found.value,
        latency_median_low_ns=found.low,
        latency_median_high_ns=found.high,
        size_bytes=size,
    )


def same_in_bootstraps(times: NDArray[np.float64], winner: int, rng: np.random.Generator) -> float:
    """Share of bootstraps over rounds in which that variant is the fastest; float64 [variants, runs]."""
    drawn = rng.integers(0, times.shape[1], (RESAMPLES, times.shape[1]))
    return float((np.argmin(np.median(times[:, drawn], axis=2), axis=0) == winner).mean())


def simulated(seed: int) -> tuple[dict[str, Any], int, int, int, int]:
    """Per machine and number of runs: sole winners, how many of them hold and are right; ties of the copies."""
    details: dict[str, Any] = {}
    alone = holds = tied = pairs = 0
    for place, (machine, runs) in enumerate((machine, runs) for machine in MACHINES for runs in RUNS):
        rng = np.random.default_rng([seed, place])
        here = {"sole winners": 0, "held": 0, "truly fastest or within 1 %": 0, "A/A sessions": 0, "A/A ties": 0}
        for session in range(SESSIONS // len(MACHINES)):
            # Every second session has no copy, so that somebody can win alone.
            names = tuple(name for name in TIMES if name != "copy" or session % 2)
            times = made_up(rng, machine, runs, names)
            rows = [
                row_of(name, values, 100 + number)
                for number, (name, values) in enumerate(zip(names, times, strict=True))
            ]
            medians = {
                (name, "d"): dict(enumerate(map(float, values))) for name, values in zip(names, times, strict=True)
            }
            (found,) = recommend(rows, run_medians=medians)
            assert found.winner is not None  # noqa: S101
            if "copy" in names:
                here["A/A sessions"] += 1
                here["A/A ties"] += {"fast", "copy"} <= set(found.tie) or not {"fast", "copy"} & {
                    found.winner.variant,
                    *found.tie,
                }
            if not found.tie:
                here["sole winners"] += 1
                here["held"] += same_in_bootstraps(times, names.index(found.winner.variant), rng) >= LEAST
                here["truly fastest or within 1 %"] += TIMES[found.winner.variant] <= min(TIMES.values()) * 1.01
        details[f"{machine}, {runs} runs"] = here
        alone, holds = alone + here["sole winners"], holds + here["held"]
        tied, pairs = tied + here["A/A ties"], pairs + here["A/A sessions"]
    return details, holds, alone, tied, pairs


def on_the_machine(seed: int) -> list[dict[str, Any]]:
    """What was recommended in live sessions of one artifact under five names."""
    variant = live.demo()
    protocol = dataclasses.replace(live.PROTOCOL, max_runs=6, warmup_s=0.05, run_s=0.1)
    answers = []
    for number in range(LIVE):
        options = {"inject": {"slowdown": {name: share for name, share in LIVE_TIMES.items() if share}}}
        data = live.measured(variant, seed + number, protocol=protocol, options=options, names=tuple(LIVE_TIMES))
        medians = run_medians(data)
        (found,) = recommend(build_rows(data), run_medians=medians)
        assert found.winner is not None  # noqa: S101
        chosen = {found.winner.variant, *found.tie}
        answers.append(
            {
                "winner": found.winner.variant,
                "tie": list(found.tie),
                "copies tie": {live.BASE, live.CANDIDATE} <= chosen,
                "slow in the tie": "slow" in chosen,
                "confidence": found.confidence,
            }
        )
    return answers


def measure(seed: int) -> Result:
    """Both parts."""
    details, held, alone, tied, pairs = simulated(seed)
    answers = on_the_machine(seed)
    copies = sum(answer["copies tie"] for answer in answers)
    figure = {
        "sole winners that are the same in ≥ 95 % of bootstraps": rate(held, alone),
        "A/A ties, made-up": rate(tied, pairs),
        "A/A ties, live": rate(copies, len(answers)),
    }
    return Result(
        passed=held == alone and tied >= LEAST * pairs and copies >= LEAST * len(answers),
        figure=figure,
        bound="each sole winner; ≥ 0.95 of the A/A pairs",
        n=SESSIONS * len(RUNS) + LIVE,
        note="seven variants (1.00, 1.00, 1.03 … 3.00) on five made-up machines with 6 and 12 runs; live: one artifact under five names",
        details={"made-up": details, "live": answers},
    )


GOAL = Goal("the same winner in bootstraps over runs, else a tie", measure, 240)
