"""Several streams at work at once: one thread for each, started together, each with a session (or request) of its own.

Used by offline runs only. Engines release the interpreter's lock inside an inference, so the streams really run side by
side; what Python itself does between two batches is under a microsecond. Standard library only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .sampling import Invoke

# How long a stream may go on with its batch after it was told to stop, before it is left behind.
_PATIENCE_S = 2.0


@dataclass(slots=True)
class Lap:
    """What all streams did in one block. Per stream: when its first batch began and its last ended (ns, monotonic) and how
    many it did. `cpu_ns`: CPU time of the whole process meanwhile. `stopped_by`: the exception that ended the block early."""

    started_ns: list[int] = field(default_factory=list)
    ended_ns: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    cpu_ns: int = 0
    stopped_by: BaseException | None = None


class _Stream(threading.Thread):
    """One stream's thread: re-warms, waits for the others, then works until time and batches are both enough."""

    def __init__(self, invoke: Invoke, settle: int, enough: tuple[int, int, int], start: threading.Barrier) -> None:
        super().__init__(name="stream", daemon=True)
        self._invoke = invoke
        self._settle = settle
        self._enough = enough
        self._together = start
        self.stopping = threading.Event()
        self.started_ns = self.ended_ns = self.batches = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        invoke, now = self._invoke, time.perf_counter_ns
        least, min_ns, max_ns = self._enough
        stopping = self.stopping.is_set
        count = 0
        try:
            for _ in range(self._settle):
                invoke()
            self._together.wait()
            started = now()
            self.started_ns = self.ended_ns = started
            while True:
                invoke()
                count += 1
                self.ended_ns = ended = now()
                self.batches = count
                elapsed = ended - started
                if elapsed >= max_ns or (elapsed >= min_ns and count >= least) or stopping():
                    return
        except threading.BrokenBarrierError:
            return  # another stream failed before the start; it says why
        except BaseException as error:  # noqa: BLE001 - a thread has no caller: kept for the one who joins it
            self.error = error
            self._together.abort()


def work_together(invokes: Sequence[Invoke], *, settle: int, min_batches: int, min_ns: int, max_ns: int) -> Lap:
    """Keep every stream busy until each has worked `min_ns` and done `min_batches`, or `max_ns` have passed.

    Before that, each does `settle` batches that count for nothing. An exception out of a stream, or out of a signal while
    waiting, ends all of them and is kept in `stopped_by`.
    """
    cpu_before = [time.process_time_ns()]
    together = threading.Barrier(len(invokes), action=lambda: cpu_before.append(time.process_time_ns()))
    streams = [_Stream(invoke, settle, (min_batches, min_ns, max_ns), together) for invoke in invokes]
    lap = Lap()
    try:
        for stream in streams:
            stream.start()
        for stream in streams:
            stream.join()
    except BaseException as error:  # noqa: BLE001 - the host's signal: the caller raises it again when the block is sent
        lap.stopped_by = error
        together.abort()
        for stream in streams:
            stream.stopping.set()
        for stream in streams:
            if stream.ident is not None:
                stream.join(_PATIENCE_S)
    lap.cpu_ns = time.process_time_ns() - cpu_before[-1]
    for stream in streams:
        lap.stopped_by = lap.stopped_by or stream.error
        if stream.batches:
            lap.started_ns.append(stream.started_ns)
            lap.ended_ns.append(stream.ended_ns)
            lap.batches.append(stream.batches)
    return lap
