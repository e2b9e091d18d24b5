"""G7: is drift found, and only where it is? Made-up series first, then live sessions with a slowdown put into a real engine.

Two things can drift. The device: all variants alike, to be seen in absolute times alone. One variant: relative to those measured in
the same blocks, from which the machine's own noise cancels out. Live, nobody knows that an idle machine stood still: an alarm of a session
without injection is false for sure when it blames one variant; when all variants moved together the machine may really have changed, so
those are counted as false alarms too, but told apart.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import live
import numpy as np
from result import Goal, Result, rate

from harness.records import PROBE, SessionData
from harness.stats import drift
from harness.table.cells import cells
from harness.table.contention import judged_blocks
from harness.table.drifts import companions, drift_of
from harness.table.evidence import threads_of

SERIES = 500
QUIET, INJECTED = 50, 5
FOUND, FALSE = 0.95, 0.05
RUNS, BLOCKS = 12, 10  # the headline preset
NOISE, RUN_EFFECT = 0.01, 0.005
# What the machine does to all variants of a block alike, on top: run effect, and a slow wander.
MACHINE, WANDER, MEMORY = 0.03, 0.02, 0.9
RAMP, STEP, WHERE = 0.05, 0.10, 0.4
VARIANTS = 3


def made_up(rng: np.random.Generator, *, ramp: float, step: float, noisy: bool, runs: int = RUNS) -> drift.Drift:
    """One variant's series with that change. `noisy`: a machine that wanders, with two other variants in the same blocks."""
    n = runs * BLOCKS
    owner, times = np.repeat(np.arange(runs), BLOCKS), np.arange(n, dtype=np.float64)
    machine = np.zeros(n)
    if noisy:
        steps = rng.normal(0.0, WANDER * np.sqrt(1 - MEMORY**2), n)
        for place in range(1, n):
            machine[place] = MEMORY * machine[place - 1] + steps[place]
        machine += rng.normal(0.0, MACHINE, runs)[owner]

    def variant() -> np.ndarray:
        return 1e6 * np.exp(machine + rng.normal(0.0, NOISE, n) + rng.normal(0.0, RUN_EFFECT, runs)[owner])

    mine = variant() * (1.0 + ramp * times / times[-1]) * np.where(times < WHERE * n, 1.0, 1.0 + step)
    others = [variant().tolist() for _ in range(VARIANTS - 1)] if noisy else []
    return drift.analyse(times.tolist(), mine.tolist(), owner.tolist(), others)


def shares(seed: int, *, noisy: bool, runs: int = RUNS) -> dict[str, dict[str, float | int]]:
    """How often a 5 % ramp, a 10 % step and nothing at all are flagged."""
    found = {}
    for name, ramp, step in (("ramp 5 %", RAMP, 0.0), ("step 10 %", 0.0, STEP), ("nothing", 0.0, 0.0)):
        rng = np.random.default_rng([seed, noisy, runs, len(name)])
        hits = [made_up(rng, ramp=ramp, step=step, noisy=noisy, runs=runs).flagged for _ in range(SERIES)]
        found[name] = rate(sum(hits), SERIES)
    return found


# As many runs as the headline preset, as short as the engine's start lets them be.
PROTOCOL = dataclasses.replace(
    live.PROTOCOL, runs=6, max_runs=6, warmup_s=0.05, run_s=0.1, rounds=BLOCKS, stop_on="estimate"
)
NAMES = (live.BASE, live.CANDIDATE, "third")


def alarms(data: SessionData) -> list[drift.Drift]:
    """What the table finds in each row of a session."""
    found = [(cell, judged_blocks(cell, threads_of(cell))) for cell in cells(data)]
    beside = companions(found)
    drifts = (drift_of(cell, judged, beside.get((cell.variant.name, cell.device.name), ())) for cell, judged in found)
    return [item for item in drifts if item is not None]


def quiet_sessions(seed: int) -> dict[str, Any]:
    """Rows flagged in sessions without any injection: for the variant's own sake, and all together."""
    variant, rows, own, together, unknown, told = live.demo(), 0, 0, 0, 0, []
    shares_of_probes = []
    for number in range(QUIET):
        data = live.measured(variant, seed + number, protocol=PROTOCOL, names=NAMES)
        probes = sum(run.duration_s for run in data.runs if run.kind == PROBE)
        shares_of_probes.append(probes / sum(run.duration_s for run in data.runs))
        for item in alarms(data):
            rows += 1
            own += item.shared is False
            together += item.flagged and item.shared is True
            unknown += item.flagged and item.shared is None
            if item.flagged:
                told.append({"session": number, "shared": item.shared, **_sizes(item)})
    counts = {"rows": rows, "own": own, "together": together, "unattributed": unknown}
    return {**counts, "probing": float(np.mean(shares_of_probes)), "told": told}


