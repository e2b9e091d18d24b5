"""The sustained run: one model at work without a pause for minutes, in blocks of a second, with a look at the heat after each.

What a device can do for long is what its cooling allows. Per second go home: how many inferences, their exact median, p90, least
and most, wall and CPU time in all, what the thermal files say, and the samples themselves in time order; of a model so fast
that a second has more than `plan.keep`, every n-th (`kept_every`). Between two blocks the model rests only for what
counting and sending take: about a millisecond, some hundredths of the time for a model of a few microseconds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .channel import AgentError, Channel
from .engines.base import Engine
from .heat import Watch
from .inputs import Array
from .protocol import Job, Model
from .runs import Loaded, bind, invoke_once, load, ns
from .sampling import CPU_CLOCKS, Samples, capacity_for, take, undisturbed
from .scenarios import SustainedPlan


def run_sustained(job: Job, plan: SustainedPlan, engine: Engine, data: dict[str, Array], channel: Channel) -> None:
    """Each model of the job by itself, without warm-up: the first seconds are what a cool device gives."""
    watch = Watch()
    for model in job.models:
        try:
            _measure(job, plan, engine, data, model, watch, channel)
        except AgentError as error:
            channel.error(model.id, error)


def _measure(
    job: Job,
    plan: SustainedPlan,
    engine: Engine,
    data: dict[str, Array],
    model: Model,
    watch: Watch,
    channel: Channel,
) -> None:
    channel.stage("load", model.id)
    with undisturbed():
        loaded = load(job, engine, data, model)
        bind(loaded)
        loaded.shortest_ns = first_ns = invoke_once(loaded)
        facts = loaded.session.facts(deep=False)
        channel.send("loaded", id=model.id, load_ns=loaded.load_ns, first_inference_ns=first_ns, facts=facts)
        channel.stage("sustained", model.id)
        until = time.perf_counter_ns() + ns(plan.duration_s)
        index = 0
        while True:
            samples = _second(loaded, ns(plan.interval_s))
            _tell(loaded, samples, index, plan, watch, channel)
            index += 1
            if time.perf_counter_ns() >= until:
                return


def _second(loaded: Loaded, length_ns: int) -> Samples:
    """Inferences back to back for that long, at least one."""
    clock = CPU_CLOCKS[loaded.session.cpu_clock]
    room = capacity_for(1, length_ns, loaded.shortest_ns)
    return take(loaded.session.invoke, clock, min_samples=1, min_ns=length_ns, max_ns=length_ns, capacity=room)


def _median(ordered: NDArray[np.int64]) -> float:
    """The median of values of which the middle one is in its place and the smaller ones before it."""
    half = ordered.size // 2
    upper = int(ordered[half])
    return float(upper) if ordered.size % 2 else (upper + int(ordered[:half].max())) / 2.0


def _tell(loaded: Loaded, samples: Samples, index: int, plan: SustainedPlan, watch: Watch, channel: Channel) -> None:
    """Send a second; then raise what ended it early, if anything."""
    ended_ns = time.perf_counter_ns()
    if samples.count:
        wall = np.frombuffer(samples.wall, np.int64, samples.count)
        cpu = np.frombuffer(samples.cpu, np.int64, samples.count)
        every = -(-samples.count // plan.keep)
        tail = -(-9 * samples.count // 10) - 1  # nearest rank
        ordered = np.partition(wall, (samples.count // 2, tail))
        # Room for the next second's samples: as many as in this, and no more to be wiped than that.
        loaded.shortest_ns = (ended_ns - samples.started_ns) // samples.count
        values: dict[str, Any] = {
            "id": loaded.model.id,
            "index": index,
            "started_ns": samples.started_ns,
            "ended_ns": ended_ns,
            "count": samples.count,
            "median_ns": _median(ordered),
            "p90_ns": int(ordered[tail]),
            "min_ns": int(wall.min()),
            "max_ns": int(wall.max()),
            "wall_ns": int(wall.sum()),
            "cpu_ns": int(cpu.sum()),
            "kept_every": every,
            "thermal": watch.look(),
        }
        fields = {"id": loaded.model.id, "index": index, "phase": "measure", "started_ns": samples.started_ns}
        fields |= {"wall_ns": wall[::every].tolist(), "cpu_ns": cpu[::every].tolist()}
        channel.send("block", **fields, cpu_clock=loaded.session.cpu_clock)
        channel.send("sensor", name="second", values=values)
    error = samples.stopped_by
    if isinstance(error, Exception):
        raise AgentError.wrap("invoke", error, "the engine stopped in a long run: see its message") from error
    if error is not None:
        raise error
