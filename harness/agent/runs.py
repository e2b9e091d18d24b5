"""The two kinds of run that time: a probe (one model: cold start, memory, outputs) and a latency run (many models, interleaved).

Both end normally when single models fail: each failure is an `error` message with the model's id.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accelerator import accelerator_bytes
from .channel import AgentError, Channel
from .contention import COLUMNS, Counters, Reading, growth
from .engines.base import Engine, LoadOptions, Session
from .engines.injected import wrapped
from .environment import affinity, contention
from .inputs import Array, Feeder, dequantize, match, merged
from .memory import ProbeMemory
from .protocol import PLANS, Job, LatencyPlan, Model, ProbePlan, Tensor
from .sampling import CPU_CLOCKS, Samples, capacity_for, take, undisturbed
from .turns import Turns

_CONVERT_AGAIN = "the file may be damaged or made for a newer engine: convert it again, or update the engine"


@dataclass(slots=True)
class Loaded:
    """A model ready to invoke. `shortest_ns`: the shortest sample seen, to make room for a block's samples."""

    model: Model
    session: Session
    feeder: Feeder
    load_ns: int
    shortest_ns: int = 1_000_000


def load(job: Job, engine: Engine, data: dict[str, Array], model: Model) -> Loaded:
    """Load one model and time it: from the call into the engine until it is ready to invoke.

    Raises AgentError of kind "load" (the engine refuses the file) or "data" (data and model do not fit).
    """
    if not Path(model.path).is_file():
        raise AgentError("load", f"there is no file {model.path}", name="FileNotFoundError", remedy="upload it again")
    feeder = Feeder(model.inputs, data, rows=job.data.rows, seed=job.data.seed)
    options = LoadOptions(
        threads=job.threads,
        precision=job.precision,
        shapes=feeder.shapes,
        extra=job.options,
    )
    started = time.perf_counter_ns()
    try:
        session = engine.load(model.path, options)
    except Exception as error:
        raise AgentError.wrap("load", error, _CONVERT_AGAIN) from error
    load_ns = time.perf_counter_ns() - started
    return Loaded(model, wrapped(session, job.options, model.id), feeder, load_ns)


def bind(loaded: Loaded, start: int = 0) -> None:
    """Bind the rows from `start` on. Raises AgentError of kind "data"."""
    try:
        if not loaded.feeder.tensors:
            loaded.feeder.prepare(loaded.session.tensors()[0])
        loaded.session.bind(loaded.feeder.batch(start))
    except Exception as error:
        raise AgentError.wrap("data", error, "give data of the model's shape and type") from error


def invoke_once(loaded: Loaded) -> int:
    """One inference in ns. Raises AgentError of kind "invoke"."""
    samples = take(loaded.session.invoke, time.thread_time_ns, min_samples=1, min_ns=0, max_ns=0, capacity=1)
    _check(samples)
    return samples.wall[0]


def _check(samples: Samples) -> None:
    """Raise what ended the samples early: TerminatedError as it is, an engine's failure as AgentError."""
    error = samples.stopped_by
    if isinstance(error, Exception):
        raise AgentError.wrap(
            "invoke", error, "the engine loads this model but cannot run it: see its message"
        ) from error
    if error is not None:
        raise error


def run_probe(job: Job, plan: ProbePlan, engine: Engine, data: dict[str, Array], channel: Channel) -> None:
    """Load, first inference, memory and outputs of the job's models, of which a cold start wants exactly one."""
    for model in job.models:
        channel.stage("load", model.id)
        try:
            with undisturbed():
                loaded = _probe_one(job, plan, engine, data, model, channel)
            if plan.outputs_path is not None:
                channel.stage("evaluate", model.id)
                _evaluate(loaded, Path(plan.outputs_path), channel)
        except AgentError as error:
            channel.error(model.id, error)


