"""Did a block have its CPUs for itself? The CPU time of its samples, and the kernel's counters around its visit.

Read by `harness.table`. The same question is answered from the best evidence that there is:

- one thread computes, and its CPU time is known (`can_judge`): an invoke that is never preempted uses as much CPU time as wall
  time. Where the kernel leaves stolen time out of a thread's time, as most do in a virtual machine, that covers theft too;
- several threads: some wait for others by design, so CPU time says nothing. Then the time counts in which threads were ready and
  did not run (`waited_ns`), and time stolen by the hypervisor. Where a kernel does not tell the former, the CPU time of others
  beyond what the CPUs had to spare; where it tells that neither, the pressure on the CPUs;
- in any case: a control group over its quota, a CPU slowed for its heat, and others at work on the very same cores: on a core's other
  thread, which halves what a core gives and shows in no CPU time. A virtual machine does not know which of its CPUs share a core.

A busy neighbour on a core of its own takes nothing that these counters see; it may still take cache and memory bandwidth. Such a
block is not flagged, and what that does to the figures is the business of intervals and drift.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# A block is contended when more than this share of its time went to others ...
DEFICIT = 0.05
# ... beyond what reading two clocks costs per sample,
CLOCK_COST_NS = 1_000
# what waking a thread takes even on an idle machine, each time,
WAKE_NS = 20_000
# and the step in which the kernel counts the time of CPUs, on most of them.
TICK_NS = 10_000_000
# Over fewer steps than this, the time of CPUs is too coarse to say that nobody else ran.
_STEPS = 5
# Others at work on the other threads of the same cores slow a block when they do so for more than this share of it, and more than
# the steps of all these counters may come to.
BESIDE = 0.25
# A row is contended (grade C) when more than this share of its blocks is, remarked upon (grade B) from the lower one on.
CONTENDED_SHARE = 0.25
REMARKED_SHARE = 0.05

# What is said of a contended block, the surest first.
CAUSES = {
    "preempted": "others ran on its CPU",
    "waited": "its threads waited for a CPU",
    "stolen": "the hypervisor gave its CPUs to others",
    "crowded": "others left it too few CPUs",
    "pressure": "the machine was short of CPU",
    "beside": "others worked on the same cores",
    "quota": "its control group was over its quota",
    "heat": "its CPUs were slowed for heat",
}

Counted = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Contention:
    """`blocks` were judged, `contended` of them had to share. `quiet_ratio`: median of the quiet blocks' medians over
    that of all blocks, None when no block was quiet. `causes`: how many blocks each of CAUSES befell, the most first.
    `lost`: median over the contended blocks of the share of their time that went to others, where CPU time tells."""

    blocks: int
    contended: int
    quiet_ratio: float | None
    causes: tuple[tuple[str, int], ...] = ()
    lost: float | None = None

    @property
    def share(self) -> float:
        """Share of judged blocks that were contended."""
        return self.contended / self.blocks if self.blocks else 0.0


class Summed(Protocol):
    """Samples, of which only the number and the sum are asked for. An array is such."""

    @property
    def size(self) -> int:
        """How many samples."""

    def sum(self) -> Any:
        """Their sum."""


def is_contended(wall_ns: Summed, cpu_ns: Summed) -> bool:
    """Whether a block of a single-threaded invoke lost more than 5 % of its wall time to others (or to waiting)."""
    missing = int(wall_ns.sum()) - int(cpu_ns.sum())
    return missing > DEFICIT * int(wall_ns.sum()) + CLOCK_COST_NS * wall_ns.size


def can_judge(threads: int | None, cpu_clock: str) -> bool:
    """CPU time tells of contention only for one thread: of several, some wait for others by design."""
    return threads == 1 and cpu_clock in ("thread", "process")


def causes_of(
    wall_ns: Summed,
    cpu_ns: Summed,
    counted: Counted | None,
    *,
    cpu_clock: str,
    threads: int | None,
    cpus: int | None,
) -> tuple[str, ...] | None:
    """What befell one block, of CAUSES; () when it had its CPUs for itself, None when nothing can tell.

    `wall_ns`, `cpu_ns`: int64 [samples], or their number and sum. `counted`: growth of the agent's counters over the visit (names and units in
    `harness.agent.contention.COLUMNS`; it has the visit's settling in it), None where there are none. `cpus`: how many the
    agent may use.
    """
    found: list[str] = []
    told = can_judge(threads, cpu_clock)
    if told and is_contended(wall_ns, cpu_ns):
        found.append("preempted")
    counted = counted or {}
    span = counted.get("span_ns") or 0
    if span > 0:
        if not told:
            cause, told = _of_threads(counted, span, threads, cpus)
            found += cause
        found += _beside(counted, span, cpus)
        if (counted.get("quota_us") or 0) * 1000 > DEFICIT * span:
            found.append("quota")
        if counted.get("throttles"):
            found.append("heat")
    return tuple(found) if told or found else None


def _beside(counted: Counted, span: int, cpus: int | None) -> list[str]:
    beside, own = counted.get("beside_ns"), counted.get("own_ns")
    if beside is None or own is None:
        return []
    steps = TICK_NS * max(2, cpus or 0)
    return ["beside"] if beside - own - steps > BESIDE * span else []


def _of_threads(counted: Counted, span: int, threads: int | None, cpus: int | None) -> tuple[list[str], bool]:
    """What the counters say of a block in which several threads worked, and whether they can say anything."""
    waited, busy, own, some = (counted.get(name) for name in ("waited_ns", "busy_ns", "own_ns", "some_us"))
    if waited is not None:
        long = waited > DEFICIT * span + WAKE_NS * (counted.get("voluntary") or 0)
        # Waking a sleeping thread may take longer than that here; then nobody else has run meanwhile.
        others = busy is None or own is None or span < _STEPS * TICK_NS or busy - own > DEFICIT * span + TICK_NS
        found = ["waited"] if long and others else []
        # Each CPU's counter is read in whole steps, so that each may claim up to a step that fell before the block.
        if (counted.get("steal_ns") or 0) - TICK_NS * max(1, cpus or 0) > DEFICIT * span:
            found.append("stolen")
        return found, True
    if busy is not None and own is not None and cpus is not None and threads is not None:
        # Both sides of the difference are off by a tick per CPU at most.
        spare = max(0, cpus - threads) * span
        crowded = busy - own - 2 * TICK_NS * cpus > spare + DEFICIT * span
        return (["crowded"] if crowded else []), True
    if some is not None:
        return (["pressure"] if some * 1000 > DEFICIT * span else []), True
    return [], False


def judge(
    medians: Sequence[float],
    flags: Sequence[bool],
    causes: Sequence[Sequence[str]] = (),
    lost: Sequence[float] = (),
) -> Contention:
    """Sum up a row's blocks: their medians and whether each was contended, in the same order; what befell those that were, and
    the share of their time that went to others, where known."""
    quiet = [value for value, flag in zip(medians, flags, strict=True) if not flag]
    middle = float(np.median(medians)) if medians else 0.0
    ratio = float(np.median(quiet)) / middle if quiet and middle > 0.0 else None
    counts = Counter(cause for found in causes for cause in found)
    ordered = tuple(sorted(counts.items(), key=lambda item: (-item[1], list(CAUSES).index(item[0]))))
    return Contention(len(flags), sum(flags), ratio, ordered, float(np.median(lost)) if lost else None)
