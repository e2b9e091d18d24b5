"""Did a block have its CPU for itself? CPU time against wall time of its samples.

Read by `harness.table`. A single-threaded invoke that is never preempted uses as much CPU time as wall time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A block is contended when more than this share of its wall time was not CPU time ...
DEFICIT = 0.05
# ... beyond what reading two clocks costs per sample.
CLOCK_COST_NS = 1_000
# A row is contended (grade C) when more than this share of its blocks is, remarked upon (grade B) from the lower one on.
CONTENDED_SHARE = 0.25
REMARKED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Contention:
    """`blocks` were judged, `contended` of them had to share. `quiet_ratio`: median of the quiet blocks' medians over
    that of all blocks, None when no block was quiet."""

    blocks: int
    contended: int
    quiet_ratio: float | None

    @property
    def share(self) -> float:
        """Share of judged blocks that were contended."""
        return self.contended / self.blocks if self.blocks else 0.0


def is_contended(wall_ns: NDArray[np.int64], cpu_ns: NDArray[np.int64]) -> bool:
    """Whether a block of a single-threaded invoke lost more than 5 % of its wall time to others (or to waiting)."""
    missing = int(wall_ns.sum()) - int(cpu_ns.sum())
    return missing > DEFICIT * int(wall_ns.sum()) + CLOCK_COST_NS * wall_ns.size


def can_judge(threads: int | None, cpu_clock: str) -> bool:
    """CPU time tells of contention only for one thread: of several, some wait for others by design."""
    return threads == 1 and cpu_clock in ("thread", "process")


def judge(medians: list[float], flags: list[bool]) -> Contention:
    """Sum up a row's blocks: their medians and whether each was contended, in the same order."""
    quiet = [value for value, flag in zip(medians, flags, strict=True) if not flag]
    middle = float(np.median(medians)) if medians else 0.0
    ratio = float(np.median(quiet)) / middle if quiet and middle > 0.0 else None
    return Contention(len(flags), sum(flags), ratio)