def _probe_one(
    job: Job, plan: ProbePlan, engine: Engine, data: dict[str, Array], model: Model, channel: Channel
) -> Loaded:
    for array in data.values():
        array[:1].copy()  # have the row's pages resident before the baseline
    memory = ProbeMemory()
    loaded = load(job, engine, data, model)
    memory.end("load")
    bind(loaded)
    first_ns = invoke_once(loaded)
    memory.end("first")
    for _ in range(plan.memory_invokes):
        invoke_once(loaded)
    memory.end("steady")
    accelerator = accelerator_bytes()
    facts = loaded.session.facts(deep=True)
    channel.send("loaded", id=model.id, load_ns=loaded.load_ns, first_inference_ns=first_ns, facts=facts)
    channel.send("memory", id=model.id, memory=memory.close(facts, accelerator))
    return loaded


def _first_output(loaded: Loaded) -> tuple[int, Tensor]:
    """Which of the engine's outputs is the model's first, and its spec."""
    reported = loaded.session.tensors()[1]
    specs = match(loaded.model.outputs, reported, "output")
    place = 0
    if loaded.model.outputs:
        place = next(index for index, spec in enumerate(specs) if spec is loaded.model.outputs[0])
    return place, merged(specs[place], reported[place])


def outputs_over_rows(loaded: Loaded) -> NDArray[np.float32]:
    """The dequantized first output for every row of the data, float32 [rows, …], one batch at a time.

    Raises AgentError: kind "invoke", or "data" when the output has no row per input row.
    """
    rows, step = loaded.feeder.rows, loaded.feeder.batch_size
    place, spec = _first_output(loaded)
    result: NDArray[np.float32] | None = None
    for start in range(0, rows, step):
        bind(loaded, start)
        invoke_once(loaded)
        real = dequantize(loaded.session.outputs()[place], spec)
        if real.ndim == 0 or real.shape[0] != step:
            message = f"output {spec.name!r} has shape {real.shape} for a batch of {step}: no row per input row"
            raise AgentError("data", message)
        if result is None:
            result = np.zeros((rows, *real.shape[1:]), np.float32)
        if real.shape[1:] != result.shape[1:]:
            raise AgentError("data", f"output {spec.name!r} changes its shape from row to row: {real.shape}")
        result[start : start + step] = real[: rows - start]
    if result is None:
        raise AgentError("data", "there are no rows to evaluate", remedy="give the job data, or no outputs_path")
    return result


def _evaluate(loaded: Loaded, path: Path, channel: Channel) -> None:
    result = outputs_over_rows(loaded)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            np.save(stream, result, allow_pickle=False)
    except OSError as error:
        raise AgentError.wrap("data", error, "make room on the device, or choose another work folder") from error
    digest = hashlib.sha256(result.tobytes()).hexdigest()
    rows, shape = int(result.shape[0]), list(result.shape)
    channel.send("outputs", id=loaded.model.id, path=str(path), rows=rows, shape=shape, sha256=digest)


