"""G11: energy per inference is right where it is given, and not given where it could not be.

Synthetic meters whose truth is known (tests/synthetic_meter.py): power rails and counters at 10 Hz with jittering timestamps and lost
readings, fuel gauges of one value a second with either sign; and runs that must be refused: short windows, signs that flip,
holes. What a real kernel's meter drivers gave is quoted from the newest result of scripts/power_guest.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from result import Goal, Result, rate

from harness.collectors.energy import Energy, energy_of
from harness.collectors.unavailable import Unavailable

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from synthetic_meter import (  # noqa: E402 - the folder of the tests is no package
    S,
    counter_channels,
    draw,
    gauge,
    gauge_channels,
    lose,
    phases_of,
    power_channel,
    rail,
    ticks,
    truth,
)

CASES = 300
FAST_TOTAL, FAST_DYNAMIC, SLOW = 0.01, 0.02, 0.05
Case = tuple[Any, Any, Any, Any]  # meter, phases, channels, what the device drew


def _device(rng: np.random.Generator, phases: Any) -> Any:
    idle_w = rng.uniform(0.3, 6.0)
    return draw(phases, idle_w, idle_w * rng.uniform(1.5, 5.0), rng.uniform(0.0, 0.05))


def rail_case(rng: np.random.Generator, **options: float) -> Case:
    """Ten readings a second, timestamps up to 0.45 of their distance off, up to a tenth of them lost."""
    phases = phases_of(**options)
    power, seed = _device(rng, phases), int(rng.integers(1 << 30))
    t = ticks(phases, 10.0, rng.uniform(0.0, 0.45), seed)
    return rail(), phases, lose(power_channel(power, t), rng.uniform(0.0, 0.1), seed + 1), power


def counter_case(rng: np.random.Generator) -> Case:
    """A counter of energy that begins again at zero."""
    phases = phases_of()
    power = _device(rng, phases)
    t = ticks(phases, 10.0, rng.uniform(0.0, 0.45), int(rng.integers(1 << 30)))
    meter, channels = counter_channels(power, t, begin=rng.uniform())
    return meter, phases, channels, power


def gauge_case(rng: np.random.Generator) -> Case:
    """One new value a second, of either sign."""
    phases = phases_of()
    power, seed = _device(rng, phases), int(rng.integers(1 << 30))
    t = ticks(phases, 10.0, 0.2, seed)
    sign = -1 if rng.uniform() < 0.5 else 1
    return gauge(), phases, gauge_channels(power, t, sign=sign, phase_s=rng.uniform(), seed=seed), power


def short_case(rng: np.random.Generator) -> Case:
    """Windows of 1 to 9.7 s."""
    return rail_case(rng, window_s=float(rng.uniform(1.0, 9.7)))


def flip_case(rng: np.random.Generator) -> Case:
    """A gauge whose sign is the other one in a tenth to a half of its readings."""
    meter, phases, channels, power = gauge_case(rng)
    t, texts = channels["current"]
    flips = rng.uniform(size=len(texts)) < rng.uniform(0.1, 0.5)
    flipped = [str(-int(value)) if flip else value for value, flip in zip(texts, flips, strict=True)]
    return meter, phases, {**channels, "current": (t, flipped)}, power


def hole_case(rng: np.random.Generator) -> Case:
    """No reading for 1.5 to 5 s inside of a window."""
    meter, phases, channels, power = rail_case(rng)
    t, texts = channels["power"]
    window = phases[int(rng.integers(1, 6))]
    begin, length = window.started_ns + rng.uniform(0.5, 4.0) * S, rng.uniform(1.5, 5.0) * S
    inside = (t > begin) & (t < begin + length)
    return meter, phases, {"power": (t, [None if gone else v for v, gone in zip(texts, inside, strict=True)])}, power


def errors(make: Callable[[np.random.Generator], Case], seed: int) -> dict[str, Any]:
    """Relative errors of total and dynamic energy over all cases; `unavailable`: cases that gave none."""
    totals, dynamics, unavailable = [], [], []
    for number in range(CASES):
        meter, phases, channels, power = make(np.random.default_rng([seed, number]))
        found = energy_of(meter, phases, channels)
        if isinstance(found, Unavailable) or found.dynamic_uj is None:
            unavailable.append(str(found if isinstance(found, Unavailable) else found.dynamic_reason))
            continue
        total, dynamic = truth(power, phases)
        totals.append(abs(found.total_uj / total - 1))
        dynamics.append(abs(found.dynamic_uj / dynamic - 1))
    return {
        "cases": CASES,
        "total_worst": max(totals),
        "total_median": float(np.median(totals)),
        "dynamic_worst": max(dynamics),
        "dynamic_median": float(np.median(dynamics)),
        "unavailable": unavailable,
    }


def refused(make: Callable[[np.random.Generator], Case], seed: int) -> dict[str, Any]:
    """How many of the cases are refused, and why."""
    found = [energy_of(*make(np.random.default_rng([seed, number]))[:3]) for number in range(CASES)]
    return rate(sum(not isinstance(item, Energy) for item in found), CASES) | {
        "example": str(next((item for item in found if isinstance(item, Unavailable)), None))
    }


def kernel() -> dict[str, Any] | None:
    """The newest figures of a real kernel's drivers, with their file; None where there are none."""
    files = sorted((ROOT / "results" / "fidelity").glob("????-??-??-power-guest.json"))
    return json.loads(files[-1].read_text(encoding="utf-8")) | {"file": files[-1].name} if files else None


