"""Stored runs → what the session has on each variant on each device, in time order. Selects; computes nothing.

Between the store's SessionData and `harness.table`, which aggregates; plots take their samples from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from harness.agent.protocol import ENGINE_OF_FORMAT
from harness.agent.sampling import STRETCH_NS
from harness.records import (
    ENERGY,
    IN_ROUNDS,
    LATENCY,
    LOADGEN,
    MEASURE,
    OFFLINE,
    PROBE,
    PROFILE,
    SUSTAINED,
    WARMUP,
    Block,
    DeviceRecord,
    Evaluation,
    Failure,
    Load,
    Run,
    SessionData,
    VariantRecord,
)
from harness.row import FAILED

Int64Array = NDArray[np.int64]


def median_ns(samples: Int64Array) -> float:
    """Median of one or more samples: to the last bit what numpy's is, without what that spends on other kinds of arrays."""
    half = samples.size // 2
    # Asked for one place, numpy uses the processor's vector instructions; for two it does not, and takes five times as long.
    found = np.partition(samples, half)
    if samples.size % 2:
        return float(found[half])
    return (float(found[:half].max()) + float(found[half])) / 2.0


@dataclass(frozen=True)
class RunSamples:
    """A variant's measured blocks and its warm-up in one latency run. Medians are found once; samples are not kept twice."""

    run: Run
    blocks: tuple[Block, ...]
    warmup: tuple[Block, ...]

    @property
    def wall_ns(self) -> Int64Array:
        """All measured samples of the run, in time order."""
        return np.concatenate([block.wall_ns for block in self.blocks])

    @property
    def size(self) -> int:
        """How many measured samples the run has."""
        return sum(block.wall_ns.size for block in self.blocks)

    @cached_property
    def median_ns(self) -> float:
        """Median of all measured samples of the run."""
        return median_ns(self.wall_ns)

    @cached_property
    def block_medians_ns(self) -> tuple[float, ...]:
        """Median of each block, in the order of `blocks`."""
        return tuple(median_ns(block.wall_ns) for block in self.blocks)

    @property
    def loop_ns(self) -> int:
        """What the timing loop itself takes per sample, as the agent measured it; 0 where it did not."""
        return self._cost_of("loop_ns")

    def _cost_of(self, key: str) -> int:
        clocks = self.run.environment.get("clocks")
        clock = clocks.get(self.blocks[0].cpu_clock) if isinstance(clocks, Mapping) else None
        value = clock.get(key, 0) if isinstance(clock, Mapping) else 0
        return value if isinstance(value, int) else 0

    def seconds(self, blocks: Sequence[Block]) -> float:
        """Time spent on sampling these blocks, the loop included."""
        loop, reading, total = self.loop_ns, self._cost_of("reading_ns"), 0
        for block in blocks:
            spent = block.wall_sum_ns + block.wall_ns.size * loop
            # The CPU clock is read after each long sample, and once in a stretch of short ones.
            total += spent + reading * min(block.wall_ns.size, 1 + spent // STRETCH_NS)
        return total / 1e9


@dataclass(slots=True)
class Cell:
    """Everything the session has on one variant on one device, in time order."""

    variant: VariantRecord
    device: DeviceRecord
    latency: list[RunSamples] = field(default_factory=list)
    probes: list[Load] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    energy: list[Run] = field(default_factory=list)
    offline: list[Run] = field(default_factory=list)
    sustained: list[Run] = field(default_factory=list)
    official: list[Run] = field(default_factory=list)
    environments: list[Mapping[str, Any]] = field(default_factory=list)
    sensors: list[tuple[dict[str, Any], ...]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lost: Failure | None = None  # why a run failed that named no culprit
    alive: bool = False  # something succeeded after the last failure

    @property
    def counted(self) -> bool:
        """Whether the device counts instructions: what its clock says is virtual time, never latency."""
        return self.device.facts.get("counts_instructions") is True

    @property
    def measured(self) -> bool:
        """Whether there is any figure."""
        return bool(self.latency or self.probes or self.loads or self.evaluations)

    def add(self, run: Run) -> None:
        """Take in what this run says of the variant."""
        name = self.variant.name
        if run.kind == PROFILE:
            return  # a profiled engine is a slower one: `harness explain` reads these, no row does
        mine = name in run.failed_variants or any(load.variant == name for load in run.loads)
        if run.kind in (ENERGY, LOADGEN):
            # One of another variant says nothing of this one; a failure there leaves the variant's other figures alone.
            if mine:
                (self.energy if run.kind == ENERGY else self.official).append(run)
            return
        if run.kind == SUSTAINED and mine:
            self.sustained.append(run)  # also one that failed: its seconds until then are of use
        failure = run.failed_variants.get(name)
        if failure is not None:
            self.failures.append(failure)
            self.alive = False
            return
        if run.status == FAILED:
            self.lost = run.failure or self.lost
            return
        loads = [load for load in run.loads if load.variant == name]
        (self.probes if run.kind == PROBE else self.loads).extend(loads)
        self.evaluations += [item for item in run.evaluations if item.variant == name]
        blocks = [block for block in run.blocks if block.variant == name and block.wall_ns.size]
        measured = tuple(block for block in blocks if block.phase == MEASURE)
        if run.kind == LATENCY and measured:
            warmup = tuple(block for block in blocks if block.phase == WARMUP)
            self.latency.append(RunSamples(run, measured, warmup))
        if run.kind == OFFLINE and loads:
            self.offline.append(run)
        if loads or measured:
            self.environments.append(run.environment)
            if run.kind in (LATENCY, OFFLINE, SUSTAINED):
                self.sensors.append(run.sensors)
            self.alive = True


# A session's cells are asked for by its rows, by advice and by choice: the medians of their blocks are found once.
_FOUND: WeakKeyDictionary[SessionData, tuple[Cell, ...]] = WeakKeyDictionary()


def cells(data: SessionData) -> tuple[Cell, ...]:
    """One cell for every variant on every device; devices and variants in the session's order. The same ones for the same data."""
    found = _FOUND.get(data)
    if found is None:
        found = _FOUND[data] = tuple(_cells(data))
    return found


def _cells(data: SessionData) -> Iterator[Cell]:
    by_device: dict[str, list[Run]] = {}
    made_again = {_job(run) for run in data.runs if run.status == "ok"}
    for run in data.runs:
        # A run that was cut off counts only while the session has not gone on and made it whole.
        if run.status != "interrupted" or _job(run) not in made_again:
            by_device.setdefault(run.device, []).append(run)
    for device in data.devices:
        for variant in data.variants:
            cell = Cell(variant, device)
            engine = ENGINE_OF_FORMAT.get(variant.format)
            for run in by_device.get(device.name, []):
                if run.engine == engine:
                    cell.add(run)
            yield cell


def _job(run: Run) -> tuple[object, ...]:
    """What a run was to do: equal for two tries of the same."""
    alone = run.kind not in IN_ROUNDS
    return run.device, run.engine, run.kind, run.round, *(load.variant for load in run.loads if alone)


def latency_samples(data: SessionData, variant: str, device: str) -> list[Int64Array]:
    """Measured samples of each latency run, ns, int64, in time order; [] where there are none, or no time was measured."""
    mine = (cell for cell in cells(data) if (cell.variant.name, cell.device.name) == (variant, device))
    found = (cell for cell in mine if not cell.counted)
    return [samples.wall_ns for cell in found for samples in cell.latency]


def all_latency_samples(data: SessionData, limit: int | None = None) -> dict[str, dict[str, list[Int64Array]]]:
    """Device → variant → samples of each latency run. With `limit`, each run is thinned to about that many."""
    found: dict[str, dict[str, list[Int64Array]]] = {}
    for cell in cells(data):
        if cell.latency and not cell.counted:
            runs = [samples.wall_ns for samples in cell.latency]
            found.setdefault(cell.device.name, {})[cell.variant.name] = [thinned(run, limit) for run in runs]
    return found


def thinned(samples: Int64Array, limit: int | None) -> Int64Array:
    """At most `limit` of the samples, evenly spaced in time, order kept; all of them when `limit` is None."""
    if limit is None or samples.size <= limit:
        return samples
    return samples[np.linspace(0, samples.size - 1, limit).round().astype(np.int64)]
