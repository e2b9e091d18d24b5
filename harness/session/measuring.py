"""The jobs of a session in their order: probes, then latency rounds, then energy runs.

The working part of `harness.runner`, which opens and closes what this uses. One job at a time: two on one machine would
measure each other. `harness.session.rounds` has the latency rounds, `harness.session.jobs` what each job is made of.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from harness.agent.protocol import ENGINE_OF_FORMAT, Job, ProbePlan
from harness.collectors.meters import Meter
from harness.plan import EnergyJob, ProbeJob, energy_s
from harness.records import ENERGY, PROBE
from harness.session.attempts import Work
from harness.session.events import STOPPED
from harness.session.metering import meters_of, plan_for
from harness.session.resume import peak_of
from harness.session.rounds import LatencyRounds, pace
from harness.session.singles import SingleRuns


class Measuring(LatencyRounds, SingleRuns):
    """A session from its first probe to its last run."""

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
        self._sustained_runs()
        self._latency_rounds()
        self._energies()
        self._official_runs()

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
            pace=pace(device),
        )
        run, _ = self._carry_out(device, work)
        self.state.durations[PROBE].append(run.duration_s)
        for load in run.loads:
            if load.first_inference_ns is not None:
                self.state.first_s[job.device, load.variant] = load.first_inference_ns / 1e9
            peak = peak_of(load)
            if peak is not None:
                self.state.peaks[job.device, load.variant] = peak

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
        if energy_s(protocol) > self.budget.left_s:
            self.state.energies_left -= 1
            words = f"{job.device} {job.variant}: {self.budget.words()} before its energy run"
            self.tell(STOPPED, words, device=job.device, engine=job.engine)
            return

        def build() -> Job:
            return replace(self._job(device, job.engine, (job.variant,)), energy=plan_for(protocol, meter))

        self._carry_out(device, Work(ENERGY, job.engine, 0, (job.variant,), build, protocol.hang_s))
