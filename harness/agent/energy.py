"""The third kind of run: one model after the other between two idle phases, with the power meter read throughout.

A loaded model rests (idle before), works in a few long windows back to back, and rests again (idle after). Only the edges of
the phases and the number of inferences are noted; what the meter read goes home as text. Energy is computed on the host.
"""

from __future__ import annotations

import time
from typing import Any

from .channel import AgentError, Channel
from .engines.base import Engine
from .inputs import Array
from .protocol import EnergyPlan, Job, Model
from .runs import Loaded, bind, invoke_once, load
from .sampling import Invoke, undisturbed
from .sensors import Sampler


def run_energy(job: Job, plan: EnergyPlan, engine: Engine, data: dict[str, Array], channel: Channel) -> None:
    """Each model of the job by itself: load, warm up, idle, windows of work, idle. A failure concerns that model alone."""
    channel.send("sensor", name="meter", values=plan.meter)
    for model in job.models:
        try:
            _measure(job, plan, engine, data, model, channel)
        except AgentError as error:
            channel.error(model.id, error)


def _measure(
    job: Job, plan: EnergyPlan, engine: Engine, data: dict[str, Array], model: Model, channel: Channel
) -> None:
    channel.stage("load", model.id)
    with undisturbed():
        loaded = load(job, engine, data, model)
        bind(loaded)
        first_ns = invoke_once(loaded)
        facts = loaded.session.facts(deep=False)
        channel.send("loaded", id=model.id, load_ns=loaded.load_ns, first_inference_ns=first_ns, facts=facts)
        channel.stage("energy", model.id)
        with Sampler(plan.channels, plan.rate_hz) as sampler:
            _phases(loaded, plan, sampler, channel)


def _phases(loaded: Loaded, plan: EnergyPlan, sampler: Sampler, channel: Channel) -> None:
    name, invoke = loaded.model.id, loaded.session.invoke

    def tell(phase: str, window: int, edges: tuple[int, int, int]) -> None:
        started_ns, ended_ns, inferences = edges
        values: dict[str, Any] = {"phase": phase, "id": name, "window": window}
        values |= {"started_ns": started_ns, "ended_ns": ended_ns, "inferences": inferences}
        channel.send("sensor", name="phase", values=values)
        channel.send("sensor", name="samples", values=sampler.take())

    try:
        work(invoke, plan.settle_s)  # warm-up, so that the first idle begins where the last one does: after work
        rest(plan.settle_s)
        tell("idle", 0, rest(plan.idle_s))
        work(invoke, plan.settle_s)
        for window in range(plan.windows):
            tell("load", window, work(invoke, plan.window_s))
        rest(plan.settle_s)
        tell("idle", 1, rest(plan.idle_s))
        rest(2.0 / plan.rate_hz)  # a reading beyond the last edge
        channel.send("sensor", name="samples", values=sampler.take())
    except Exception as error:
        raise AgentError.wrap("invoke", error, "the engine stopped in a long run: see its message") from error


def rest(seconds: float) -> tuple[int, int, int]:
    """Do nothing; when it began and ended (ns), and no inferences."""
    started = time.monotonic_ns()
    time.sleep(seconds)
    return started, time.monotonic_ns(), 0


def work(invoke: Invoke, seconds: float) -> tuple[int, int, int]:
    """Infer without a pause until `seconds` are over, at least once: when it began and ended (ns), and how many."""
    now = time.monotonic_ns
    count = 0
    started = now()
    until = started + int(seconds * 1e9)
    while True:
        invoke()
        count += 1
        ended = now()
        if ended >= until:
            return started, ended, count
