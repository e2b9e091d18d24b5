"""The offline run: how many inferences a second, in batches and with several streams at once, variants interleaved.

Like a latency run, all models of the job are loaded into one process and visited in the plan's order, round by round. A visit
keeps every stream busy for a while; only when each began, ended, and how many batches it did is noted. Before any of that
the outputs of a batch are held against those of its rows one by one: a number of wrong answers is worth nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .channel import AgentError, Channel
from .engines.base import Engine, LoadOptions, Session, Shapes
from .engines.injected import wrapped
from .environment import contention
from .inputs import Array, Feeder, dequantize, match, merged
from .protocol import Job, Model, Tensor
from .runs import Loaded, bind, load, ns
from .sampling import undisturbed
from .scenarios import OfflinePlan
from .streams import Lap, work_together

_OTHER_BATCH = "measure it with --batch 1, or convert it with a free batch dimension that its operators follow"


class BatchFeeder(Feeder):
    """A Feeder that gives every free batch dimension (the first) the size `wanted`; `free` tells which inputs have one."""

    def __init__(self, model: Model, data: dict[str, Array], job: Job, wanted: int) -> None:
        super().__init__(model.inputs, data, rows=job.data.rows, seed=job.data.seed)
        self.wanted = wanted
        self.free: tuple[bool, ...] | None = None

    def shapes(self, reported: Sequence[Tensor]) -> Shapes:
        """As the Feeder's; what the engine reports before it is reshaped decides what is free."""
        found = super().shapes(reported)
        if self.free is None:
            self.free = tuple(tensor.shape[:1] == (None,) for tensor in reported)
            pairs = zip(found, self.free, strict=True)
            return tuple((self.wanted, *shape[1:]) if free else shape for shape, free in pairs)
        return found


@dataclass(slots=True)
class Crew:
    """A model ready for the offline scenario: one session for each stream, and the batch it really takes."""

    model: Model
    sessions: list[Session]
    feeder: BatchFeeder
    batch: int
    load_ns: int

    def invokes(self) -> list[Callable[[], object]]:
        """One callable a stream."""
        return [session.invoke for session in self.sessions]


def open_crew(job: Job, plan: OfflinePlan, engine: Engine, data: dict[str, Array], model: Model) -> Crew:
    """Load a model once for each stream and bind a batch to each.

    An engine that has `load_streams` shares one compiled model between them; for others each stream loads its own. Where the
    artifact's batch is fixed it is taken as it is. Raises AgentError of kind "load" or "data".
    """
    feeder = BatchFeeder(model, data, job, plan.batch)
    options = LoadOptions(threads=job.threads, precision=job.precision, shapes=feeder.shapes, extra=job.options)
    shared = getattr(engine, "load_streams", None)
    started = time.perf_counter_ns()
    try:
        if shared is not None:
            sessions = list(shared(model.path, options, plan.streams))
        else:
            sessions = [_again(engine, feeder, model, options) for _ in range(plan.streams)]
    except Exception as error:
        raise AgentError.wrap(
            "load", error, f"the artifact does not load in a batch of {plan.batch}: {_OTHER_BATCH}"
        ) from error
    took = time.perf_counter_ns() - started
    sessions = [wrapped(session, job.options, model.id) for session in sessions]
    crew = Crew(model, sessions, feeder, plan.batch, took)
    try:
        feeder.prepare(sessions[0].tensors()[0])
        crew.batch = _own_batch(feeder)
        inputs = feeder.batch(0)
        for session in sessions:
            session.bind(inputs)
    except Exception as error:
        raise AgentError.wrap("data", error, "give data of the model's shape and type") from error
    return crew


def _again(engine: Engine, feeder: BatchFeeder, model: Model, options: LoadOptions) -> Session:
    feeder.free = None  # each load reports the artifact as it lies on the disk
    return engine.load(model.path, options)


def _own_batch(feeder: BatchFeeder) -> int:
    """The batch that was asked for where some input's is free, else the one that the artifact has."""
    if any(feeder.free or ()):
        return feeder.wanted
    first = feeder.tensors[0].shape if feeder.tensors else ()
    return int(first[0] or 1) if first else 1


def deviation(job: Job, plan: OfflinePlan, engine: Engine, data: dict[str, Array], crew: Crew) -> float | None:
    """How far the outputs of a batch lie from those of its rows taken one by one, in every stream: the largest difference,
    relative to the largest absolute output. None for a batch of one or a fixed one: there is nothing to compare it with.

    Raises AgentError "BatchMismatch" when it exceeds `plan.tolerance`, or an output has no row for each row.
    """
    free = crew.feeder.free or ()
    if crew.batch == 1 or not any(free):
        return None
    single = load(job, engine, data, crew.model)
    bind(single)
    inputs = crew.feeder.batch(0)
    wanted = _one_by_one(single, inputs, free, crew.batch)
    worst = 0.0
    for session in crew.sessions:
        session.bind(inputs)
        session.invoke()
        for place, (got, expected) in enumerate(zip(_real(crew.model, session), wanted, strict=True)):
            if got.shape != expected.shape:
                raise _mismatch(
                    f"output {place} has shape {got.shape} in a batch of {crew.batch}, not {expected.shape}"
                )
            scale = float(np.abs(expected).max(initial=0.0)) or 1.0
            worst = max(worst, float(np.abs(got - expected).max(initial=0.0)) / scale)
    if not worst <= plan.tolerance:
        words = f"the outputs of a batch of {crew.batch} differ from those of its rows one by one by {worst:.2g} of their range"
        raise _mismatch(f"{words}, more than {plan.tolerance:g}")
    return worst


