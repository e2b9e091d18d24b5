"""The latency runs of a session, round after round, until the intervals are narrow: which are made, together or alone.

Between `harness.session.jobs` (one job) and `harness.session.measuring` (the session).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from harness.agent.protocol import Job
from harness.agent.scenarios import SINGLE_STREAM
from harness.devices.device import Device
from harness.plan import COUNTED_PACE, LatencyJob, latency_plan
from harness.records import LATENCY, OFFLINE, Failure, Run
from harness.scenario import offline_plan
from harness.session.attempts import Work, begin
from harness.session.events import RETRY, STARTED, STOPPED
from harness.session.jobs import Jobs
from harness.session.spending import Offer, spend
from harness.session.together import Member, carry_out_together, circles, in_turns, machine_of

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
        """Until everything is settled, has had its most, or the budget is spent."""
        for round_ in itertools.count():
            self.round = round_
            asked = self._choose()
            if not asked:
                return
            missing = {key: names for key, names in asked.items() if round_ not in self.progress.rounds.get(key, ())}
            began = not missing
            for circle in circles(self.plan.latencies(round_, missing), self.devices):
                jobs = [job for job in circle if self.state.open[_key(job)]]
                if jobs and self._fits(jobs):
                    began = True
                    self._circle(jobs)
                    self._tell_settled(asked)
            if not began:
                self._tell_spent()
                return

    def _choose(self) -> dict[Key, set[str]]:
        """Target → variants of its next run, the base among them. As long as there is no budget, or a target lacks its first runs: all
        that is not settled. Then, what the rest of the budget is best spent on."""
        state = self.state
        asked = {key: names for key in state.open if (names := state.asked(key))}
        short = any(state.made[key] < self.protocols[key[0]].runs for key in asked)
        if self.budget.total_s is None or short or not asked:
            return asked
        offers = [
            Offer(key, machine_of(self.devices[key[0]]), state.wanted(key), partial(self._cost_s, key)) for key in asked
        ]
        chosen = spend(offers, self._left_s())
        if not chosen:
            self._tell_spent()
        return {offer.key: state.with_base(offer.key, offer.further) for offer in chosen}

    def _cost_s(self, key: Key, variants: Collection[str]) -> float:
        return self.state.run_s(key, self.state.with_base(key, variants))

    def _left_s(self) -> float:
        return self.budget.left_s - self.state.energy_left_s()

    def _fits(self, jobs: Sequence[LatencyJob]) -> bool:
        """Whether these runs should end within the budget. A target's first run is made however small that is: less is nothing."""
        if any(self.state.made[_key(job)] == 0 for job in jobs):
            return True
        return sum(self.state.run_s(_key(job), job.variants) for job in jobs) <= self._left_s()

    def _tell_settled(self, asked: Collection[Key]) -> None:
        for key in asked:
            if self.state.open[key] and self.state.healthy[key] and not self.state.wanted(key):
                unsettled = self.state.unsettled(key)
                words = f"settled after {self.state.made[key]} runs"
                if unsettled:
                    words = f"all {self.protocols[key[0]].max_runs} runs are made; {self._words(unsettled)}"
                self.tell(STOPPED, f"{key[0]} {key[1]}: {words}", device=key[0], engine=key[1])

    def _tell_spent(self) -> None:
        for key in self.state.open:
            if self.state.wanted(key):
                self.state.open[key] = False
                words = f"{self.budget.words()} after {self.state.made[key]} runs"
                words = f"{words}; {self._words(self.state.unsettled(key))}"
                self.tell(STOPPED, f"{key[0]} {key[1]}: {words}", device=key[0], engine=key[1])

    def _words(self, unsettled: Mapping[str, str], most: int = 3) -> str:
        named = [f"{name} ({reason})" for name, reason in list(unsettled.items())[:most]]
        more = [f"{len(unsettled) - most} more"] if len(unsettled) > most else []
        return f"not settled: {', '.join(named + more)}"

    def _open_words(self, jobs: Sequence[LatencyJob]) -> str:
        """What is still open and why, once everything has had its first runs."""
        keys = [_key(job) for job in jobs if self.state.made[_key(job)] >= self.protocols[job.device].runs]
        found = {name: reason for key in keys for name, reason in self.state.unsettled(key).items()}
        return f"; {self._words(found, most=1)}" if found else ""

    # -- together or alone -----------------------------------------------------------------------------------------

    def _circle(self, jobs: list[LatencyJob]) -> None:
        """Make these runs together, where they can be; those that must (still) be made alone, one after the other."""
        reason = None
        if len(jobs) > 1:
            machine = machine_of(self.devices[jobs[0].device])
            reason = self._why_alone(jobs, machine)
            if reason is None:
                together = jobs
                jobs = self._in_turns(jobs)
                reason = "the runs in turns failed" if jobs else None
                if jobs and all(job.variants == self._left_of(job) for job in together):
                    self.falls[machine] = self.falls.get(machine, 0) + 1
        for job in jobs:
            self._latency(job, reason)

    def _left_of(self, job: LatencyJob) -> tuple[str, ...]:
        return tuple(name for name in job.variants if name in self.state.healthy[_key(job)])

    def _why_alone(self, jobs: Sequence[LatencyJob], machine: str) -> str | None:
        """Why these runs cannot be made in turns; None when they can."""
        if self.falls.get(machine, 0) > _BLIND_RETRIES:
            return "runs in turns failed here before, through no variant's fault"
        if any(self.protocols[job.device].scenario != SINGLE_STREAM for job in jobs):
            return "only single-stream runs take turns"
        need = sum(self.state.memory_bytes(_key(job), job.variants) for job in jobs)
        return self.places.why_not([self.devices[job.device] for job in jobs], need)

    def _in_turns(self, jobs: list[LatencyJob]) -> list[LatencyJob]:
        """Make these runs together; those that must be made again, alone."""
        devices = [self.devices[job.device] for job in jobs]
        # Also after a session went on, no two circles have the same name.
        label = f"{self.round}-{self.runs}"
        folder = f"{self.places.of(devices)}/{label}"
        wait_s = sum(self.protocols[job.device].hang_s + self.state.planned_s(_key(job)) for job in jobs)
        members = []
        for index, (job, device) in enumerate(zip(jobs, devices, strict=True)):
            work = in_turns(self._latency_work(device, job), folder, index, len(jobs), wait_s)
            members.append(Member(device, work, begin(), partial(device.cool_down, self.pause, lambda _words: None)))
        names = " and ".join(dict.fromkeys(job.device for job in jobs))
        engines = ", ".join(dict.fromkeys(job.engine for job in jobs))
        what = f"{names} {engines} run {self.round + 1}, in turns"
        self.tell(STARTED, what + self._open_words(jobs), device=jobs[0].device, engine=jobs[0].engine)
        try:
            carry_out_together(members, folder)
        finally:
            runs = [
                self._store(member.device, member.work, member.outcome, {"turns": label, "plan": self._noted(job)})
                for job, member in zip(jobs, members, strict=True)
            ]
        for job, member, run in zip(jobs, members, runs, strict=True):
            # A lost connection is not the end of the device: the run made alone connects anew.
            self._settle(member.device, member.work, run, None, what)
            if run.status == "ok":
                self.state.note(run, job.variants, share=len(jobs))
        return [job for job, run in zip(jobs, runs, strict=True) if run.status != "ok"]

    def _noted(self, job: LatencyJob, retry: int = 0) -> dict[str, Any]:
        """What the plan said, for the record: the order of loading, and of each interleaved round by position in it."""
        order = [[job.variants.index(name) for name in block] for block in job.order]
        return {"seed": self.plan.seed, "retry": retry, "loading": list(job.variants), "order": order}

    def _latency(self, job: LatencyJob, reason: str | None = None) -> None:
        """A run; when a variant kills it, again without that variant, until a run ends. `reason`: why it is not made in turns."""
        key, device = _key(job), self.devices[job.device]
        retries, blind = 0, 0
        while self.state.open[key] and (left := self._left_of(job)):
            if left != job.variants:
                retries += 1
                names = self.state.with_base(key, left)
                job = self.plan.latency(self.state.targets[key], job.round, names, retry=retries)
                self.tell(
                    RETRY, f"{job.device} {job.engine}: again with {len(job.variants)} variants", device=job.device
                )
            noted = {"plan": self._noted(job, retries)} | ({"alone": reason} if reason is not None else {})
            before = set(self.state.healthy[key])
            words = self._open_words([job])
            run, outcome = self._carry_out(device, self._latency_work(device, job), retries, noted, words)
            if run.status == "ok":
                self.state.note(run, job.variants)
                return
            if outcome.lost:
                return
            if before == self.state.healthy[key]:
                blind += 1
                if blind > _BLIND_RETRIES:
                    self._give_up(key, run)
                    return
                retries += 1
                job = self.plan.latency(self.state.targets[key], job.round, job.variants, retry=retries)

    def _latency_work(self, device: Device, job: LatencyJob) -> Work:
        protocol = self.protocols[job.device]
        offline = protocol.scenario == OFFLINE

        def build() -> Job:
            order, made = job.order[: protocol.rounds], self._job(device, job.engine, job.variants)
            if offline:
                return replace(made, offline=offline_plan(protocol, order))
            return replace(made, latency=latency_plan(protocol, order))

        return Work(
            OFFLINE if offline else LATENCY,
            job.engine,
            job.round,
            job.variants,
            build,
            protocol.hang_s,
            pace=pace(device),
        )

    def _give_up(self, key: Key, run: Run) -> None:
        """Runs of this engine die here and nobody knows of what: say so for each variant."""
        failure = run.failure or Failure("measurement", "RunFailed", "the run failed")
        variants = sorted(self.state.healthy[key])
        self.state.healthy[key], self.state.open[key] = set(), False
        self._store_failure(key[0], key[1], variants, failure)
