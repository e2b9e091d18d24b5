"""Load put on chosen CPUs at known times: the ground truth for what the harness says of contention (G8).

A schedule is made beforehand from a seed and followed by one process per spinner, on the monotonic clock that the agent's blocks are
stamped with. A spinner is pinned; below 100 % it works in slices of 10 ms.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PERIOD_S = 0.01


@dataclass(frozen=True)
class Phase:
    """From `start_ns` to `end_ns` on the monotonic clock: spinners of `share` of a core on each of `cpus` (() = quiet)."""

    start_ns: int
    end_ns: int
    level: str
    share: float
    cpus: tuple[int, ...]


def schedule(levels: Sequence[tuple[str, float, tuple[int, ...]]], seconds: float, seed: int) -> list[Phase]:
    """Phases of 0.6 to 1.2 s for so long, beginning now: levels (name, share, CPUs) in random order, each followed by quiet."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    at, phases = time.monotonic_ns() + 1_000_000_000, []
    end = at + int(seconds * 1e9)
    while at < end:
        for level, share, cpus in chance.sample(list(levels), len(levels)):
            for name, load, where in ((level, share, cpus), ("quiet", 0.0, ())):
                until = at + int(chance.uniform(0.6, 1.2) * 1e9)
                phases.append(Phase(at, until, name, load, where))
                at = until
    return phases


def spin(cpu: int, phases: Sequence[tuple[int, int, float]]) -> None:
    """The spinner's own process: pinned to a CPU, busy in each phase for its share of the time."""
    os.sched_setaffinity(0, {cpu})
    for start, end, share in phases:
        time.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        while (now := time.monotonic_ns()) < end:
            busy_until = min(end, now + int(share * PERIOD_S * 1e9))
            while time.monotonic_ns() < busy_until:
                pass
            if share < 1.0:
                time.sleep(max(0.0, min((1.0 - share) * PERIOD_S, (end - time.monotonic_ns()) / 1e9)))


@contextmanager
def spinning(phases: Sequence[Phase]) -> Iterator[None]:
    """Spinners that follow the phases as long as this lasts. A CPU named twice in a phase gets two."""
    most = {cpu: max(phase.cpus.count(cpu) for phase in phases) for phase in phases for cpu in phase.cpus}
    running = []
    for cpu, count in most.items():
        for index in range(count):
            mine = [(p.start_ns, p.end_ns, p.share) for p in phases if p.cpus.count(cpu) > index]
            code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import spinners; spinners.spin({cpu}, {mine!r})"
            running.append(subprocess.Popen([sys.executable, "-c", code]))
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def phase_of(phases: Sequence[Phase], start_ns: int, end_ns: int) -> Phase | None:
    """The phase in which a block lies wholly, 20 ms away from its edges; None where it has a part in two."""
    margin = 20_000_000
    return next((p for p in phases if p.start_ns + margin <= start_ns and end_ns + margin <= p.end_ns), None)
