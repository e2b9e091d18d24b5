"""Variants × devices × protocol → jobs in seeded random order: what the runner will do, decided before it starts."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.agent.protocol import ENGINE_OF_FORMAT, EnergyPlan, LatencyPlan, SensorChannel
from harness.agent.scenarios import HARNESS, SINGLE_STREAM

StopOn = Literal["estimate", "verdict", "both"]


@dataclass(frozen=True, slots=True)
class MeasurementProtocol:
    """How much is measured (docs/methodology). Presets: quick, standard, headline, certified.

    `runs`: latency runs per variant at least; more are added up to `max_runs` until the variant is settled or `budget_s`, the time
    of the whole session, is spent. `stop_on` says what settles a variant: its own "estimate" (the relative half-width of its 95 %
    interval is ≤ `target`), its "verdict" against the base (faster, slower or equivalent), or "both". `run_s`, `run_samples`: measured time and samples per variant
    and run, spread over `rounds` interleaved rounds. `probes`: fresh processes per variant for cold start and memory.
    `block_max_s`, `warmup_max_s`: a visit to a slow variant ends then, even with fewer samples. `hang_s`: how long a
    device may be silent beyond what its work should take before the run counts as hanging.
    `energy`: also measure energy, where the device has a power meter: per variant a run of `energy_windows` windows of
    `energy_window_s` (longer for a slow meter) between two idle phases of `energy_idle_s`, read `energy_rate_hz` times a second.
    `scenario`: "single-stream", "offline" (`batch` rows an inference, `streams` at once; `run_samples` then counts batches) or
    "sustained" (`duration_s` per variant). `driver`: "loadgen" adds official runs of MLPerf's load generator, of `loadgen_s`
    and `loadgen_queries` (None: what its rules ask for) at least.
    """

    preset: str = "standard"
    runs: int = 6
    max_runs: int = 12
    target: float = 0.03
    budget_s: float | None = None
    probes: int = 3
    warmup_s: float = 0.5
    warmup_samples: int = 5
    run_s: float = 1.0
    run_samples: int = 50
    rounds: int = 10
    settle: int = 2
    memory_invokes: int = 10
    block_max_s: float = 10.0
    warmup_max_s: float = 30.0
    hang_s: float = 120.0
    energy: bool = False
    energy_idle_s: float = 30.0
    energy_window_s: float = 10.0
    energy_windows: int = 5
    energy_settle_s: float = 2.0
    energy_rate_hz: float = 10.0
    scenario: str = SINGLE_STREAM
    batch: int = 1
    streams: int = 1
    duration_s: float = 600.0
    driver: str = HARNESS
    loadgen_s: float = 60.0
    loadgen_queries: int | None = None
    stop_on: StopOn = "estimate"


PRESETS: dict[str, MeasurementProtocol] = {
    "quick": MeasurementProtocol(
        preset="quick",
        max_runs=6,
        probes=1,
        warmup_s=0.02,
        run_s=0.05,
        run_samples=50,
        rounds=5,
        block_max_s=0.5,
        warmup_max_s=2.0,
        hang_s=60.0,
        energy_idle_s=10.0,
        energy_windows=2,
        stop_on="verdict",
    ),
    "standard": MeasurementProtocol(),
    "headline": MeasurementProtocol(preset="headline", runs=12, max_runs=24, target=0.01, probes=6, stop_on="both"),
    "certified": MeasurementProtocol(
        preset="certified",
        runs=12,
        max_runs=24,
        target=0.01,
        probes=6,
        run_s=60.0,
        run_samples=1024,
        rounds=30,
        block_max_s=600.0,
        stop_on="both",
    ),
}
# With a budget and no maximum of runs of its own, a session may go on until here; the budget is meant to end it.
BUDGET_RUNS = 8


# Virtual time repeats, so that little of it says all; and a guest that counts is slow on the host's clock.
_COUNTED_RUNS, _COUNTED_SAMPLES, _COUNTED_ROUNDS = 3, 10, 2
COUNTED_PATIENCE, COUNTED_PACE = 5.0, 50.0


def for_counted_instructions(protocol: MeasurementProtocol) -> MeasurementProtocol:
    """The protocol for a device that counts instructions: by numbers of samples alone, since idle time warps its clock."""
    runs = min(protocol.runs, _COUNTED_RUNS)
    return dataclasses.replace(
        protocol,
        runs=runs,
        max_runs=runs,
        probes=1,
        warmup_s=0.0,
        warmup_samples=min(protocol.warmup_samples, _COUNTED_RUNS),
        run_s=0.0,
        run_samples=min(protocol.run_samples, _COUNTED_SAMPLES),
        rounds=min(protocol.rounds, _COUNTED_ROUNDS),
        settle=min(protocol.settle, 1),
        memory_invokes=min(protocol.memory_invokes, 1),
        hang_s=protocol.hang_s * COUNTED_PATIENCE,
        # Counted instructions are no throughput, heat nothing, and loadgen nothing it could time.
        scenario=SINGLE_STREAM,
        driver=HARNESS,
    )


@dataclass(frozen=True, slots=True)
class Target:
    """What one engine on one device measures: the names of its variants. Targets are planned and stopped by themselves.

    `base`: the variant that the others are held against and that every run contains; None: the first that is healthy.
    """

    device: str
    engine: str
    variants: tuple[str, ...]
    base: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Device and engine."""
        return (self.device, self.engine)


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """One variant in a fresh process. The first (`repetition` 0) is also the canary: if it dies, no more is asked of
    the variant on that device; and with `evaluate` it runs the dataset."""

    device: str
    engine: str
    variant: str
    repetition: int
    evaluate: bool


