"""One job of a session: built, carried out, stored at once; what follows from it, and what to tell.

The lower part of `harness.session.measuring`; `harness.session.rounds` makes the latency runs with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.variant import Variant
from harness.agent.protocol import Data, Job, Model
from harness.devices.device import Device
from harness.errors import DeviceError
from harness.plan import Plan, for_counted_instructions
from harness.records import IN_ROUNDS, Failure, Run
from harness.session.attempts import Outcome, Work, begin, carry_out, failed_run, to_run
from harness.session.events import COOLING, FAILED, FINISHED, RETRY, STARTED, UNREACHABLE, Event, OnEvent
from harness.session.resume import Progress
from harness.session.sink import SessionStore
from harness.session.spending import Budget
from harness.session.standing import Standing
from harness.session.together import MeetingPlaces

NOTHING_YET = Progress()
NO_OPTIONS: Mapping[str, Any] = {}


class Jobs:
    """State of a session while it is measured, and how one job of it is done."""

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
        logs: Path | None = None,
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
        self.logs = logs
        self.store = store
        self.on_event = on_event
        self.pause = pause
        self.state = Standing(plan, self.protocols, progress)
        self.round = 0
        self.runs = progress.last
        self.places = MeetingPlaces()
        # Machine → how often runs in turns failed there and no variant was to blame.
        self.falls: dict[str, int] = {}
        self.budget = Budget(plan.protocol.budget_s, progress.spent_s)

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

    def _carry_out(
        self,
        device: Device,
        work: Work,
        retries: int = 0,
        noted: Mapping[str, Any] = NO_OPTIONS,
        words: str = "",
    ) -> tuple[Run, Outcome]:
        """Do the work, store the run at once with what is `noted`, tell; the partial run too when interrupted."""
        name = device.profile.name
        outcome = begin()
        what = f"{name} {work.engine} " + (f"run {work.round + 1}" if work.kind in IN_ROUNDS else work.variants[0])
        self.tell(STARTED, what + words, device=name, engine=work.engine)

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
            run = self._store(device, work, outcome, noted, retries=retries)
        self._settle(device, work, run, outcome, what)
        return run, outcome

    def _store(
        self,
        device: Device,
        work: Work,
        outcome: Outcome,
        noted: Mapping[str, Any] = NO_OPTIONS,
        *,
        retries: int = 0,
    ) -> Run:
        """`noted`: what to keep in the run's environment; "turns" is equal for runs made together, whose rounds may be compared one by
        one, and says nothing of a run that did not end well."""
        run = to_run(
            outcome,
            work,
            run_id=self._next_id(),
            session_id=self.session_id,
            device=device.profile.name,
            retries=retries,
        )
        run.environment.update({key: value for key, value in noted.items() if key != "turns" or run.status == "ok"})
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
