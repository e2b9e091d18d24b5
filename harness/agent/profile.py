"""The fourth kind of run: one model, operator by operator. It is made apart, because a profiled engine is a slower one.

Inferences as in a latency run and inferences under the engine's profiler take turns in small blocks, so that the sum of the
operators can be held against what the same minutes gave without the profiler. Nothing is summed here; the host does that.
"""

from __future__ import annotations

import time
from dataclasses import asdict

from .channel import AgentError, Channel
from .engines.base import Engine, LoadOptions, Profiler
from .inputs import Array
from .protocol import Job, Model, ProfilePlan
from .runs import Loaded, bind, invoke_once, load
from .sampling import CPU_CLOCKS, take, undisturbed

_NO_PROFILE = "profile on a device with a newer engine; `harness explain` can still compare the operators of the graphs"


def run_profile(job: Job, plan: ProfilePlan, engine: Engine, data: dict[str, Array], channel: Channel) -> None:
    """Each model of the job by itself: plain and profiled inferences by turns. A failure concerns that model alone."""
    for model in job.models:
        channel.stage("load", model.id)
        try:
            _profile(job, plan, engine, data, model, channel)
        except AgentError as error:
            channel.error(model.id, error)


def _profile(
    job: Job, plan: ProfilePlan, engine: Engine, data: dict[str, Array], model: Model, channel: Channel
) -> None:
    open_profiler = getattr(engine, "profiler", None)
    if open_profiler is None:
        message = f"the engine {engine.name} {engine.version} has no profiler"
        raise AgentError("load", message, name="NoProfilerError", remedy=_NO_PROFILE)
    with undisturbed():
        loaded = load(job, engine, data, model)
        bind(loaded)
        first_ns = invoke_once(loaded)
        facts = loaded.session.facts(deep=True)
        channel.send("loaded", id=model.id, load_ns=loaded.load_ns, first_inference_ns=first_ns, facts=facts)
        channel.stage("profile", model.id)
        options = LoadOptions(
            threads=job.threads, precision=job.precision, shapes=loaded.feeder.shapes, extra=job.options
        )
        try:
            profiler: Profiler = open_profiler(model.path, options)
            profiler.bind(loaded.feeder.batch(0))
            plain_ns, profiled_ns = _by_turns(loaded, profiler, plan)
            operators, graph = profiler.operators(), profiler.graph()
        except AgentError:
            raise
        except Exception as error:
            remedy = "the model runs, but not under this engine's profiler: see its message"
            raise AgentError.wrap("invoke", error, remedy) from error
    channel.send(
        "profile",
        id=model.id,
        method=profiler.method,
        operators=[asdict(operator) for operator in operators],
        plain_ns=plain_ns,
        profiled_ns=profiled_ns,
        graph=graph,
        notes=list(profiler.notes),
    )


def _by_turns(loaded: Loaded, profiler: Profiler, plan: ProfilePlan) -> tuple[list[int], list[int]]:
    """Blocks without and with the profiler by turns: wall time of each inference, ns, in time order."""
    invoke, clock = loaded.session.invoke, CPU_CLOCKS[loaded.session.cpu_clock]
    longest_ns = int(plan.block_max_s * 1e9)

    def plain(samples: int, least_ns: int = 0) -> list[int]:
        taken = take(invoke, clock, min_samples=samples, min_ns=least_ns, max_ns=longest_ns)
        if taken.stopped_by is not None:
            raise taken.stopped_by
        return taken.wall_ns()

    plain(plan.warmup_samples, int(plan.warmup_s * 1e9))
    for _ in range(plan.warmup_samples):
        profiler.invoke()
    without: list[int] = []
    under: list[int] = []
    for _ in range(plan.rounds):
        without += plain(plan.block_samples)
        under += _profiled(profiler, plan.block_samples, longest_ns)
    return without, under


def _profiled(profiler: Profiler, samples: int, longest_ns: int) -> list[int]:
    now = time.perf_counter_ns
    taken: list[int] = []
    profiler.invoke()  # another session ran meanwhile: its data are in the caches
    profiler.start()
    started = now()
    while len(taken) < samples and now() - started < longest_ns:
        before = now()
        profiler.invoke()
        taken.append(now() - before)
        profiler.collect()
    profiler.stop()
    return taken
