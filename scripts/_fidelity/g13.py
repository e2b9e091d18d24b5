"""G13: what measuring costs. A sample's own loop, the collectors beside it, and the host around a variant.

1. The timing loop: a model that does nothing, through the real agent. A block lasts as long as it was asked to, so that its length over
   the number of its samples is what one costs, all in all.
2. The collectors: the demo's model in one agent, in pairs of double rounds in random order, one with everything that is read between
   visits (contention counters, frequencies, temperatures), one with nothing (the plan's `uncounted`). Of each double round the second is
   compared, whose surroundings on both sides are of one kind. The energy sampler, which never runs beside a latency run, by the same
   pairs in one process. Heat is read before the first and after the last block of a run only.
3. The host: `harness demo` as a user types it (quick preset: the least work to spread the cost over). From the beginning of the session
   to the end of the command, less what the device worked: loading, warming up, inferring. Per variant.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import live
import numpy as np
from result import Goal, Result

from harness.agent.engines import open_engine
from harness.agent.protocol import ENGINE_OF_FORMAT, FAULT_ENGINE, Data, Job, LatencyPlan, Model, SensorChannel
from harness.agent.runs import bind, load
from harness.agent.sampling import CPU_CLOCKS, take, undisturbed
from harness.agent.sensors import Sampler
from harness.collectors.latency import blocks_of
from harness.devices.device import Device
from harness.profiles import DeviceProfile
from harness.records import MEASURE, PROBE, SessionData
from harness.session.execution import Transcript, listen
from harness.stats import quantiles
from harness.store import Store
from harness.table import build_rows

NULL_BLOCK_S, NULL_BLOCKS = 0.2, 20
PAIRS, ROUND_S = 150, 0.06
SAMPLER_PAIRS, SAMPLER_S = 80, 0.15
SAMPLED = ("/sys/devices/system/cpu/online", "/proc/loadavg", "/proc/uptime")
MOST_NS, MOST_SHIFT, MOST_S, MOST_SHARE = 1000.0, 0.01, 3.0, 0.10


def agent(job: Job) -> Transcript:
    """One run of the real agent on this host. Raises RuntimeError when it fails."""
    device = Device.open(DeviceProfile(name="local", transport="local"), "g13")
    try:
        transcript = Transcript()
        process = device.start_agent(job)
        try:
            listen(process, job, transcript, hang_s=60.0)
        finally:
            process.kill()
    finally:
        device.close()
    if not transcript.done or transcript.failed:
        raise RuntimeError(f"the agent failed: {transcript.failure or transcript.failed}")
    return transcript


def loop_ns(folder: Path) -> list[float]:
    """What one sample costs in each block of a model that does nothing, ns."""
    path = folder / "null.json"
    path.write_text(json.dumps({"mode": "null"}))
    plan = LatencyPlan((("m",),) * NULL_BLOCKS, 5, 0.05, block_samples=1, block_s=NULL_BLOCK_S)
    job = Job(FAULT_ENGINE, (Model("m", str(path)),), Data(), latency=plan)
    blocks = [block for block in blocks_of(agent(job).messages) if block.phase == MEASURE]
    return [NULL_BLOCK_S * 1e9 / block.wall_ns.size for block in blocks]


def interval(logs: Iterable[float]) -> list[float]:
    """Median of paired ratios with its 95 % order-statistic interval."""
    found = quantiles.median(list(logs))
    return [math.exp(value) for value in (found.value, found.low, found.high) if value is not None]


def collectors(recipe: str, chance: random.Random) -> list[float]:
    """Block median with the collectors over that without, over pairs of double rounds in one run of the real engine."""
    variant = live.demo(recipe)
    order = [chance.random() < 0.5 for _ in range(PAIRS)]
    # Rounds 4k, 4k+1 are of one kind and 4k+2, 4k+3 of the other.
    bare = [4 * k + (0 if first else 2) + i for k, first in enumerate(order) for i in (0, 1)]
    plan = LatencyPlan(
        (("m",),) * (4 * PAIRS), 5, 0.5, settle=2, block_samples=20, block_s=ROUND_S, uncounted=tuple(sorted(bare))
    )
    job = Job(ENGINE_OF_FORMAT[variant.manifest.format], (Model("m", str(variant.paths()[0])),), Data(), latency=plan)
    blocks = {block.index: block for block in blocks_of(agent(job).messages) if block.phase == MEASURE}
    medians = {index: float(np.median(block.wall_ns)) for index, block in blocks.items()}
    return interval(
        math.log(medians[4 * k + (3 if first else 1)] / medians[4 * k + (1 if first else 3)])
        for k, first in enumerate(order)
    )


def sampler(recipe: str, chance: random.Random) -> list[float]:
    """The same of the energy sampler, ten readings of three files a second, in this process."""
    variant = live.demo(recipe)
    engine = open_engine(ENGINE_OF_FORMAT[variant.manifest.format])
    loaded = load(Job(engine.name, (), Data()), engine, {}, Model("m", str(variant.paths()[0])))
    bind(loaded)
    invoke, clock = loaded.session.invoke, CPU_CLOCKS[loaded.session.cpu_clock]
    channels = tuple(SensorChannel(path, path) for path in SAMPLED)

    def block(sampling: bool) -> float:
        with Sampler(channels, 10.0) if sampling else nullcontext():
            time.sleep(0.02)  # the sampler is at work long before the first window of an energy run
            taken = take(invoke, clock, min_samples=20, min_ns=int(SAMPLER_S * 1e9), max_ns=10**11)
        return float(np.median(taken.wall_ns()))

    logs = []
    with undisturbed():
        block(False)
        for _ in range(SAMPLER_PAIRS):
            found = {sampling: block(sampling) for sampling in chance.sample((True, False), 2)}
            logs.append(math.log(found[True] / found[False]))
    return interval(logs)


def at_work_s(data: SessionData) -> float:
    """Seconds that the device loaded, warmed up and inferred: every sample that is stored, loads, and the inferences of probes."""
    medians = {row.variant: (row.latency_median_ns or 0.0) / 1e9 for row in build_rows(data)}
    invokes = int(data.session.protocol["memory_invokes"])
    total = 0.0
    for run in data.runs:
        total += sum(float(block.wall_ns.sum()) for block in run.blocks) / 1e9
        total += sum(load.load_ns + (load.first_inference_ns or 0) for load in run.loads) / 1e9
        if run.kind == PROBE:
            rows = {item.variant: item.rows for item in run.evaluations}
            total += sum(medians[name] * (invokes + rows.get(name, 0)) for name in (load.variant for load in run.loads))
    return total


def host(folder: Path) -> dict[str, Any]:
    """`harness demo`: what of it was neither conversion nor the device at work, per measured variant."""
    command = Path(sys.executable).with_name("harness")
    subprocess.run([str(command), "demo", "--results", str(folder)], check=True, capture_output=True, timeout=600)
    ended = time.time()
    with Store.open(folder / "harness.sqlite") as store:
        data = store.load(store.resolve("latest"))
    variants = sum(row.latency_median_ns is not None for row in build_rows(data))
    wall = ended - datetime.fromisoformat(data.session.created_at).timestamp()
    work = at_work_s(data)
    return {
        "variants": variants,
        "runs": len(data.runs),
        "wall_s": wall,
        "at_work_s": work,
        "per_variant_s": (wall - work) / variants,
    }


def measure(seed: int) -> Result:
    chance = random.Random(seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory(prefix="fidelity-") as name:
        loops = loop_ns(Path(name))
        ratios = {f"counters, {recipe}": collectors(recipe, chance) for recipe in ("tflite:fp32", "onnx:fp32")}
        ratios["energy sampler, tflite:fp32"] = sampler("tflite:fp32", chance)
        cost = host(Path(name) / "demo")
    loop = float(np.median(loops))
    share = (cost["wall_s"] - cost["at_work_s"]) / cost["wall_s"]
    shifts = max(abs(ratio[0] - 1.0) for ratio in ratios.values())
    figure = {
        "loop, ns a sample": round(loop),
        "collectors, median ratio [95 %]": {key: [round(value, 4) for value in ratio] for key, ratio in ratios.items()},
        "host, s a variant": round(cost["per_variant_s"], 2),
    }
    passed = loop <= MOST_NS and shifts <= MOST_SHIFT and (cost["per_variant_s"] <= MOST_S or share <= MOST_SHARE)
    note = f"the host's is that of `harness demo` (quick): {cost['variants']} variants, {cost['runs']} agent processes, reports included"
    details = {"loop_ns": loops, "ratios": ratios, "host": cost}
    bound = "loop ≤ 1 µs; collectors ≤ 1 %; host ≤ 3 s a variant or ≤ 10 % of the session"
    return Result(passed, figure, bound, 2 * PAIRS + SAMPLER_PAIRS, note, details)


GOAL = Goal("cost of measuring", measure, 300)
