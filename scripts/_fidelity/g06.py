"""G6: while everything grows slower by 20 %, two equal variants stay equal, because they are interleaved.

First with an engine that does nothing but burn a fixed time, then with a real one through whole sessions. The control is the
usual way: one variant after the other, under the same ramp.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import live
import single
from result import Goal, Result
from trials import count, series

from harness.agent.protocol import Data, Job, Model
from harness.plan import Plan, Target, latency_plan
from harness.stats.compare import run_log_ratio
from harness.stats.distributions import t_quantile
from harness.table import run_medians

RAMP = 0.20
BIAS, CONTROL = 0.01, 0.08
NAMES = (live.BASE, live.CANDIDATE)
RUNS = 6
# As many runs as the rule asks for at least; a ramp would have more made, and they would lie behind its end.
PROTOCOL = dataclasses.replace(live.PROTOCOL, runs=RUNS, max_runs=RUNS)


def ramp(seconds: float) -> dict[str, Any]:
    """Options of an engine that grows slower from now on."""
    return {"inject": {"ramp": {"share": RAMP, "seconds": seconds}, "from_ns": time.monotonic_ns()}}


def fake_ratios(seed: int, seconds: float, *, interleaved: bool, model: Path) -> list[float]:
    """Log ratios candidate / base, one per run of the fake engine: both in each process, or all of one after all of the other."""
    models = tuple(Model(name, str(model)) for name in NAMES)
    plan = Plan((Target("here", "fault", NAMES),), PROTOCOL, seed)
    options = ramp(seconds)

    def run(number: int, names: tuple[str, ...]) -> single.Samples:
        order = plan.latency(plan.targets[0], number, names).order
        latency = latency_plan(PROTOCOL, order)
        chosen = tuple(item for item in models if item.id in names)
        return single.blocks(Job("fault", chosen, Data(), latency=latency, options=options))

    def medians(blocks: list[Any]) -> list[float]:
        return [statistics.median(block.tolist()) for block in blocks]

    if interleaved:
        found = [run(number, NAMES) for number in range(RUNS)]
        return [run_log_ratio(medians(item[NAMES[1]]), medians(item[NAMES[0]])) for item in found]
    one, two = ([run(number, (name,))[name] for number in range(RUNS)] for name in NAMES)
    middles = [[statistics.median(medians(blocks)) for blocks in runs] for runs in (one, two)]
    return [math.log(later / earlier) for earlier, later in zip(*middles, strict=True)]


def fake(seed: int) -> dict[str, float]:
    """The bias of both orders with the fake engine, as shares."""
    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder:
        model = Path(folder) / "burn.json"
        model.write_text(json.dumps({"mode": "slow", "seconds": 0.0002}))
        found = {}
        for name, interleaved in (("interleaved", True), ("sequential", False)):
            begun = time.monotonic()
            fake_ratios(seed, 1e9, interleaved=interleaved, model=model)
            ratios = fake_ratios(seed, time.monotonic() - begun, interleaved=interleaved, model=model)
            found[name] = math.expm1(statistics.fmean(ratios))
    return found


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _medians(seed: int, name: str, options: dict[str, Any]) -> list[float]:
    """Run medians of a session of one variant alone."""
    data = live.measured(live.demo(), seed, protocol=PROTOCOL, options=options, names=(name,))
    return list(run_medians(data)[name, "local"].values())


def _interleaved(seed: int, seconds: float) -> float:
    data = live.measured(live.demo(), seed, protocol=PROTOCOL, options=ramp(seconds))
    return float(live.judged(data).comparison.ratio or math.nan) - 1.0


def _sequential(seed: int, seconds: float) -> float:
    options = ramp(seconds)
    one, two = (_medians(seed, name, options) for name in NAMES)
    return math.expm1(statistics.fmean(math.log(b / a) for a, b in zip(one, two, strict=True)))


def summary(values: list[float]) -> dict[str, Any]:
    """Mean with its 95 % interval, and the trial farthest off."""
    mean = statistics.fmean(values)
    known = len(values) > 1
    half = t_quantile(0.975, len(values) - 1.0) * statistics.stdev(values) / math.sqrt(len(values)) if known else None
    interval = None if half is None else [mean - half, mean + half]
    return {"bias": mean, "interval": interval, "farthest": max(values, key=abs), "n": len(values)}


def measure(seed: int) -> Result:
    """Both orders, both engines."""
    live.quiet()
    burnt = fake(seed)
    print(f"  fake engine: {burnt}", flush=True)
    quiet: dict[str, Any] = {"inject": {}}
    lasts = {
        "interleaved": _seconds(lambda: live.measured(live.demo(), seed, protocol=PROTOCOL, options=quiet)),
        "sequential": _seconds(lambda: [_medians(seed, name, quiet) for name in NAMES]),
    }
    keys = [f"ramp {name} #{number}" for name in lasts for number in range(count(14))]

    def make(key: str, own: int) -> dict[str, Any]:
        order = key.split()[1]
        work = _interleaved if order == "interleaved" else _sequential
        return {"order": order, "bias": work(own, lasts[order])}

    entries = series(
        keys,
        make,
        setting=live.setting(protocol=PROTOCOL) + f" ramp {RAMP}",
        seed=seed,
        shown=lambda entry: f"{entry['bias']:+.2%}",
    )
    orders = {name: summary([e["bias"] for e in entries if e["order"] == name]) for name in lasts}
    ours, control = orders["interleaved"], orders["sequential"]
    return Result(
        passed=max(abs(ours["bias"]), abs(burnt["interleaved"])) <= BIAS
        and min(control["bias"], burnt["sequential"]) >= CONTROL,
        figure={
            "fake": burnt["interleaved"],
            "fake, sequential": burnt["sequential"],
            "live": ours["bias"],
            "interval": ours["interval"],
            "live, sequential": control["bias"],
        },
        bound="bias ≤ 1 % where interleaved; ≥ 8 % in sequential order, which shows that the ramp was there",
        n=len(entries),
        note=f"a ramp of {RAMP:.0%} over the length of a session of {RUNS} runs ({lasts['interleaved']:.1f} s)",
        details=orders,
    )


GOAL = Goal("the order of measuring cancels a ramp", measure, seconds=300)
