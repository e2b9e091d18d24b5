"""The jobs of a session in their order: probes, then latency rounds; what is healthy, when to stop, what to tell.

The working part of `harness.runner`, which opens and closes what this uses. One job at a time: two on one machine would
measure each other.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from converters.variant import Variant
from harness.agent.protocol import ENGINE_OF_FORMAT, Data, Job, Model, ProbePlan
from harness.collectors.meters import Meter
from harness.devices.device import Device
from harness.errors import DeviceError
from harness.plan import (
    COUNTED_PACE,
    EnergyJob,
    LatencyJob,
    Plan,
    ProbeJob,
    Target,
    for_counted_instructions,
    latency_plan,
)
from harness.records import (
    ENERGY,
    LATENCY,
    PROBE,
    Failure,
    Run,
)
from harness.session.attempts import Outcome, Work, begin, carry_out, failed_run, to_run
from harness.session.events import COOLING, FAILED, FINISHED, RETRY, STARTED, STOPPED, UNREACHABLE, Event, OnEvent
from harness.session.metering import meters_of, plan_for
from harness.session.resume import Progress
from harness.session.sink import SessionStore
from harness.session.standing import Standing
from harness.session.together import MeetingPlaces, Member, carry_out_together, circles, in_turns

Key = tuple[str, str]  # device, engine
# A run that died without a culprit is tried once more as it was.
_BLIND_RETRIES = 1


NOTHING_YET = Progress()
NO_OPTIONS: Mapping[str, Any] = {}


def _key(job: LatencyJob) -> Key:
    return (job.device, job.engine)


def _pace(device: Device) -> float:
    return COUNTED_PACE if device.profile.counts_instructions else 1.0


class Measuring:
    """State of a session while it is measured."""

    def __init__(
        self,
        *,
        session_id: str,
        plan: Plan,
        artifacts: Mapping[str, Variant],
        devices: Mapping[str, Device],
        inputs: Mapping[str, Path],
        rows: int,
        threads: int,
        precision: str,
        options: Mapping[str, Any] = NO_OPTIONS,
        task: str | None,
        folder: Path,
        store: SessionStore,
        on_event: OnEvent,
        pause: Callable[[float], None],
        progress: Progress = NOTHING_YET,
    ) -> None:
        self.session_id = session_id
        self.plan = plan
        counted = for_counted_instructions(plan.protocol)
        self.protocols = {
            name: counted if device.profile.counts_instructions else plan.protocol for name, device in devices.items()
        }
        self.progress = progress
        self.artifacts = artifacts
        self.devices = dict(devices)
        self.inputs = inputs
        self.rows = rows
        self.threads = threads
        self.precision = precision
        self.options = dict(options)
        self.task = task
        self.folder = folder
        self.store = store
        self.on_event = on_event
        self.pause = pause
        self.state = Standing(plan, self.protocols, progress)
        self.round = 0
        self.runs = progress.last
        self.places = MeetingPlaces()

    def run(self) -> None:
        """Measure. Raises KeyboardInterrupt, and whatever the store raises."""
        self._record_missing_engines()
        probes = [
            job
            for job in self.plan.probes()
            if job.repetition < self.protocols[job.device].probes
            and (job.device, job.variant, job.repetition) not in self.progress.probes
        ]
        self.state.probes_left = len(probes)
        for job in probes:
            if job.variant in self.state.healthy[job.device, job.engine]:
                self._probe(job)
            else:
                self.state.probes_left -= 1
        self._latency_rounds()
        self._energies()

    # -- telling ---------------------------------------------------------------------------------------------------

    def tell(self, kind: str, text: str, *, device: str | None = None, engine: str | None = None) -> None:
        """Send an event with how far the session is."""
        state = self.state
        self.on_event(Event(kind, text, state.done, state.done + state.left, state.remaining_s(), device, engine))

    # -- one job ---------------------------------------------------------------------------------------------------

    def _job(self, device: Device, engine: str, variants: tuple[str, ...]) -> Job:
        """A job without its plan; brings to the device what it needs. Raises DeviceError."""
        models: list[Model] = [device.deploy_variant(self.artifacts[name]) for name in variants]
        remote = {}
        for name, path in self.inputs.items():
            remote[name] = f"{device.deploy({path.name: path})}/{path.name}"
        return Job(
            engine=engine,
            models=tuple(models),
            data=Data(inputs=remote, rows=self.rows, seed=self.plan.seed),
            # Waiting for another thread would pass for work on a clock that counts instructions.
            threads=1 if device.profile.counts_instructions else self.threads,
            affinity=device.profile.pinned_to,
            precision=self.precision,
            options=self.options,
        )

    def _carry_out(self, device: Device, work: Work, retries: int = 0) -> tuple[Run, Outcome]:
        """Do the work, store the run at once, tell; the partial run too when interrupted."""
        name = device.profile.name
        outcome = begin()
        what = f"{name} {work.engine} " + (f"run {work.round + 1}" if work.kind == LATENCY else work.variants[0])
        self.tell(STARTED, what, device=name, engine=work.engine)

        def retrying(error: DeviceError, pause_s: float) -> None:
            self.tell(RETRY, f"{what}: {error}; again in {pause_s:g} s", device=name, engine=work.engine)
            self.pause(pause_s)

        def cooling(words: str) -> None:
            self.tell(COOLING, f"{what}: {words}", device=name, engine=work.engine)

        try:
            with device.awake():
                carry_out(device, work, outcome, retrying=retrying, cool=lambda: device.cool_down(self.pause, cooling))
        finally:
            # Also on the way out of an interruption: what was measured until then is kept.
            run = self._store(device, work, outcome, retries=retries)
        self._settle(device, work, run, outcome, what)
        return run, outcome

    def _store(
        self, device: Device, work: Work, outcome: Outcome, *, retries: int = 0, turns: str | None = None
    ) -> Run:
        run = to_run(
            outcome,
            work,
            run_id=self._next_id(),
            session_id=self.session_id,
            device=device.profile.name,
            retries=retries,
        )
        if turns is not None and run.status == "ok":
            # Equal for runs made together: their rounds may be compared one by one.
            run.environment["turns"] = turns
        self.store.add_run(run)
        return run

    def _settle(self, device: Device, work: Work, run: Run, outcome: Outcome | None, what: str) -> None:
        """What follows from a stored run: what is still healthy, what is left to do, what to tell."""
        name = device.profile.name
        self.state.count(run)
        if outcome is not None and outcome.lost and outcome.error is not None:
            self._lose(device, outcome.error)
        for variant, failure in run.failed_variants.items():
            self.state.drop((name, work.engine), variant)
            self.tell(FAILED, f"{name} {variant}: {failure.message}", device=name, engine=work.engine)
        if run.status == "ok":
            self.tell(FINISHED, what, device=name, engine=work.engine)
        elif not run.failed_variants and run.failure is not None:
            self.tell(FAILED, f"{what}: {run.failure.message}", device=name, engine=work.engine)

    def _lose(self, device: Device, error: DeviceError) -> None:
        """A device is gone for good: record it, ask nothing more of it."""
        name = device.profile.name
        self.store.add_device(self.session_id, device.failed(error))
        self.state.lose(name)
        self.tell(UNREACHABLE, str(error), device=name)

    def _record_missing_engines(self) -> None:
        """A variant whose engine a device lacks is a failed row with a remedy, not a silence."""
        for name, device in self.devices.items():
            lacking: dict[str, list[str]] = defaultdict(list)
            for variant, artifact in self.artifacts.items():
                engine = ENGINE_OF_FORMAT[artifact.manifest.format]
                if engine not in device.engines and (name, variant) not in self.progress.told:
                    lacking[engine].append(variant)
            for engine, variants in lacking.items():
                failure = device.why_no_engine(engine)
                self._store_failure(name, engine, variants, failure)

    def _store_failure(self, device: str, engine: str, variants: Sequence[str], failure: Failure) -> None:
        """A failed row for each of these variants, from what is known without a run of their own."""
        run = failed_run(
            run_id=self._next_id(),
            session_id=self.session_id,
            device=device,
            engine=engine,
            round_=self.round,
            variants=variants,
            failure=failure,
        )
        self.store.add_run(run)
        self.tell(FAILED, failure.message, device=device, engine=engine)

    def _next_id(self) -> str:
        self.runs += 1
        return f"{self.session_id}.{self.runs:05d}"

    # -- probes ----------------------------------------------------------------------------------------------------

    def _probe(self, job: ProbeJob) -> None:
        device, protocol = self.devices[job.device], self.protocols[job.device]
        outputs = f"{device.folder}/outputs.npy" if job.evaluate and self.task is not None else None

        def build() -> Job:
            plan = ProbePlan(memory_invokes=protocol.memory_invokes, outputs_path=outputs)
            return replace(self._job(device, job.engine, (job.variant,)), probe=plan)

        work = Work(
            PROBE,
            job.engine,
            job.repetition,
            (job.variant,),
            build,
            protocol.hang_s,
            task=self.task if outputs else None,
            folder=self.folder,
            pace=_pace(device),
        )
        run, _ = self._carry_out(device, work)
        self.state.durations[PROBE].append(run.duration_s)
        for load in run.loads:
            if load.first_inference_ns is not None:
                self.state.first_s[job.device, load.variant] = load.first_inference_ns / 1e9

    # -- latency ---------------------------------------------------------------------------------------------------

    def _latency_rounds(self) -> None:
        started = time.monotonic()
        for round_ in range(self.plan.protocol.max_runs):
            self.round = round_
            healthy = {key: names for key, names in self.state.healthy.items() if self.state.open[key] and names}
            for circle in circles(self.plan.latencies(self.round, healthy), self.devices):
                jobs = [job for job in circle if self.state.open[job.device, job.engine]]
                missing = [job for job in jobs if self.round not in self.progress.rounds.get(_key(job), ())]
                for job in self._in_turns(missing):
                    self._latency(job)
                for job in jobs:
                    self._stop_if_enough(_key(job), time.monotonic() - started)
            if not any(self.state.open.values()):
                return

    def _stop_if_enough(self, key: Key, elapsed_s: float) -> None:
        decision = self.state.decision(key, elapsed_s)
        if decision.stop and self.state.open[key]:
            self.state.open[key] = False
            self.tell(STOPPED, f"{key[0]} {key[1]}: {decision.reason}", device=key[0], engine=key[1])

    def _in_turns(self, jobs: list[LatencyJob]) -> list[LatencyJob]:
        """Make these runs together, where they can be; those that must (still) be made alone."""
        devices = [self.devices[job.device] for job in jobs]
        place = self.places.of(devices) if len(jobs) > 1 else None
        if place is None:
            return jobs
        label = f"{self.round}-{jobs[0].engine}"
        folder = f"{place}/{label}"
        wait_s = sum(self.protocols[job.device].hang_s + self.state.planned_s(_key(job)) for job in jobs)
        members = []
        for index, (job, device) in enumerate(zip(jobs, devices, strict=True)):
            work = in_turns(self._latency_work(device, job), folder, index, len(jobs), wait_s)
            members.append(Member(device, work, begin(), partial(device.cool_down, self.pause, lambda _words: None)))
        what = f"{' and '.join(job.device for job in jobs)} {jobs[0].engine} run {self.round + 1}, in turns"
        self.tell(STARTED, what, device=jobs[0].device, engine=jobs[0].engine)
        try:
            carry_out_together(members, folder)
        finally:
            runs = [self._store(member.device, member.work, member.outcome, turns=label) for member in members]
        for member, run in zip(members, runs, strict=True):
            # A lost connection is not the end of the device: the run made alone connects anew.
            self._settle(member.device, member.work, run, None, what)
            if run.status == "ok":
                self.state.note(run)
        return [job for job, run in zip(jobs, runs, strict=True) if run.status != "ok"]

    def _latency(self, job: LatencyJob) -> None:
        """A run; when a variant kills it, again without that variant, until a run ends."""
        key = (job.device, job.engine)
        device, target = self.devices[job.device], Target(job.device, job.engine, tuple(sorted(job.variants)))
        retries, blind = 0, 0
        while self.state.open[key] and self.state.healthy[key]:
            work = self._latency_work(device, job)
            before = set(self.state.healthy[key])
            run, outcome = self._carry_out(device, work, retries)
            if run.status == "ok":
                self.state.note(run)
                return
            if outcome.lost:
                return
            if before == self.state.healthy[key]:
                blind += 1
                if blind > _BLIND_RETRIES:
                    self._give_up(key, run)
                    return
            retries += 1
            job = self.plan.latency(target, job.round, self.state.healthy[key], retry=retries)
            self.tell(RETRY, f"{job.device} {job.engine}: again with {len(job.variants)} variants", device=job.device)

    def _latency_work(self, device: Device, job: LatencyJob) -> Work:
        protocol = self.protocols[job.device]

        def build() -> Job:
            plan = latency_plan(protocol, job.order[: protocol.rounds])
            return replace(self._job(device, job.engine, job.variants), latency=plan)

        return Work(LATENCY, job.engine, job.round, job.variants, build, protocol.hang_s, pace=_pace(device))

    # -- energy ----------------------------------------------------------------------------------------------------

    def _energies(self) -> None:
        """Energy runs, one variant at a time, on devices with a meter that can be believed."""
        jobs = [
            job
            for job in self.plan.energies(self.state.healthy)
            if (job.device, job.variant) not in self.progress.energy
        ]
        meters = meters_of(self.devices, (job.device for job in jobs), self.store, self.session_id)
        jobs = [job for job in jobs if job.device in meters]
        self.state.energies_left = len(jobs)
        for job in jobs:
            self._energy(job, meters[job.device])

    def _energy(self, job: EnergyJob, meter: Meter) -> None:
        if job.variant not in self.state.healthy[job.device, job.engine]:
            self.state.energies_left -= 1
            return
        device, protocol = self.devices[job.device], self.protocols[job.device]

        def build() -> Job:
            return replace(self._job(device, job.engine, (job.variant,)), energy=plan_for(protocol, meter))

        self._carry_out(device, Work(ENERGY, job.engine, 0, (job.variant,), build, protocol.hang_s))

    def _give_up(self, key: Key, run: Run) -> None:
        """Runs of this engine die here and nobody knows of what: say so for each variant."""
        failure = run.failure or Failure("measurement", "RunFailed", "the run failed")
        variants = sorted(self.state.healthy[key])
        self.state.healthy[key], self.state.open[key] = set(), False
        self._store_failure(key[0], key[1], variants, failure)
