"""The latency runs of a session, round after round, until the intervals are narrow: which are made, together or alone.

Between `harness.session.jobs` (one job) and `harness.session.measuring` (the session).
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from harness.agent.protocol import Job
from harness.devices.device import Device
from harness.plan import COUNTED_PACE, LatencyJob, Target, latency_plan
from harness.records import LATENCY, Failure, Run
from harness.session.attempts import Work, begin
from harness.session.events import RETRY, STARTED, STOPPED
from harness.session.jobs import Jobs
from harness.session.together import Member, carry_out_together, circles, in_turns

Key = tuple[str, str]  # device, engine
# A run that died without a culprit is tried once more as it was.
_BLIND_RETRIES = 1


def _key(job: LatencyJob) -> Key:
    return (job.device, job.engine)


def pace(device: Device) -> float:
    """Seconds here for one of the device's clock, at most."""
    return COUNTED_PACE if device.profile.counts_instructions else 1.0


class LatencyRounds(Jobs):
    """Round after round of latency runs."""

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

        return Work(LATENCY, job.engine, job.round, job.variants, build, protocol.hang_s, pace=pace(device))

    def _give_up(self, key: Key, run: Run) -> None:
        """Runs of this engine die here and nobody knows of what: say so for each variant."""
        failure = run.failure or Failure("measurement", "RunFailed", "the run failed")
        variants = sorted(self.state.healthy[key])
        self.state.healthy[key], self.state.open[key] = set(), False
        self._store_failure(key[0], key[1], variants, failure)
