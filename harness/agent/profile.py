"""The fourth kind of run: one model, operator by operator. It is made apart, because a profiled engine is a slower one.

Inferences as in a latency run and inferences under the engine's profiler take turns in small blocks, so that the sum of the
operators can be held against what the same minutes gave without the profiler. Nothing is summed here; the host does that.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

from .channel import AgentError, Channel
from .engines.base import Engine, LoadOptions, Profiler
from .inputs import Array
from .protocol import Job, Model, ProfilePlan
from .runs import Loaded, bind, invoke_once, load
from .sampling import CPU_CLOCKS, Clock, take, undisturbed

_NO_PROFILE = "profile with an engine that has one: LiteRT, ONNX Runtime or OpenVINO"


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
            plain, profiled = _by_turns(loaded, profiler, plan)
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
        plain_ns=plain.wall_ns,
        plain_cpu_ns=plain.cpu_ns,
        profiled_ns=profiled.wall_ns,
        profiled_cpu_ns=profiled.cpu_ns,
        graph=graph,
        notes=list(profiler.notes),
    )


@dataclass(slots=True)
class _Times:
    """Wall and CPU time of each inference, ns, in time order."""

    wall_ns: list[int] = field(default_factory=list)
    cpu_ns: list[int] = field(default_factory=list)


def _by_turns(loaded: Loaded, profiler: Profiler, plan: ProfilePlan) -> tuple[_Times, _Times]:
    """Blocks without and with the profiler by turns."""
    invoke, clock = loaded.session.invoke, CPU_CLOCKS[loaded.session.cpu_clock]
    longest_ns = int(plan.block_max_s * 1e9)
    without, under = _Times(), _Times()

    def plain(samples: int, least_ns: int, times: _Times) -> None:
        taken = take(invoke, clock, min_samples=samples, min_ns=least_ns, max_ns=longest_ns)
        times.wall_ns += taken.wall_ns()
        times.cpu_ns += taken.cpu_ns()
        if taken.stopped_by is not None:
            raise taken.stopped_by

    plain(plan.warmup_samples, int(plan.warmup_s * 1e9), _Times())
    for _ in range(plan.warmup_samples):
        profiler.invoke()
    for _ in range(plan.rounds):
        invoke()
        plain(plan.block_samples, 0, without)
        _profiled(profiler, clock, plan.block_samples, longest_ns, under)
    return without, under


def _profiled(profiler: Profiler, clock: Clock, samples: int, longest_ns: int, times: _Times) -> None:
    now = time.perf_counter_ns
    profiler.invoke()  # another session ran meanwhile: its data are in the caches
    profiler.start()
    started = now()
    for _ in range(samples):
        before, busy = now(), clock()
        profiler.invoke()
        times.cpu_ns.append(clock() - busy)
        times.wall_ns.append(now() - before)
        profiler.collect()
        if now() - started >= longest_ns:
            break
    profiler.stop()