def _one_by_one(single: Loaded, inputs: Sequence[Array], free: Sequence[bool], batch: int) -> list[NDArray[np.float32]]:
    """The outputs of each row by itself, stacked: float32 [batch, …] for each output."""
    rows: list[list[NDArray[np.float32]]] = []
    for row in range(batch):
        single.session.bind([a[row : row + 1] if f else a for a, f in zip(inputs, free, strict=True)])
        single.session.invoke()
        rows.append(_real(single.model, single.session))
    return [np.concatenate([outputs[place] for outputs in rows]) for place in range(len(rows[0]))]


def _real(model: Model, session: Session) -> list[NDArray[np.float32]]:
    """All outputs of the last inference as real values."""
    reported = session.tensors()[1]
    specs = match(model.outputs, reported, "output")
    return [
        np.atleast_1d(dequantize(output, merged(spec, tensor)))
        for output, spec, tensor in zip(session.outputs(), specs, reported, strict=True)
    ]


def _mismatch(words: str) -> AgentError:
    return AgentError("invoke", words, name="BatchMismatch", remedy=_OTHER_BATCH)


def run_offline(job: Job, plan: OfflinePlan, engine: Engine, data: dict[str, Array], channel: Channel) -> None:
    """Load and check all models, warm each up, then visit them in the plan's order. A failure concerns that model alone."""
    alive: dict[str, Crew] = {}

    def guarded(name: str, stage: str, work: Callable[[], None]) -> None:
        channel.stage(stage, name)
        try:
            work()
        except AgentError as error:
            alive.pop(name, None)
            channel.error(name, error)

    def prepare(model: Model) -> None:
        crew = open_crew(job, plan, engine, data, model)
        try:
            far = deviation(job, plan, engine, data, crew)
        except Exception as error:
            raise AgentError.wrap("invoke", error, _OTHER_BATCH) from error
        facts = crew.sessions[0].facts(deep=False)
        facts |= {"batch": crew.batch, "batch_asked": plan.batch, "streams": len(crew.sessions), "batch_deviation": far}
        alive[model.id] = crew
        channel.send("loaded", id=model.id, load_ns=crew.load_ns, first_inference_ns=None, facts=facts)

    for model in job.models:
        guarded(model.id, "load", lambda model=model: prepare(model))  # type: ignore[misc]
    with undisturbed():
        for name in list(alive):
            guarded(name, "warmup", lambda name=name: _warm_up(alive[name], plan, channel))  # type: ignore[misc]
        for index, order in enumerate(plan.order):
            for name in order:
                if name in alive:
                    guarded(name, "offline", lambda name=name, index=index: _visit(alive[name], index, plan, channel))  # type: ignore[misc]
            channel.send("sensor", name="contention", values={"round": index, **contention()})


def _warm_up(crew: Crew, plan: OfflinePlan, channel: Channel) -> None:
    longest = ns(plan.warmup_max_s)
    lap = work_together(
        crew.invokes(), settle=0, min_batches=plan.warmup_batches, min_ns=ns(plan.warmup_s), max_ns=longest
    )
    _tell(crew, lap, -1, "warmup", channel)


def _visit(crew: Crew, index: int, plan: OfflinePlan, channel: Channel) -> None:
    longest = ns(plan.block_max_s)
    lap = work_together(
        crew.invokes(), settle=plan.settle, min_batches=plan.block_batches, min_ns=ns(plan.block_s), max_ns=longest
    )
    _tell(crew, lap, index, "measure", channel)


def _tell(crew: Crew, lap: Lap, index: int, phase: str, channel: Channel) -> None:
    """Send a block of throughput, then raise what ended it early, if anything."""
    if lap.batches:
        values = {"id": crew.model.id, "index": index, "phase": phase, "batch": crew.batch, "batches": lap.batches}
        values |= {"started_ns": lap.started_ns, "ended_ns": lap.ended_ns, "cpu_ns": lap.cpu_ns}
        channel.send("sensor", name="throughput", values=values)
    error = lap.stopped_by
    if isinstance(error, Exception):
        raise AgentError.wrap("invoke", error, "the engine stopped in a batch: see its message") from error
    if error is not None:
        raise error