def _sizes(item: drift.Drift) -> dict[str, float | None]:
    return {
        "trend": item.trend.change if item.trend is not None and item.trend.flagged else None,
        "step": item.step.change if item.step is not None and item.step.flagged else None,
    }


def injected_sessions(seed: int, seconds: float, probing: float) -> dict[str, dict[str, float | int]]:
    """Sessions of known length with a ramp or a step that hits the whole device, or one variant alone: how often it is flagged.

    `seconds`: what a quiet session of six runs took; `probing`: the share of it before the first latency run, when nothing is injected.
    """
    variant, found = live.demo(), {}
    longer = dataclasses.replace(PROTOCOL, runs=RUNS, max_runs=RUNS)
    before_ns, length = int(seconds * probing * 1e9), seconds * (1.0 - probing) * RUNS / PROTOCOL.runs
    changes = {
        "ramp 5 %": {"ramp": {"share": RAMP, "seconds": length}},
        "step 10 %": {"step": {"share": STEP, "after_s": WHERE * length}},
    }
    for name, change in changes.items():
        for whom, only in (("device", list(NAMES)), ("one variant", [live.CANDIDATE])):
            hits = rows = 0
            for number in range(INJECTED):
                options = {"inject": {**change, "only": only, "from_ns": time.monotonic_ns() + before_ns}}
                data = live.measured(variant, seed + number, protocol=longer, options=options, names=NAMES)
                drifts = [item for name, item in zip(NAMES, alarms(data), strict=True) if name in only]
                rows += len(drifts)
                hits += sum(item.flagged for item in drifts)
            found[f"{name}, {whom}"] = rate(hits, rows)
    return found


def measure(seed: int) -> Result:
    """All of it. Live sessions cannot be told quiet from outside: see the module's docstring for what counts as false."""
    device = {"device": shares(seed, noisy=False), "one variant, noisy machine": shares(seed, noisy=True)}
    few = {"device": shares(seed, noisy=False, runs=6), "one variant, noisy machine": shares(seed, noisy=True, runs=6)}
    live.demo()
    begun = time.monotonic()
    quiet = quiet_sessions(seed)
    seconds = (time.monotonic() - begun) / QUIET
    injected = injected_sessions(seed, seconds, quiet["probing"])
    wrong = quiet["own"] + quiet["together"] + quiet["unattributed"]
    made = device["device"]
    figure = {
        "ramp found": made["ramp 5 %"]["rate"],
        "step found": made["step 10 %"]["rate"],
        "false alarms": made["nothing"]["rate"],
        **{f"live {name} found": found for name, found in injected.items()},
        "live false alarms": rate(wrong, quiet["rows"]),
        "live false alarms that blame one variant": rate(quiet["own"], quiet["rows"]),
    }
    passed = (
        made["ramp 5 %"]["rate"] >= FOUND
        and made["step 10 %"]["rate"] >= FOUND
        and made["nothing"]["rate"] <= FALSE
        and device["one variant, noisy machine"]["nothing"]["rate"] <= FALSE
        and all(found["rate"] >= FOUND for found in injected.values())
        and wrong <= FALSE * quiet["rows"]
    )
    return Result(
        passed=passed,
        figure=figure,
        bound="found ≥ 0.95 (5 % ramp, 10 % step), false alarms ≤ 0.05, made-up and live",
        n=SERIES * 3 + QUIET + 4 * INJECTED,
        note=f"made-up: {RUNS} runs of {BLOCKS} blocks, noise of a block {NOISE:.0%}, of a run {RUN_EFFECT:.1%}; live: a row counts; of"
        f" {wrong} alarms without injection {quiet['together']} moved with all variants of the same blocks, which an idle clock"
        " alone cannot do: the machine changed",
        details={"made-up": device, "made-up, 6 runs": few, "live quiet": quiet, "seconds a session": seconds},
    )


GOAL = Goal("drift found, and no false alarms", measure, 600)
