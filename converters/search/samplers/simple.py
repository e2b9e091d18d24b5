"""The samplers that learn nothing: a grid, and draws. What every other one is held against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from converters.search.domains import LEVELS
from converters.search.samplers.base import Task
from converters.search.trial import Candidate, Trial, Value

# A grid with more points than this is not listed; it would not be tried out either.
MOST = 100_000


@dataclass(frozen=True, slots=True)
class Random:
    """Draws. With the trials so far it does nothing but count them."""

    task: Task

    def ask(self, trials: Sequence[Trial], attempt: int = 0) -> Candidate | None:
        """A draw that belongs to this place in the search."""
        return self.task.random(self.task.generator(len(trials), attempt))


class Grid:
    """All combinations of evenly spread values, once each, in an order drawn from the seed. Of a range at most `levels` values; when
    that makes more than `MOST` points, fewer."""

    def __init__(self, task: Task, levels: int = LEVELS) -> None:
        self._task = task
        points: list[dict[str, Value]] = []
        for most in range(levels, 0, -1):
            grids = task.space.levels(most)
            if most == 1 or sum(math.prod(map(len, grid.values())) for grid in grids) <= MOST:
                points = [
                    dict(zip(grid, found, strict=True))
                    for grid in grids
                    for found in itertools.islice(itertools.product(*grid.values()), MOST)
                ]
                break
        order = task.generator(0).permutation(len(points)).tolist()
        self._order = [points[place] for place in order]

    @property
    def points(self) -> int:
        """How many points there are."""
        return len(self._order)

    def ask(self, trials: Sequence[Trial], attempt: int = 0) -> Candidate | None:
        """The first that was not tried; None when all were."""
        del attempt
        tried = {trial.candidate.key for trial in trials}
        for values in self._order:
            candidate = self._task.space.candidate(values)
            if candidate.key not in tried and self._task.space.refusal(candidate) is None:
                return candidate
        return None
