"""Hands out the steps of chains to several makers: each step once, after the one before it, first what is wanted first.

Used by `converters.compression`. Chains that begin alike share their beginning: it is made once, and the others wait for it, so that no two
makers are ever at the same step.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from converters.chains import Chain

_POLL_S = 0.1


class StepOrder:
    """What is made, what is being made, and what failed, by the address of each step. Safe to use from several threads."""

    def __init__(self, chains: Sequence[Chain], stop: threading.Event) -> None:
        self._chains = list(chains)
        self._stop = stop
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._making: set[str] = set()
        self._changed = threading.Condition()

    def take(self) -> tuple[Chain, int] | None:
        """A step to make, as a chain and a position in it; waits while those left depend on others. None when there is nothing
        more to make, or when everything must stop."""
        with self._changed:
            while not self._stop.is_set():
                waiting = False
                for chain in self._chains:
                    position = self._next(chain)
                    if position is None:
                        continue
                    waiting = True
                    if chain.keys[position] not in self._making:
                        self._making.add(chain.keys[position])
                        return chain, position
                if not waiting:
                    return None
                self._changed.wait(_POLL_S)
            return None

    def settle(self, key: str, *, failed: bool) -> list[Chain]:
        """Say that a step was made, or that it failed; the chains that ended with that."""
        with self._changed:
            self._making.discard(key)
            (self._failed if failed else self._done).add(key)
            self._changed.notify_all()
            return [chain for chain in self._chains if key in chain.keys and self._next(chain) is None]

    def _next(self, chain: Chain) -> int | None:
        """The first step of a chain that is not made yet; None when it has come to its end, or failed."""
        for position, key in enumerate(chain.keys):
            if key in self._failed:
                return None
            if key not in self._done:
                return position
        return None