def _kernel_words(found: dict[str, Any] | None) -> str:
    if found is None:
        return "no result of a real kernel's meter drivers is at hand (scripts/power_guest.py makes one)"
    meters = "; ".join(
        f"{name} total {item['total_error']:+.2%}, dynamic {item['dynamic_error']:+.2%}"
        for name, item in found["meters"].items()
    )
    return f"real kernel drivers in a guest, quoted from {found['file']}, not measured now: {meters}"


def measure(seed: int) -> Result:
    fast = {"rail": errors(rail_case, seed), "counter": errors(counter_case, seed + 1)}
    slow = errors(gauge_case, seed + 2)
    no = {
        "short": refused(short_case, seed + 3),
        "flips": refused(flip_case, seed + 4),
        "holes": refused(hole_case, seed + 5),
    }
    real = kernel()
    within = all(f["total_worst"] <= FAST_TOTAL and f["dynamic_worst"] <= FAST_DYNAMIC for f in fast.values())
    given = not any(item["unavailable"] for item in (*fast.values(), slow))
    refusing = all(item["hits"] == CASES for item in no.values())
    drivers = real is not None and all(
        abs(item["total_error"]) <= FAST_TOTAL and abs(item["dynamic_error"]) <= FAST_DYNAMIC
        for item in real["meters"].values()
    )
    figure = {
        "10 Hz: worst total, dynamic": [
            max(f["total_worst"] for f in fast.values()),
            max(f["dynamic_worst"] for f in fast.values()),
        ],
        "1 Hz: worst total, dynamic": [slow["total_worst"], slow["dynamic_worst"]],
        "refused": {name: f"{item['hits']}/{item['n']}" for name, item in no.items()},
        "kernel drivers": None
        if real is None
        else {name: [item["total_error"], item["dynamic_error"]] for name, item in real["meters"].items()},
    }
    return Result(
        passed=bool(
            within and given and refusing and drivers and max(slow["total_worst"], slow["dynamic_worst"]) <= SLOW
        ),
        figure=figure,
        bound="total ≤ 1 %, dynamic ≤ 2 % at 10 Hz over 10 s; ≤ 5 % at 1 Hz; short windows refused",
        n=CASES * 6,
        note=f"{CASES} synthetic runs of each kind, the worst of all counts; {_kernel_words(real)}",
        details={"fast": fast, "slow": slow, "refused": no, "kernel": real},
    )


GOAL = Goal("energy per inference is right, or refused", measure, 60.0)
