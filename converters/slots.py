"""Lets at most so many toolchains work at once, the most urgent first. Used by the scheduler's threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_POLL_S = 0.1


class Slots:
    """`count` slots; whoever waits with a smaller `rank` goes first."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: Counter[int] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, rank: int, stop: threading.Event) -> Iterator[bool]:
        """Wait for a slot and hold it; gives False, without one, when `stop` was set meanwhile."""
        held = self._take(rank, stop)
        try:
            yield held
        finally:
            if held:
                with self._changed:
                    self._free += 1
                    self._changed.notify_all()

    def _take(self, rank: int, stop: threading.Event) -> bool:
        with self._changed:
            self._waiting[rank] += 1
            try:
                while not stop.is_set():
                    if self._free > 0 and not any(count for other, count in self._waiting.items() if other < rank):
                        self._free -= 1
                        return True
                    self._changed.wait(_POLL_S)
                return False
            finally:
                self._waiting[rank] -= 1
                self._changed.notify_all()
