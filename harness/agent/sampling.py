"""The timing loop: how one inference becomes one sample. Only `invoke` stands between the two readings of the wall clock.

The CPU clock is read once between samples, the end of one serving as the start of the next: on many kernels that
reading is a system call, the dearest part of the loop (over a microsecond in a virtual machine). Samples shorter than a tenth of a
millisecond share one: the clock is read after each stretch of that length, and its growth is shared out among the samples by their
wall time. A sample's CPU time includes the loop's own few hundred nanoseconds, its wall time does not. `loop_cost` measures all this
on an empty call, and `hello` reports it.
Standard library only.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Invoke = Callable[[], object]
Clock = Callable[[], int]

# What `cpu_ns` counts. The thread's clock is the finer one, but sees nothing of an engine's worker threads.
CPU_CLOCKS: dict[str, Clock] = {"thread": time.thread_time_ns, "process": time.process_time_ns}

_LARGEST_START = 1 << 20
# The CPU clock is read this far apart, or after every sample that is longer.
STRETCH_NS = 100_000
_COST_NS, _READINGS = 2_000_000, 200


@dataclass(slots=True)
class Samples:
    """Samples in time order: wall and CPU time of each, ns; of the arrays, the first `count` elements are filled.

    `started_ns`: the monotonic clock just before the first. `stopped_by`: the exception that ended the loop, if any.
    """

    started_ns: int = 0
    count: int = 0
    wall: array[int] = field(default_factory=lambda: array("q"))
    cpu: array[int] = field(default_factory=lambda: array("q"))
    stopped_by: BaseException | None = None

    def wall_ns(self) -> list[int]:
        """Wall times in ns."""
        return self.wall[: self.count].tolist()

    def cpu_ns(self) -> list[int]:
        """CPU times in ns."""
        return self.cpu[: self.count].tolist()


def capacity_for(min_samples: int, min_ns: int, shortest_ns: int) -> int:
    """How many samples to make room for, from the shortest seen so far; the loop makes more room if it must."""
    expected = min_ns // max(shortest_ns, 100)
    return min(max(min_samples, expected + expected // 4) + 16, _LARGEST_START)


def take(invoke: Invoke, clock: Clock, *, min_samples: int, min_ns: int, max_ns: int, capacity: int = 4096) -> Samples:
    """Sample `invoke` until `min_samples` and `min_ns` are both met, or `max_ns` is reached (at least one sample).

    An exception out of `invoke` ends the loop and is kept in `stopped_by`; the samples before it are whole.
    """
    wall = array("q", bytes(8 * capacity))
    samples = Samples(wall=wall)
    now = time.perf_counter_ns  # CLOCK_MONOTONIC, as the messages' t_ns
    count = 0
    # After how many samples the CPU clock was read, and what it said.
    places, readings = array("q"), array("q")
    samples.started_ns = started = now()
    due = started + STRETCH_NS
    readings.append(clock())
    try:
        while True:
            t0 = now()
            invoke()
            t1 = now()
            wall[count] = t1 - t0
            count += 1
            if t1 >= due:
                readings.append(clock())
                places.append(count)
                due = t1 + STRETCH_NS
            elapsed = t1 - started
            if elapsed >= max_ns or (elapsed >= min_ns and count >= min_samples):
                break
            if count == len(wall):
                # What making room takes is no sample's: close the stretch before it, and begin one after it.
                if not places or places[-1] < count:
                    readings.append(clock())
                    places.append(count)
                wall.frombytes(bytes(8 * count))
                readings.append(clock())
                places.append(count)
    except BaseException as error:  # noqa: BLE001 - kept for the caller, who must first save the samples
        samples.stopped_by = error
    if not places or places[-1] < count:
        readings.append(clock())
        places.append(count)
    samples.count = count
    samples.cpu = _shared(wall, places, readings)
    return samples


def _shared(wall: array[int], places: array[int], readings: array[int]) -> array[int]:
    """CPU time of each sample, ns: the growth from one reading to the next, by the samples' share of the wall time in between."""
    cpu = array("q")
    first = 0
    for index, last in enumerate(places):
        grown = readings[index + 1] - readings[index]
        if last - first == 1:
            cpu.append(grown)
        elif last > first:
            part = wall[first:last]
            total = sum(part)
            cpu.extend([each * grown // total for each in part] if total else [0] * len(part))
        first = last
    return cpu


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection inside; what lives already is put where no later collection looks."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def loop_cost(clock: Clock) -> dict[str, int]:
    """What the loop itself costs, in ns, on an empty call.

    `wall_ns`: contained in every sample's wall time; `cpu_ns`: contained in its CPU time (medians). `loop_ns`: from one sample
    to the next, all in all, where samples are short; `reading_ns`: what one reading of the CPU clock adds where they are long.
    """
    capacity = _COST_NS // 100
    null = take([].clear, clock, min_samples=1, min_ns=_COST_NS, max_ns=_COST_NS, capacity=capacity)
    began = time.perf_counter_ns()
    for _ in range(_READINGS):
        clock()
    reading_ns = (time.perf_counter_ns() - began) // _READINGS
    middle = null.count // 2
    return {
        "wall_ns": sorted(null.wall_ns())[middle],
        "cpu_ns": sorted(null.cpu_ns())[middle],
        "loop_ns": _COST_NS // null.count,
        "reading_ns": reading_ns,
    }
