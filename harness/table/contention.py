"""Which blocks of a row had to share their CPUs, and its latency without them. Part of `harness.table`.

The samples' CPU time and the agent's counters (in the run's `contention` messages) are put together per block;
`harness.stats.contention` judges. Nothing is ever left out of the row's main figures: the uncontended median stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.records import Block, Run
from harness.stats import contention, quantiles
from harness.table.cells import Cell, median_ns

FIELDS = ("latency_uncontended_median_ns", "latency_uncontended_low_ns", "latency_uncontended_high_ns")
_OWN = ("uncontended_blocks", *FIELDS)


class Total(NamedTuple):
    """Samples of which only number and sum are known: all that contention asks for."""

    size: int
    total_ns: int

    def sum(self) -> int:
        """As an array has it."""
        return self.total_ns


@dataclass(frozen=True, slots=True)
class Judged:
    """One measured block: its median (ns), and what befell it (None: nothing can tell, () nothing)."""

    block: Block
    median_ns: float
    causes: tuple[str, ...] | None


def visits_of(run: Run) -> dict[tuple[int, str], dict[str, int | None]]:
    """(round, variant) → growth of the agent's counters over the visit; empty for sessions older than these counters."""
    found: dict[tuple[int, str], dict[str, int | None]] = {}
    for item in run.sensors:
        values = item["values"]
        if item["name"] == "contention" and "visits" in values:
            for variant, counted in values["visits"].items():
                found[int(values["round"]), variant] = dict(zip(values["columns"], counted, strict=True))
    return found


def judged_blocks(cell: Cell, threads: int | None) -> list[list[Judged]]:
    """The measured blocks of each latency run, judged, in time order."""
    found = []
    for samples in cell.latency:
        visits, cpus = visits_of(samples.run), _cpus(samples.run.environment)
        judged = []
        for block, middle_ns in zip(samples.blocks, samples.block_medians_ns, strict=True):
            counted = visits.get((block.index, block.variant))
            size = block.wall_ns.size
            wall, cpu = Total(size, block.wall_sum_ns), Total(size, block.cpu_sum_ns)
            causes = contention.causes_of(wall, cpu, counted, cpu_clock=block.cpu_clock, threads=threads, cpus=cpus)
            judged.append(Judged(block, middle_ns, causes))
        found.append(judged)
    return found


def _cpus(environment: Mapping[str, Any]) -> int | None:
    affinity, cpus = environment.get("affinity"), environment.get("cpus")
    if isinstance(affinity, Sequence) and affinity:
        return len(affinity)
    return cpus if isinstance(cpus, int) else None


def contention_of(blocks: Sequence[Sequence[Judged]]) -> contention.Contention | None:
    """All blocks of a row summed up; None when none could be judged."""
    judged = [item for run in blocks for item in run if item.causes is not None]
    if not judged:
        return None
    lost = [
        1.0 - float(item.block.cpu_sum_ns) / float(item.block.wall_sum_ns)
        for item in judged
        if item.causes and "preempted" in item.causes
    ]
    return contention.judge(
        [item.median_ns for item in judged],
        [bool(item.causes) for item in judged],
        [item.causes or () for item in judged],
        lost,
    )


def uncontended_figures(
    cell: Cell, blocks: Sequence[Sequence[Judged]], figures: dict[str, Any], reasons: dict[str, str]
) -> None:
    """The median over the blocks that had their CPUs for themselves: of each run's samples in them, and of the runs."""
    if not cell.latency:
        return
    if cell.counted:
        reasons |= dict.fromkeys(_OWN, "instructions were counted, time was not measured")
        return
    judged = [item for run in blocks for item in run if item.causes is not None]
    if not judged:
        reasons |= dict.fromkeys(_OWN, "nothing on this device tells whether a block had its CPUs for itself")
        return
    quiet = [[item.block.wall_ns for item in run if item.causes == ()] for run in blocks]
    figures["uncontended_blocks"] = sum(len(run) for run in quiet)
    if "android" in cell.device.facts:
        # A phone always has something else to do: leaving out what it disturbed would show a phone that nobody has.
        reasons |= dict.fromkeys(FIELDS, "on a phone contended blocks are only flagged")
        return
    medians = [
        # Most runs have no contended block: then their median is known already.
        samples.median_ns if len(run) == len(samples.blocks) else median_ns(np.concatenate(run))
        for run, samples in zip(quiet, cell.latency, strict=True)
        if run
    ]
    if not medians:
        reasons |= dict.fromkeys(FIELDS, f"all {len(judged)} blocks were contended")
        return
    middle = quantiles.median(medians)
    figures |= dict(zip(FIELDS, (middle.value, middle.low, middle.high), strict=True))
    if middle.reason is not None:
        reasons |= dict.fromkeys(FIELDS[1:], middle.reason)
