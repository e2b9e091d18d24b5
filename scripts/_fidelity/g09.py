"""G9: is what is measured warm? Made-up models that start slow and settle, then a real one after a short and after a long warm-up.

Made up: the protocol itself (warm-up, settling, interleaved blocks, six runs) over a virtual clock, on variants whose time falls off to
its final value, over their own time at work or over that of the process. A row is right when its median is within 1 % of the final
value; where the fall is so slow that no warm-up of half a second can help, it must be flagged as drifting within each run instead.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import live
import numpy as np
from result import Goal, Result

from harness.plan import PRESETS, MeasurementProtocol, latency_plan
from harness.row import OK
from harness.stats import compare, drift
from harness.table import build_rows, run_medians

BIAS = 0.01
RUNS, VARIANTS, BASE_S, NOISE = 6, 3, 0.001, 0.01
EXCESS = (0.1, 0.3, 1.0)
DECAY_S = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0)
PAIRS = 20
SHORT_S, LONG_S = 0.5, 4.0


def measured(protocol: MeasurementProtocol, excess: float, decay_s: float, *, own: bool, seed: int) -> dict[str, Any]:
    """Median of one variant relative to its final time, and whether it was flagged. `own`: it warms by its own work only."""
    plan = latency_plan(protocol, ((),) * protocol.rounds)
    rng = np.random.default_rng(seed)
    times: list[float] = []
    values: list[float] = []
    owners: list[int] = []
    medians = []
    for run in range(RUNS):
        clock = np.zeros(VARIANTS + 1)  # own time of each variant, and the process's

        def invoke(variant: int, clock: np.ndarray = clock) -> float:
            age = clock[variant] if own else clock[VARIANTS]
            took = BASE_S * (1.0 + excess * math.exp(-age / decay_s)) * math.exp(rng.normal(0.0, NOISE))
            clock[variant] += took
            clock[VARIANTS] += took
            return took

        def visit(variant: int, count: int, seconds: float, call: Any = invoke) -> list[float]:
            samples: list[float] = []
            while len(samples) < count or sum(samples) < seconds:
                samples += [call(variant) for _ in range(10 if seconds > 0 else 1)]
            return samples

        for variant in range(VARIANTS):
            visit(variant, plan.warmup_samples, plan.warmup_s)
        samples: list[float] = []
        for _ in range(protocol.rounds):
            for variant in rng.permutation(VARIANTS):
                visit(int(variant), plan.settle, 0.0)
                began = run * 1000.0 + float(clock[VARIANTS])
                block = visit(int(variant), plan.block_samples, plan.block_s)
                if variant == 0:
                    times.append(began)
                    values.append(float(np.median(block)) * 1e9)
                    owners.append(run)
                    samples += block
        medians.append(float(np.median(samples)))
    found = drift.analyse(times, values, owners)
    return {"bias": float(np.median(medians)) / BASE_S - 1.0, "flagged": found.flagged}


def made_up(preset: str, seed: int) -> list[dict[str, Any]]:
    """Every decay under a preset."""
    found = []
    for number, (excess, decay_s, own) in enumerate(itertools.product(EXCESS, DECAY_S, (True, False))):
        result = measured(PRESETS[preset], excess, decay_s, own=own, seed=seed + number)
        found.append({"excess": excess, "decay_s": decay_s, "warms by": "own work" if own else "process", **result})
    return found


def cold_and_warm(seed: int) -> tuple[compare.Comparison, list[float]]:
    """The same artifact after a short and after a long warm-up, in fresh processes by turns: short / long."""
    variant = live.demo()
    short = dataclasses.replace(
        live.PROTOCOL, runs=1, max_runs=1, stop_on="estimate", warmup_s=SHORT_S, run_s=1.0, rounds=10
    )
    long = dataclasses.replace(short, warmup_s=LONG_S)
    logs = []
    for number in range(PAIRS):
        found = {}
        # Which comes first changes, so that a trend of the machine is not taken for warmth.
        for protocol in (short, long) if number % 2 else (long, short):
            data = live.measured(variant, seed + number, protocol=protocol, names=(live.BASE,))
            (row,) = build_rows(data)
            if row.status != OK:
                raise RuntimeError(f"{row.status}: {row.error}")
            (found[protocol.warmup_s],) = run_medians(data)[live.BASE, "local"].values()
        logs.append(math.log(found[SHORT_S] / found[LONG_S]))
    return compare.paired(logs), [math.exp(value) for value in logs]


def measure(seed: int) -> Result:
    """Both parts."""
    standard, quick = made_up("standard", seed), made_up("quick", seed)
    silent = [item for item in standard if not item["flagged"]]
    worst = max((abs(item["bias"]) for item in silent), default=0.0)
    pair, ratios = cold_and_warm(seed)
    assert pair.ratio is not None  # noqa: S101
    flagged = len(standard) - len(silent)
    return Result(
        passed=worst <= BIAS and abs(pair.ratio - 1.0) <= BIAS,
        figure={
            "made-up, worst bias without a flag": worst,
            "live, short / long warm-up": [pair.ratio, pair.low, pair.high],
        },
        bound="bias ≤ 0.01 where no drift is flagged; live ratio within 1 ± 0.01",
        n=len(standard) + PAIRS,
        note=f"made-up: {len(standard)} decays (10 ms to 10 s, 10 to 100 % slower at first), {flagged} flagged as drift; live:"
        f" {PAIRS} pairs of fresh processes, {SHORT_S:g} s against {LONG_S:g} s of warm-up",
        details={"standard": standard, "quick (graded B for its short warm-up)": quick, "live": ratios},
    )


GOAL = Goal("warm-up bias", measure, 240)
