"""G8: injected load is flagged, quiet blocks are not.

Spinners of 50, 100 and 200 % of a core go on and off at known times (spinners.py) while the harness measures the demo's model on this host
through its own road: sessions pinned to a core with one thread, free with one thread, and free with two. Every measured block that lies
wholly in one phase has a ground truth; what the table says of the same block is held against it.

What counts as disturbed is settled beforehand: load that needs CPUs of the agent's. Pinned to a core: spinners on that core. Free: two
spinners, one on each core (one alone leaves the scheduler a core for everyone). Two threads: any spinner at all. A spinner
that the agent can get out of the way of ("bystander") is no ground truth by itself: on a machine whose two CPUs are threads of one core
it takes a third, on another nothing. Its effect on the medians and its share of flagged blocks are reported, and it counts
as injected load where it slows the median by 5 % or more. Nor is "quiet" more than: without our spinners. Blocks that others on the
machine disturbed meanwhile count against the goal all the same.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import live
import spinners
from result import Goal, Result, rate

from harness.cli.artifacts import record
from harness.plan import PRESETS
from harness.profiles import DeviceProfile
from harness.records import SessionData
from harness.runner import SessionSpec, run_session
from harness.store import Store
from harness.table.cells import cells
from harness.table.contention import Judged, judged_blocks
from harness.table.evidence import threads_of

RUNS, RUN_S, BLOCK_S = 6, 13.0, 0.1
EFFECT = 1.05
Level = tuple[str, float, tuple[int, ...]]


@dataclass(frozen=True)
class Setting:
    """One session: what is measured, how, and under which load. Levels in `bystanders` leave the agent a core of its own."""

    name: str
    recipe: str
    threads: int
    affinity: tuple[int, ...] | None
    levels: tuple[Level, ...]
    bystanders: tuple[str, ...] = ()


def settings() -> list[Setting]:
    """For the first two CPUs of this machine."""
    one, two = sorted(os.sched_getaffinity(0))[:2]
    on_one: tuple[Level, ...] = (("50 %", 0.5, (one,)), ("100 %", 1.0, (one,)), ("200 %", 1.0, (one, one)))
    beside: Level = ("100 % beside", 1.0, (two,))
    spread: tuple[Level, ...] = (("50 %", 0.5, (one,)), ("100 %", 1.0, (two,)), ("200 %", 1.0, (one, two)))
    return [
        Setting("pinned, one thread, LiteRT", "tflite:fp32", 1, (one,), (*on_one, beside), ("100 % beside",)),
        Setting("free, one thread, ONNX Runtime", "onnx:fp32", 1, None, spread, ("50 %", "100 %")),
        Setting("free, two threads, LiteRT", "tflite:fp32", 2, None, spread),
        Setting("free, two threads, ONNX Runtime", "onnx:fp32", 2, None, spread),
    ]


def session(setting: Setting, phases: list[spinners.Phase], seed: int) -> SessionData:
    """The session, with the spinners at work, out of a store on disk."""
    variant = live.demo(setting.recipe)
    protocol = dataclasses.replace(
        PRESETS["standard"],
        runs=RUNS,
        max_runs=RUNS,
        probes=1,
        run_s=RUN_S,
        rounds=round(RUN_S / BLOCK_S),
        warmup_s=0.2,
    )
    device = DeviceProfile(name="local", transport="local", affinity=setting.affinity)
    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder, Store.open(Path(folder) / "s.sqlite") as store:
        spec = SessionSpec(
            name="g8",
            variants=[record(variant)],
            artifacts={variant.name: variant},
            devices=[device],
            protocol=protocol,
            threads=setting.threads,
            seed=seed,
        )
        with spinners.spinning(phases):
            return store.load(run_session(spec, store))


def by_level(data: SessionData, phases: list[spinners.Phase]) -> dict[str, list[Judged]]:
    """Level → the blocks that lie wholly in one of its phases, as the table judges them."""
    found: dict[str, list[Judged]] = defaultdict(list)
    for cell in cells(data):
        for item in (item for run in judged_blocks(cell, threads_of(cell)) for item in run):
            started = item.block.started_ns
            phase = spinners.phase_of(phases, started, started + int(item.block.wall_ns.sum()))
            if phase is not None:
                found[phase.level].append(item)
    return found


def one(setting: Setting, seed: int) -> dict[str, Any]:
    """What became of one setting: per level, how many blocks, how many flagged, why, and how much slower they were."""
    live.demo(setting.recipe)
    phases = spinners.schedule(setting.levels, RUNS * (RUN_S + 3.0) + 10.0, seed)
    found = by_level(session(setting, phases, seed), phases)
    calm = [item.median_ns for item in found["quiet"] if item.causes == ()]
    base = statistics.median(calm) if calm else None
    levels: dict[str, Any] = {}
    for level, items in found.items():
        causes: dict[str, int] = defaultdict(int)
        for cause in (cause for item in items for cause in item.causes or ()):
            causes[cause] += 1
        levels[level] = {
            "blocks": len(items),
            "flagged": sum(bool(item.causes) for item in items),
            "causes": dict(causes),
            "slower": None if base is None else statistics.median(item.median_ns for item in items) / base,
            "flagged_slower": _slower([item for item in items if item.causes], base),
        }
    return {"setting": setting.name, "levels": levels, "bystanders": setting.bystanders}


def _slower(items: list[Judged], base: float | None) -> float | None:
    return statistics.median(item.median_ns for item in items) / base if items and base is not None else None


def _alarms(results: list[dict[str, Any]]) -> str:
    """Why quiet blocks were flagged, and how much slower they were than those that were not: others than us were at work, or nobody."""
    causes: dict[str, int] = defaultdict(int)
    for quiet in (result["levels"]["quiet"] for result in results if "quiet" in result["levels"]):
        for cause, number in quiet["causes"].items():
            causes[cause] += number
    words = ", ".join(f"{cause} {number}" for cause, number in sorted(causes.items(), key=lambda item: -item[1]))
    slower = ", ".join(
        f"{result['levels']['quiet']['flagged_slower']:.2f}"
        for result in results
        if result["levels"].get("quiet", {}).get("flagged_slower")
    )
    return f"quiet blocks were flagged as: {words}; their medians against the calm ones, by setting: {slower}"


def measure(seed: int) -> Result:
    results = [one(setting, seed + index) for index, setting in enumerate(settings())]
    hits = total = alarms = calm = 0
    beside = []
    for result in results:
        for level, counts in result["levels"].items():
            if level == "quiet":
                alarms, calm = alarms + counts["flagged"], calm + counts["blocks"]
            elif level in result["bystanders"] and (counts["slower"] or 0.0) < EFFECT:
                beside.append(
                    f"{result['setting']}, {level}: {counts['slower'] or 0.0:.2f}, {counts['flagged']} of {counts['blocks']}"
                )
            else:
                hits, total = hits + counts["flagged"], total + counts["blocks"]
    found, false = rate(hits, total), rate(alarms, calm)
    passed = found["rate"] >= 0.95 and false["rate"] <= 0.05
    note = "disturbed: load on CPUs that the agent needs, or that slows its median by 5 % or more"
    if alarms:
        note += f"; {_alarms(results)}"
    if beside:
        note += f"; not counted, for it does not slow (ratio, flagged): {'; '.join(beside)}"
    figure = {"injected flagged": found, "quiet flagged": false}
    return Result(passed, figure, "injected ≥ 95 %, quiet ≤ 5 %", total + calm, note, {"settings": results})


GOAL = Goal("contention flagged", measure, 420)
