"""How a session stands while it is measured: which variants are healthy, which are settled, what was made, what is left.

Kept by `harness.session.jobs` and `harness.session.rounds`, which alone change it; what to measure next and the estimate of the rest
of the time are made from it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Mapping

import numpy as np

from harness.plan import MeasurementProtocol, Plan, Target, energy_s, visit_s
from harness.records import ENERGY, LOADGEN, PROBE, SUSTAINED, Run
from harness.session.resume import Progress, RunBlocks, run_blocks
from harness.stats import compare, stopping
from harness.stats.compare import Comparison
from harness.stats.stopping import StoppingRule

Key = tuple[str, str]  # device, engine
# What a process takes beside its visits, as long as none has shown it.
_GUESSED_START_S = 1.0


class Standing:
    """State of a session. `healthy`: variants still asked for; `open`: whether a target still wants runs; `blocks`: target → per run,
    what `run_blocks` said; `first_s`: (device, variant) → seconds; `peaks`: (device, variant) → bytes; `durations`: seconds of
    probes; `made`: latency runs per target."""

    def __init__(self, plan: Plan, protocols: Mapping[str, MeasurementProtocol], progress: Progress) -> None:
        self.plan = plan
        self.protocols = protocols
        self.targets: dict[Key, Target] = {target.key: target for target in plan.targets}
        self.healthy: dict[Key, set[str]] = {
            target.key: {name for name in target.variants if (target.device, name) not in progress.failed}
            for target in plan.targets
        }
        self.open: dict[Key, bool] = {target.key: True for target in plan.targets}
        self.blocks: dict[Key, list[RunBlocks]] = {key: list(progress.blocks.get(key, ())) for key in self.open}
        self.first_s: dict[tuple[str, str], float] = dict(progress.first_s)
        self.peaks: dict[tuple[str, str], tuple[int, int]] = dict(progress.peaks)
        self.durations: dict[object, list[float]] = defaultdict(list)
        self.made: dict[Key, int] = {key: len(progress.rounds.get(key, ())) for key in self.open}
        self._starts_s: dict[Key, list[float]] = defaultdict(list)
        self._known: dict[str, dict[Key, dict[str, stopping.Standing]]] = {}
        self.done = len(progress.probes) + sum(self.made.values())
        self.probes_left = 0
        #: Expected seconds of each sustained or official run that is still to be made.
        self.singles_left: list[float] = []
        # A guess until the meters are known: devices without one make none.
        planned = plan.energies(self.healthy)
        self.energies_left = sum((job.device, job.variant) not in progress.energy for job in planned)

    # -- what is left ----------------------------------------------------------------------------------------------

    @property
    def left(self) -> int:
        """Jobs still to be made, at least."""
        return (
            self.probes_left
            + sum(self.runs_left(key) for key in self.open)
            + self.energies_left
            + len(self.singles_left)
        )

    def runs_left(self, key: Key) -> int:
        """Latency runs that a target still wants, at least."""
        return max(1, self.protocols[key[0]].runs - self.made[key]) if self.wanted(key) else 0

    def remaining_s(self) -> float | None:
        """What the rest should take: probes as long as those before, latency runs as long as those before or as planned."""
        seen = self.durations[PROBE]
        if not seen:
            return None
        rest = self.probes_left * float(np.mean(seen)) + self.energy_left_s()
        rest += sum(self.singles_left)
        for key in self.open:
            left = self.runs_left(key)
            if left:
                rest += left * self.run_s(key, self.asked(key))
        return rest

    def energy_left_s(self) -> float:
        """Seconds of the energy runs still to be made."""
        return self.energies_left * energy_s(self.plan.protocol) if self.energies_left else 0.0

    def planned_s(self, key: Key, variants: Collection[str] | None = None) -> float:
        """Seconds that a latency run of a target should spend on these variants, or on all healthy ones."""
        protocol = self.protocols[key[0]]
        wanted = self.healthy[key] if variants is None else variants
        return sum(visit_s(protocol, self.first_s.get((key[0], name), 0.0)) for name in wanted)

    def run_s(self, key: Key, variants: Collection[str]) -> float:
        """Seconds that a whole latency run over these variants should take: its visits, and what runs took beside them."""
        starts = self._starts_s[key]
        return max(0.0, self.planned_s(key, variants) + (float(np.mean(starts)) if starts else _GUESSED_START_S))

    def memory_bytes(self, key: Key, variants: Collection[str]) -> int:
        """Resident bytes that one process with all of these variants should need; what no probe told counts as nothing."""
        known = [self.peaks[key[0], name] for name in variants if (key[0], name) in self.peaks]
        return max((base for base, _ in known), default=0) + sum(max(0, peak - base) for base, peak in known)

    # -- what came of a run ----------------------------------------------------------------------------------------

    def count(self, run: Run) -> None:
        """A probe is done however it ended; a latency run that failed is going to be made again."""
        if run.kind == PROBE:
            self.probes_left -= 1
            self.done += 1
        elif run.kind == ENERGY:
            self.energies_left -= 1
            self.done += 1
        elif run.kind in (SUSTAINED, LOADGEN):
            self.done += 1
        elif run.status == "ok":
            self.made[run.device, run.engine] += 1
            self.done += 1

    def note(self, run: Run, asked: Collection[str], *, share: int = 1) -> None:
        """A latency run that ended well: its blocks, and how long it took; a run made in turns with others has its `share` of that."""
        key = (run.device, run.engine)
        self._starts_s[key].append(run.duration_s / share - self.planned_s(key, asked))
        self.blocks[key].append(run_blocks(run))
        self._known.pop(run.device, None)

    def drop(self, key: Key, variant: str) -> None:
        """A variant that failed is not asked again; the others may stop without it."""
        self.healthy[key].discard(variant)
        self._known.pop(key[0], None)

    def lose(self, device: str) -> None:
        """Nothing more is asked of a device."""
        for key in [key for key in self.open if key[0] == device]:
            self.open[key] = False
            self.healthy[key] = set()
        self._known.pop(device, None)

    # -- when to stop ----------------------------------------------------------------------------------------------

    def rule(self, device: str) -> StoppingRule:
        """When a variant on this device is settled."""
        protocol = self.protocols[device]
        return StoppingRule(protocol.runs, protocol.max_runs, protocol.target, protocol.stop_on)

    def base(self, key: Key) -> str | None:
        """The variant that the others of a target are held against: the planned one, or the first that is healthy."""
        target = self.targets[key]
        if target.base in self.healthy[key]:
            return target.base
        return next((name for name in target.variants if name in self.healthy[key]), None)

    def standings(self, device: str) -> dict[Key, dict[str, stopping.Standing]]:
        """Target → variant → how it stands; all targets of a device together, since Holm's correction covers them all."""
        if device not in self._known:
            self._known[device] = self._stand(device)
        return self._known[device]

    def _stand(self, device: str) -> dict[Key, dict[str, stopping.Standing]]:
        rule, keys = self.rule(device), [key for key in self.targets if key[0] == device]
        names = [(key, name) for key in keys for name in self.targets[key].variants if name in self.healthy[key]]
        pairs = [(key, name) for key, name in names if name != self.base(key)]
        compared: dict[tuple[Key, str], Comparison] = {}
        if rule.stop_on != "estimate":
            found = [compare.paired(self._log_ratios(key, name), rule.looks) for key, name in pairs]
            compared = dict(zip(pairs, compare.holm(found), strict=True))
        standings: dict[Key, dict[str, stopping.Standing]] = {key: {} for key in keys}
        for key, name in names:
            medians = [run[name][0] for run in self.blocks[key] if name in run]
            standing = stopping.stand(rule, medians, compared.get((key, name)), len(pairs))
            if rule.stop_on == "verdict" and name == self.base(key) and len(self.healthy[key]) > 1:
                # Verdicts are about the others; the base goes along as long as one of them is open.
                standing = dataclasses.replace(standing, settled=True, done=True, further=0.0)
            standings[key][name] = standing
        return standings

    def _log_ratios(self, key: Key, name: str) -> list[float]:
        """One log ratio to the base for each run that both were in, over the interleaved rounds that both had in it."""
        base, ratios = self.base(key), []
        for run in self.blocks[key]:
            if base not in run or name not in run:
                continue
            mine, other = run[name][1], run[base][1]
            common = [index for index in mine if mine[index] > 0 and other.get(index, 0.0) > 0]
            if common:
                ratios.append(compare.run_log_ratio([mine[i] for i in common], [other[i] for i in common]))
        return ratios

    def wanted(self, key: Key) -> dict[str, float]:
        """Variants that are not settled → runs that should still settle each; empty when the target is closed."""
        if not self.open[key] or self.made[key] >= self.protocols[key[0]].max_runs:
            return {}
        return {name: found.further or 1.0 for name, found in self.standings(key[0])[key].items() if not found.done}

    def asked(self, key: Key) -> set[str]:
        """What the next run of a target measures: what is not settled, and the base beside it."""
        return self.with_base(key, self.wanted(key))

    def with_base(self, key: Key, variants: Collection[str]) -> set[str]:
        """These variants and their base; nothing where there are none."""
        base = self.base(key)
        return {*variants, *([base] if base is not None else [])} if variants else set()

    def unsettled(self, key: Key) -> dict[str, str]:
        """Variants that are not settled → why, in words."""
        return {name: found.reason for name, found in self.standings(key[0])[key].items() if not found.settled}
