"""What is left of a session's budget, and which runs to spend it on: those that should settle most variants per second. Pure.

Read by `harness.session.rounds`. Runs are chosen whole: nothing is cut off because the budget ends, and nothing is begun that should not
end within it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

Key = tuple[str, str]  # device, engine


class Budget:
    """The device time of a whole session, probes and earlier sittings included. `total_s` None: no end.

    `before_s`: spent before this process; `clock`: monotonic seconds.
    """

    def __init__(self, total_s: float | None, before_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_s = total_s
        self._before_s = before_s
        self._clock = clock
        self._begun_s = clock()

    @property
    def spent_s(self) -> float:
        """Seconds spent so far."""
        return self._before_s + self._clock() - self._begun_s

    @property
    def left_s(self) -> float:
        """Seconds left, 0 at least; infinite without a budget."""
        return float("inf") if self.total_s is None else max(0.0, self.total_s - self.spent_s)

    def words(self) -> str:
        """For messages."""
        return f"the budget of {self.total_s:g} s is spent"


@dataclass(frozen=True, slots=True)
class Offer:
    """A run that one target could have next. `group`: targets of equal group are measured together. `further`: its open
    variants → runs that should settle each. `cost_s`: seconds of a run over some of them, the base included."""

    key: Key
    group: str
    further: Mapping[str, float]
    cost_s: Callable[[Collection[str]], float]

    @property
    def run_s(self) -> float:
        """Seconds of the run as offered."""
        return self.cost_s(self.further)

    @property
    def gain(self) -> float:
        """Variants that this run should settle, on average."""
        return sum(1.0 / count for count in self.further.values())


def _reachable(offer: Offer, left_s: float) -> Offer:
    """Only the variants that the rest of the budget could settle, were it spent on nothing else."""
    wanted = {name: count for name, count in offer.further.items() if count * offer.cost_s({name}) <= left_s}
    return replace(offer, further=wanted)


def spend(offers: Sequence[Offer], left_s: float) -> list[Offer]:
    """The runs to make next, all of one group: the most variants settled per second first; none when nothing fits any more.

    Variants that the rest of the budget cannot settle are left out as long as there are others that it can.
    """
    reachable = [offer for offer in (_reachable(offer, left_s) for offer in offers) if offer.further]
    groups: dict[str, list[Offer]] = {}
    for offer in reachable or offers:
        groups.setdefault(offer.group, []).append(offer)

    def worth(members: Sequence[Offer]) -> float:
        return sum(member.gain for member in members) / max(1e-9, sum(member.run_s for member in members))

    for members in sorted(groups.values(), key=worth, reverse=True):
        chosen = sorted(members, key=lambda member: worth([member]), reverse=True)
        while chosen and sum(member.run_s for member in chosen) > left_s:
            chosen.pop()
        if chosen:
            return chosen
    return []
