"""The runs of a session that are of one variant each and take minutes: sustained ones, and official ones of MLPerf's loadgen.

Between `harness.session.jobs` (one job) and `harness.session.measuring` (the session).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from harness.agent.protocol import Job
from harness.agent.scenarios import SUSTAINED as SCENARIO_SUSTAINED
from harness.devices.device import Device
from harness.plan import EnergyJob, MeasurementProtocol
from harness.records import LOADGEN, SUSTAINED, Failure
from harness.scenario import loadgen_plan, official, official_s, single_jobs, sustained_plan, sustained_s
from harness.session.attempts import Work, failed_run
from harness.session.events import FAILED
from harness.session.jobs import Jobs
from harness.session.rounds import pace

_NO_PACKAGE = Failure(
    "device",
    "EngineMissing",
    "the runtime that is pushed to this device has no mlcommons-loadgen",
    "name a Python of the device's own in its profile, with the engine and mlcommons-loadgen installed",
)


class SingleRuns(Jobs):
    """One variant after the other, each in a process of its own."""

    def _sustained_runs(self) -> None:
        """In the sustained scenario these take the place of the latency rounds."""
        names = [name for name, protocol in self.protocols.items() if protocol.scenario == SCENARIO_SUSTAINED]
        for key in self.state.open:
            if key[0] in names:
                self.state.open[key] = False

        def build(device: Device, job: EnergyJob, protocol: MeasurementProtocol) -> Job:
            return replace(self._job(device, job.engine, (job.variant,)), sustained=sustained_plan(protocol))

        self._one_by_one(SUSTAINED, names, sustained_s, build)

    def _official_runs(self) -> None:
        """Driven by loadgen, beside our own figures, on devices that have it."""
        names = [name for name, protocol in self.protocols.items() if official(protocol)]

        def build(device: Device, job: EnergyJob, protocol: MeasurementProtocol) -> Job:
            plan = loadgen_plan(protocol, f"{device.folder}/loadgen", accuracy=self.task is not None)
            return replace(self._job(device, job.engine, (job.variant,)), loadgen=plan)

        self._one_by_one(LOADGEN, names, official_s, build)

    def _one_by_one(
        self,
        kind: str,
        names: list[str],
        seconds: Callable[[MeasurementProtocol], float],
        build: Callable[[Device, EnergyJob, MeasurementProtocol], Job],
    ) -> None:
        jobs = [
            job
            for job in single_jobs(self.plan, self.state.healthy, kind, names)
            if (kind, job.device, job.variant) not in self.progress.singles
        ]
        self.state.singles_left = [seconds(self.protocols[job.device]) for job in jobs]
        for job in jobs:
            self.state.singles_left.pop(0)
            if job.variant in self.state.healthy[job.device, job.engine]:
                self._single(kind, job, build)

    def _single(
        self, kind: str, job: EnergyJob, build: Callable[[Device, EnergyJob, MeasurementProtocol], Job]
    ) -> None:
        device, protocol = self.devices[job.device], self.protocols[job.device]
        if kind == LOADGEN and device.runtime.kind != "own":
            self._refuse(job, _NO_PACKAGE)
            return
        logs = None
        if kind == LOADGEN and self.logs is not None:
            logs = self.logs / re.sub(r"[^A-Za-z0-9._-]", "_", f"{job.device}-{job.variant}")
        work = Work(
            kind,
            job.engine,
            0,
            (job.variant,),
            lambda: build(device, job, protocol),
            protocol.hang_s,
            task=self.task if kind == LOADGEN else None,
            folder=self.folder,
            logs=logs,
            pace=pace(device),
        )
        self._carry_out(device, work)

    def _refuse(self, job: EnergyJob, failure: Failure) -> None:
        """An official run that cannot be made there: on record with the reason; the variant's own figures stay."""
        run = failed_run(
            run_id=self._next_id(),
            session_id=self.session_id,
            device=job.device,
            engine=job.engine,
            round_=0,
            variants=(job.variant,),
            failure=failure,
        )
        self.store.add_run(replace(run, kind=LOADGEN))
        self.tell(FAILED, failure.message, device=job.device, engine=job.engine)
