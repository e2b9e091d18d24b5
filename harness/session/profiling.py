"""Profile runs: variants operator by operator on one device, each in a fresh process, in turns with their base.

Beside `harness.session.measuring`, which measures sessions: here nothing is planned or stopped, a few runs are made and handed to
whoever asked. What the agent does in such a run is in `harness.agent.profile`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converters.variant import Variant
from harness.agent.protocol import ENGINE_OF_FORMAT, Data, Job, ProfilePlan
from harness.devices.device import Device, OpenTransport
from harness.devices.transport import open_transport
from harness.errors import DeviceError
from harness.profiles import DeviceProfile
from harness.records import PROFILE, DeviceRecord, Run
from harness.session.attempts import Work, begin, carry_out, failed_run, to_run
from harness.session.events import COOLING, FAILED, FINISHED, RETRY, STARTED, Event, OnEvent, ignore

_COUNTED_PACE = 50.0


@dataclass(frozen=True, slots=True)
class ProfileSpec:
    """What to profile: `variants` of one engine, `repetitions` fresh processes each, in random order within a repetition.
    `first_number`: of the first run's id. `options`: for the engine."""

    session_id: str
    variants: Sequence[Variant]
    device: DeviceProfile
    threads: int = 1
    precision: str = "f32"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    repetitions: int = 2
    first_number: int = 1
    hang_s: float = 120.0
    plan: ProfilePlan = field(default_factory=ProfilePlan)


def run_profiles(
    spec: ProfileSpec,
    keep: Callable[[Run], None],
    on_event: OnEvent = ignore,
    *,
    opener: OpenTransport = open_transport,
    pause: Callable[[float], None] = time.sleep,
) -> DeviceRecord:
    """Make the runs; each goes to `keep` as soon as it ended, however it ended. A variant that failed is not asked again.

    Raises DeviceError when the device cannot be reached or is lost, KeyboardInterrupt.
    """
    device = Device.open(spec.device, spec.session_id, opener=opener)
    try:
        _Profiling(spec, device, keep, on_event, pause).run()
        return device.record
    finally:
        device.close()


class _Profiling:
    """State of the runs of one call."""

    def __init__(
        self,
        spec: ProfileSpec,
        device: Device,
        keep: Callable[[Run], None],
        on_event: OnEvent,
        pause: Callable[[float], None],
    ) -> None:
        self.spec = spec
        self.device = device
        self.keep = keep
        self.on_event = on_event
        self.pause = pause
        self.number = spec.first_number
        self.done = 0
        self.total = len(spec.variants) * spec.repetitions

    def run(self) -> None:
        """All repetitions."""
        healthy = {variant.name for variant in self.spec.variants}
        for repetition in range(self.spec.repetitions):
            chance = random.Random(f"{self.spec.seed}/profile/{repetition}")  # noqa: S311 - no secret
            for variant in chance.sample(list(self.spec.variants), len(self.spec.variants)):
                if variant.name in healthy and not self._one(variant, repetition):
                    healthy.discard(variant.name)
                self.done += 1

    def _tell(self, kind: str, text: str, engine: str) -> None:
        name = self.device.profile.name
        self.on_event(Event(kind, text, self.done, self.total, None, name, engine))

    def _one(self, variant: Variant, repetition: int) -> bool:
        """One run; whether it went well. Raises DeviceError when the device is lost."""
        engine = ENGINE_OF_FORMAT[variant.manifest.format]
        name = self.device.profile.name
        run_id = f"{self.spec.session_id}.{self.number:05d}"
        self.number += 1
        if engine not in self.device.engines:
            failure = self.device.why_no_engine(engine)
            run = failed_run(
                run_id=run_id,
                session_id=self.spec.session_id,
                device=name,
                engine=engine,
                round_=repetition,
                variants=[variant.name],
                failure=failure,
                kind=PROFILE,
            )
            self.keep(run)
            self._tell(FAILED, f"{name} {variant.name}: {failure.message}", engine)
            return False
        what = f"{name} {engine} profile of {variant.name}"
        self._tell(STARTED, what, engine)
        work = Work(
            PROFILE,
            engine,
            repetition,
            (variant.name,),
            lambda: self._job(engine, variant),
            self.spec.hang_s,
            pace=_COUNTED_PACE if self.device.profile.counts_instructions else 1.0,
        )
        outcome = begin()

        def retrying(error: DeviceError, pause_s: float) -> None:
            self._tell(RETRY, f"{what}: {error}; again in {pause_s:g} s", engine)
            self.pause(pause_s)

        def cooling(words: str) -> None:
            self._tell(COOLING, f"{what}: {words}", engine)

        try:
            with self.device.awake():
                carry_out(
                    self.device,
                    work,
                    outcome,
                    retrying=retrying,
                    cool=lambda: self.device.cool_down(self.pause, cooling),
                )
        finally:
            run = to_run(outcome, work, run_id=run_id, session_id=self.spec.session_id, device=name)
            self.keep(run)
        if outcome.lost and outcome.error is not None:
            raise outcome.error
        good = run.status == "ok"
        self._tell(FINISHED if good else FAILED, what, engine)
        return good

    def _job(self, engine: str, variant: Variant) -> Job:
        counted = self.device.profile.counts_instructions
        return Job(
            engine=engine,
            models=(self.device.deploy_variant(variant),),
            # Random input of the right shapes: no engine here takes longer for other values.
            data=Data(seed=self.spec.seed),
            threads=1 if counted else self.spec.threads,
            affinity=self.device.profile.pinned_to,
            precision=self.spec.precision,
            profile=self.spec.plan,
            options=dict(self.spec.options),
        )