@dataclass(frozen=True, slots=True)
class LatencyJob:
    """All healthy variants of a target in one fresh process. `order`: per interleaved round, every variant once."""

    device: str
    engine: str
    round: int
    variants: tuple[str, ...]
    order: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class EnergyJob:
    """One variant in a fresh process, idle and at work by turns, while the device's power meter is read."""

    device: str
    engine: str
    variant: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Targets, protocol and seed; the jobs follow from them alone, in the order in which they are to be run.

    One job at a time: two on one machine would measure each other.
    """

    targets: tuple[Target, ...]
    protocol: MeasurementProtocol
    seed: int
    evaluate: bool = False

    def probes(self) -> tuple[ProbeJob, ...]:
        """Each variant on each device `protocol.probes` times; each repetition in an order of its own, all devices mixed."""
        jobs: list[ProbeJob] = []
        for repetition in range(self.protocol.probes):
            batch = [
                ProbeJob(target.device, target.engine, variant, repetition, self.evaluate and repetition == 0)
                for target in self.targets
                for variant in target.variants
            ]
            self._random("probes", repetition).shuffle(batch)
            jobs += batch
        return tuple(jobs)

    def latencies(self, round_: int, healthy: Mapping[tuple[str, str], Collection[str]]) -> tuple[LatencyJob, ...]:
        """One run of each target that `healthy` (device and engine → variants) still names.

        Engines come in random order, and the devices of an engine one after the other, in random order too: what is
        compared between devices is measured as near in time as can be.
        """
        chance = self._random("latency", round_)
        jobs = []
        engines = sorted({target.engine for target in self.targets})
        for engine in chance.sample(engines, len(engines)):
            targets = [target for target in self.targets if target.engine == engine and healthy.get(target.key)]
            jobs += [
                self.latency(target, round_, healthy[target.key]) for target in chance.sample(targets, len(targets))
            ]
        return tuple(jobs)

    def latency(self, target: Target, round_: int, healthy: Collection[str], retry: int = 0) -> LatencyJob:
        """A run of one target over its healthy variants, in randomised complete blocks."""
        variants = [name for name in target.variants if name in healthy]
        chance = self._random(f"order {target.device} {target.engine} {retry}", round_)
        # The order of loading is random too: it decides what the variants find in caches and allocators.
        loading = chance.sample(variants, len(variants))
        order = tuple(tuple(chance.sample(variants, len(variants))) for _ in range(self.protocol.rounds))
        return LatencyJob(target.device, target.engine, round_, tuple(loading), order)

    def energies(self, healthy: Mapping[tuple[str, str], Collection[str]]) -> tuple[EnergyJob, ...]:
        """Each variant that `healthy` still names once, all devices mixed, in random order; none unless asked for."""
        jobs = [
            EnergyJob(target.device, target.engine, variant)
            for target in self.targets
            for variant in target.variants
            if self.protocol.energy and variant in healthy.get(target.key, ())
        ]
        return tuple(self._random("energy", 0).sample(jobs, len(jobs)))

    def shuffled(self, jobs: Sequence[EnergyJob], purpose: str) -> tuple[EnergyJob, ...]:
        """These jobs in the plan's random order for `purpose`."""
        return tuple(self._random(purpose, 0).sample(list(jobs), len(jobs)))

    def _random(self, purpose: str, index: int) -> random.Random:
        # Seeded by a text: the same on every machine and Python, and independent of how much was drawn before.
        return random.Random(f"{self.seed}/{purpose}/{index}")  # noqa: S311 - no secret


