"""How a session stands while it is measured: which variants are healthy, which targets are open, what was made, what is left.

Kept by `harness.session.measuring`, which alone changes it; the estimate of the rest of the time is made from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from harness.plan import MeasurementProtocol, Plan, energy_s, visit_s
from harness.records import ENERGY, PROBE, Run
from harness.session.resume import Progress, run_medians
from harness.stats.stopping import Decision, StoppingRule, decide

Key = tuple[str, str]  # device, engine


class Standing:
    """State of a session. `healthy`: variants still asked for; `open`: whether a target still wants runs; `medians`: target →
    variant → one median per run, ns; `first_s`: (device, variant) → seconds; `durations`: seconds of what was done, by kind
    or target; `made`: latency runs per target."""

    def __init__(self, plan: Plan, protocols: Mapping[str, MeasurementProtocol], progress: Progress) -> None:
        self.plan = plan
        self.protocols = protocols
        self.healthy: dict[Key, set[str]] = {
            target.key: {name for name in target.variants if (target.device, name) not in progress.failed}
            for target in plan.targets
        }
        self.open: dict[Key, bool] = {target.key: True for target in plan.targets}
        self.medians: dict[Key, dict[str, list[float]]] = {
            key: {name: list(found) for name, found in progress.medians.get(key, {}).items() if name in names}
            for key, names in self.healthy.items()
        }
        self.first_s: dict[tuple[str, str], float] = dict(progress.first_s)
        self.durations: dict[object, list[float]] = defaultdict(list)
        self.made: dict[Key, int] = {key: len(progress.rounds.get(key, ())) for key in self.open}
        self.done = len(progress.probes) + sum(self.made.values())
        self.probes_left = 0
        # A guess until the meters are known: devices without one make none.
        planned = plan.energies(self.healthy)
        self.energies_left = sum((job.device, job.variant) not in progress.energy for job in planned)

    @property
    def left(self) -> int:
        """Jobs still to be made, at least."""
        return self.probes_left + sum(self.runs_left(key) for key in self.open) + self.energies_left

    def runs_left(self, key: Key) -> int:
        """Latency runs that a target still wants, at least."""
        return max(1, self.protocols[key[0]].runs - self.made[key]) if self.open[key] and self.healthy[key] else 0

    def remaining_s(self) -> float | None:
        """What the rest should take: probes as long as those before, latency runs as long as those before or as planned."""
        seen = self.durations[PROBE]
        if not seen:
            return None
        rest = self.probes_left * float(np.mean(seen)) + self.energies_left * energy_s(self.plan.protocol)
        for key in self.open:
            left = self.runs_left(key)
            if left:
                made = self.durations[key]
                rest += left * (float(np.mean(made)) if made else self.planned_s(key))
        return rest

    def planned_s(self, key: Key) -> float:
        """Seconds that a latency run of a target should spend on its variants."""
        protocol = self.protocols[key[0]]
        return sum(visit_s(protocol, self.first_s.get((key[0], name), 0.0)) for name in self.healthy[key])

    def count(self, run: Run) -> None:
        """A probe is done however it ended; a latency run that failed is going to be made again."""
        if run.kind == PROBE:
            self.probes_left -= 1
            self.done += 1
        elif run.kind == ENERGY:
            self.energies_left -= 1
            self.done += 1
        elif run.status == "ok":
            self.made[run.device, run.engine] += 1
            self.done += 1

    def note(self, run: Run) -> None:
        """A latency run that ended: how long it took, and its medians."""
        key = (run.device, run.engine)
        self.durations[key].append(run.duration_s)
        for variant, median in run_medians(run).items():
            if variant in self.healthy[key]:
                self.medians[key].setdefault(variant, []).append(median)

    def drop(self, key: Key, variant: str) -> None:
        """A variant that failed is not asked again; the others may stop without it."""
        self.healthy[key].discard(variant)
        self.medians[key].pop(variant, None)

    def lose(self, device: str) -> None:
        """Nothing more is asked of a device."""
        for key in [key for key in self.open if key[0] == device]:
            self.open[key] = False
            self.healthy[key] = set()

    def decision(self, key: Key, elapsed_s: float) -> Decision:
        """Whether a target has enough runs."""
        protocol = self.protocols[key[0]]
        rule = StoppingRule(protocol.runs, protocol.max_runs, protocol.target, protocol.budget_s)
        # A variant that has no run yet must not stop the others, nor they it: only those measured are asked.
        return decide(rule, self.medians[key], elapsed_s)
