"""What a sampler is: it looks at the trials so far and proposes the next candidate.

Under the other modules of `converters.search.samplers`. A sampler keeps nothing: what it proposes follows from its seed and from the
trials alone. So a search that was killed and goes on proposes what it would have proposed, and workers need not agree on anything
but the list of trials. What a trial tells a sampler is decided here, once for all of them (`judged`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from converters.search.front import Point, losses
from converters.search.space import Space
from converters.search.trial import Candidate, Constraint, Objective, Trial


class Sampler(Protocol):
    """Proposes candidates."""

    def ask(self, trials: Sequence[Trial], attempt: int = 0) -> Candidate | None:
        """The next candidate after these trials, running ones included; None when there is nothing (more) that it would propose.

        `attempt`: how many of its proposals in this place were of no use, because they were tried before or cannot be variants; another
        number gives another proposal. Raises ImportError where its library is not installed."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """What every sampler is made of. `seed`: the same gives the same proposals after the same trials."""

    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    seed: int = 0

    def generator(self, number: int, attempt: int = 0) -> np.random.Generator:
        """The source of chance for the proposal of trial `number`."""
        return np.random.default_rng([self.seed, number, attempt])

    def random(self, generator: np.random.Generator) -> Candidate:
        """A candidate at random."""
        return self.space.candidate(self.space.draw(shares(generator)))


@dataclass(frozen=True, slots=True)
class Judged:
    """A trial as samplers see it: `losses` and `excesses` (of each constraint; kept where not above 0) are finite numbers, whatever
    came of it. `known`: whether they were measured."""

    trial: Trial
    losses: Point
    excesses: Point
    known: bool

    @property
    def feasible(self) -> bool:
        """Whether it is complete and keeps every constraint."""
        return self.known and all(excess <= 0 for excess in self.excesses)


def shares(generator: np.random.Generator) -> Iterator[float]:
    """Uniform draws in [0, 1) without end."""
    while True:
        yield float(generator.random())


def judged(task: Task, trials: Sequence[Trial]) -> list[Judged]:
    """The trials of this space, by number; none while no trial is complete.

    A trial that failed, was given up, is still running, or lacks a metric counts like the worst of the complete ones, in every objective
    and constraint. Of running trials that is the constant liar (CL-max of Ginsbourger, Le Riche and Carraro, 2010,
    doi:10.1007/978-3-642-10701-6_6): it keeps several workers from crowding in one place."""
    ours = sorted(
        (trial for trial in trials if task.space.holds(trial.candidate.values)), key=lambda trial: trial.number
    )
    measured: dict[int, tuple[Point, Point]] = {}
    for trial in ours:
        metrics = trial.outcome.metrics
        point, beyond = losses(metrics, task.objectives), [each.excess(metrics) for each in task.constraints]
        finite = tuple(value for value in beyond if value is not None and math.isfinite(value))
        if trial.outcome.state == "complete" and point is not None and len(finite) == len(beyond):
            measured[trial.number] = point, finite
    if not measured:
        return []
    worst = tuple(map(max, zip(*(found for found, _ in measured.values()), strict=True)))
    farthest = tuple(map(max, zip(*(excesses for _, excesses in measured.values()), strict=True)))
    found: list[Judged] = []
    for trial in ours:
        point, excesses = measured.get(trial.number, (worst, farthest))
        found.append(Judged(trial, point, excesses, trial.number in measured))
    return found