def run_latency(job: Job, plan: LatencyPlan, engine: Engine, data: dict[str, Array], channel: Channel) -> None:
    """Load all models, warm each up, then visit them in the plan's order, round by round."""
    alive: dict[str, Loaded] = {}

    def guarded(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except AgentError as error:
            alive.pop(name, None)
            channel.error(name, error)

    def first_load(model: Model) -> None:
        channel.stage("load", model.id)
        loaded = load(job, engine, data, model)
        bind(loaded)
        facts = loaded.session.facts(deep=False)
        alive[model.id] = loaded
        channel.send("loaded", id=model.id, load_ns=loaded.load_ns, first_inference_ns=None, facts=facts)

    for model in job.models:
        guarded(model.id, lambda model=model: first_load(model))  # type: ignore[misc]
    with undisturbed():
        for name in list(alive):
            channel.stage("warmup", name)
            guarded(name, lambda name=name: _warm_up(alive[name], plan, channel))  # type: ignore[misc]
        channel.stage("measure", None)
        turns = None if plan.turn is None else Turns(plan.turn)
        if turns is not None:
            turns.ready()
        seen = Witness(plan)
        for index, order in enumerate(plan.order):
            waited_ns = None if turns is None else turns.wait()
            for name in order:
                if name in alive:
                    guarded(name, lambda name=name, index=index: _visit(alive[name], index, plan, channel, seen))  # type: ignore[misc]
            values = seen.tell(index)
            if values and turns is not None:
                values["waited_ns"] = waited_ns
            if values:
                channel.send("sensor", name="contention", values=values)
            if turns is not None:
                turns.give()


class Witness:
    """What the counters of contention.py say of each visit of a round; nothing in the rounds that the plan leaves uncounted."""

    def __init__(self, plan: LatencyPlan) -> None:
        self._plan = plan
        self._counters = Counters(affinity() if hasattr(os, "sched_getaffinity") else ())
        self._visits: dict[str, list[int | None]] = {}

    def look(self, index: int) -> Reading | None:
        """The counters now."""
        return None if index in self._plan.uncounted else self._counters.read()

    def note(self, name: str, before: Reading | None) -> None:
        """A visit ended just now that began at `before`."""
        if before is not None:
            self._visits[name] = growth(before, self._counters.read())

    def tell(self, index: int) -> dict[str, Any]:
        """The values of the round's `contention` message; empty for an uncounted round."""
        if index in self._plan.uncounted:
            return {}
        values = {"round": index, **contention(), "columns": COLUMNS, "visits": self._visits}
        if index == 0 and self._counters.reasons:
            values["reasons"] = self._counters.reasons
        self._visits = {}
        return values


def _send_samples(channel: Channel, loaded: Loaded, samples: Samples, index: int | None, phase: str) -> None:
    """Send samples as `warmup` (index None) or `block`; none are sent as nothing. Then raise what ended them, if anything."""
    fields = {
        "id": loaded.model.id,
        "started_ns": samples.started_ns,
        "wall_ns": samples.wall_ns(),
        "cpu_ns": samples.cpu_ns(),
        "cpu_clock": loaded.session.cpu_clock,
    }
    if samples.count and index is None:
        channel.send("warmup", **fields)
    elif samples.count:
        channel.send("block", index=index, phase=phase, **fields)
    _check(samples)


def ns(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return int(seconds * 1_000_000_000)


def _warm_up(loaded: Loaded, plan: LatencyPlan, channel: Channel) -> None:
    samples = take(
        loaded.session.invoke,
        CPU_CLOCKS[loaded.session.cpu_clock],
        min_samples=plan.warmup_samples,
        min_ns=ns(plan.warmup_s),
        max_ns=ns(plan.warmup_max_s),
    )
    if samples.count:
        loaded.shortest_ns = min(samples.wall[: samples.count])
    _send_samples(channel, loaded, samples, None, "warmup")


def _visit(loaded: Loaded, index: int, plan: LatencyPlan, channel: Channel, seen: Witness) -> None:
    """One visit: settle, then measure without a pause; both are sent only when the clock no longer runs.

    The counters are read before settling, which then makes good what reading them did to the caches.
    """
    invoke, clock = loaded.session.invoke, CPU_CLOCKS[loaded.session.cpu_clock]
    longest = ns(plan.block_max_s)
    capacity = capacity_for(plan.block_samples, ns(plan.block_s), loaded.shortest_ns)
    blocks: list[tuple[str, Samples]] = []
    before = seen.look(index)
    if plan.settle > 0:
        settled = take(invoke, clock, min_samples=plan.settle, min_ns=0, max_ns=longest, capacity=plan.settle)
        blocks.append(("settle", settled))
    if not blocks or blocks[0][1].stopped_by is None:
        measured = take(
            invoke,
            clock,
            min_samples=plan.block_samples,
            min_ns=ns(plan.block_s),
            max_ns=longest,
            capacity=capacity,
        )
        blocks.append(("measure", measured))
    seen.note(loaded.model.id, before)
    for phase, samples in blocks:
        _send_samples(channel, loaded, samples, index, phase)


def check_plan(job: Job) -> None:
    """Raise AgentError of kind "job" for a job that cannot be run as it stands."""
    if len(job.plans()) != 1:
        raise AgentError("job", f"a job has exactly one of {', '.join(PLANS)}")
    known = {model.id for model in job.models}
    if len(known) != len(job.models) or not known:
        raise AgentError("job", "a job has at least one model, and no id twice")
    if job.latency is not None:
        unknown: Sequence[str] = sorted({name for order in job.latency.order for name in order} - known)
        if unknown:
            raise AgentError("job", f"the order names {', '.join(unknown)}, which is no model of the job")
    if job.threads < 1:
        raise AgentError("job", f"threads is {job.threads}")