BASE_RECIPE = "fp32"


def make_plan(
    formats: Mapping[str, str],
    engines: Mapping[str, Sequence[str]],
    protocol: MeasurementProtocol,
    *,
    seed: int,
    evaluate: bool,
    recipes: Mapping[str, str | None] | None = None,
) -> Plan:
    """Variants (name → format) on devices (name → usable engines). A variant whose engine a device lacks is not planned.

    `recipes`: name → recipe; the first of an engine's variants made by "fp32" is the base of the others, else the first of all.
    """
    targets = []
    for device, usable in engines.items():
        for engine in usable:
            variants = tuple(name for name, format_ in formats.items() if ENGINE_OF_FORMAT[format_] == engine)
            if variants:
                plain = (name for name in variants if (recipes or {}).get(name) == BASE_RECIPE)
                targets.append(Target(device, engine, variants, next(plain, variants[0])))
    return Plan(tuple(targets), protocol, seed, evaluate)


def latency_plan(protocol: MeasurementProtocol, order: tuple[tuple[str, ...], ...]) -> LatencyPlan:
    """What the agent is told: per visit so much that the run totals `run_samples` samples and `run_s` seconds."""
    rounds = max(1, len(order))
    return LatencyPlan(
        order=order,
        warmup_samples=protocol.warmup_samples,
        warmup_s=protocol.warmup_s,
        warmup_max_s=max(protocol.warmup_max_s, protocol.warmup_s),
        settle=protocol.settle,
        block_samples=math.ceil(protocol.run_samples / rounds),
        block_s=protocol.run_s / rounds,
        block_max_s=max(protocol.block_max_s, protocol.run_s / rounds),
    )


# A slow meter is given a longer window, up to here; a slower one is refused.
_ENERGY_UPDATES, _LONGEST_WINDOW_S = 11, 180.0
# Reading the meter may take that share of the time between two readings, no more.
_READING_SHARE = 0.1


def energy_plan(
    protocol: MeasurementProtocol,
    channels: tuple[SensorChannel, ...],
    meter: Mapping[str, object],
    *,
    update_s: float | None,
    cost_s: float,
) -> EnergyPlan:
    """What the agent is told: windows long enough for a meter that renews its value every `update_s`, read so seldom that
    reading (`cost_s` at a time) hardly matters."""
    enough_s = 0.0 if update_s is None else min(_ENERGY_UPDATES * update_s, _LONGEST_WINDOW_S)
    window_s = max(protocol.energy_window_s, enough_s)
    rate_hz = min(protocol.energy_rate_hz, _READING_SHARE / cost_s if cost_s > 0 else protocol.energy_rate_hz)
    return EnergyPlan(
        channels=channels,
        rate_hz=max(rate_hz, _ENERGY_UPDATES / window_s),
        idle_s=max(protocol.energy_idle_s, enough_s),
        settle_s=max(protocol.energy_settle_s, 2 * (update_s or 0.0)),
        window_s=window_s,
        windows=protocol.energy_windows,
        meter=dict(meter),
    )


def energy_s(protocol: MeasurementProtocol) -> float:
    """Expected seconds of an energy run with a meter that is not slow."""
    return (
        2 * protocol.energy_idle_s + protocol.energy_windows * protocol.energy_window_s + 4 * protocol.energy_settle_s
    )


def visit_s(protocol: MeasurementProtocol, inference_s: float) -> float:
    """Expected seconds of a latency run spent on a variant of that inference time: warm-up, settling, samples."""
    plan = latency_plan(protocol, ((),) * protocol.rounds)
    warmup = max(plan.warmup_s, plan.warmup_samples * inference_s)
    block = max(plan.block_s, plan.block_samples * inference_s)
    settle = plan.settle * inference_s
    return min(warmup, plan.warmup_max_s) + protocol.rounds * (settle + min(block, plan.block_max_s))
