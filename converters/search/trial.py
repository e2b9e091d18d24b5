"""The words of a search: what is sought, what was proposed, what came of it; and who is asked for it.

The bottom of `converters.search`: `space` makes candidates, `samplers` propose them, `study` runs them. What a candidate is worth is
told by an `Evaluate` from outside (`harness.tune` converts and measures), where it is kept by a `Memory` (`harness.store`). So a
search needs no device, no toolchain and no SQL. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Value = float | int | str | bool
Goal = Literal["minimise", "maximise"]
State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True, slots=True)
class Objective:
    """One figure to make small or large, by its metric's name (`accuracy`, `size_bytes`, `latency_ns`, …)."""

    metric: str
    goal: Goal

    @property
    def sign(self) -> float:
        """1.0 where small is good, −1.0 where large is good: `sign * value` is to be minimised."""
        return 1.0 if self.goal == "minimise" else -1.0


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound that a trial must keep to be feasible, for example `accuracy_drop_pp <= 1`."""

    metric: str
    relation: Literal["<=", ">="]
    bound: float

    def excess(self, metrics: Mapping[str, float | None]) -> float | None:
        """How far the metric lies beyond the bound, negative where it keeps it; None where it was not measured."""
        value = metrics.get(self.metric)
        if value is None:
            return None
        return value - self.bound if self.relation == "<=" else self.bound - value

    def violation(self, metrics: Mapping[str, float | None]) -> float | None:
        """By how much the bound is missed, 0.0 where it is kept; None where the metric was not measured."""
        excess = self.excess(metrics)
        return None if excess is None else max(0.0, excess)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the space. `values`: of the parameters that are at work in it, no others. `recipe`: what it means, as
    `converters.recipe` reads it. `key`: the same for the same recipe and training parameters, whoever proposed them."""

    values: Mapping[str, Value]
    recipe: str
    key: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of evaluating a candidate. `metrics`: by name, None where not measured (then `reasons` says why).
    `intervals`: 95 % interval of a metric, where there is one. `error`: of a failed one, the tool's own words. `variant`: the
    name of the variant that was made, for the trial to be found among the variants by."""

    state: State
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    error: str | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Rung:
    """What a trial was worth when it trained on the share `fidelity` of the training rows, below 1."""

    fidelity: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate that was tried. `number`: from 0, in the order of proposal. `fidelity`: the share of the training rows that
    it was last tried with, in (0, 1]; 1.0 for a complete one. `rungs`: what it was worth at smaller ones before, from the
    smallest. `seconds`: all it cost. `variant`: its name among the variants."""

    number: int
    candidate: Candidate
    outcome: Outcome
    fidelity: float = 1.0
    seconds: float = 0.0
    variant: str | None = None
    rungs: tuple[Rung, ...] = ()

    def feasible(self, constraints: Sequence[Constraint]) -> bool:
        """Whether it is complete and keeps every constraint."""
        kept = (constraint.violation(self.outcome.metrics) for constraint in constraints)
        return self.outcome.state == "complete" and all(found == 0.0 for found in kept)


class Evaluate(Protocol):
    """Finds out what a candidate is worth. Called from several threads when a study has several workers."""

    def __call__(self, candidate: Candidate, *, number: int, fidelity: float) -> Outcome:
        """`fidelity`: the share of the training rows to use. Raises nothing for a candidate that cannot be made or measured:
        that is an Outcome with state "failed"; what ends the whole search (a lost device, a full disk) it raises.

        Below fidelity 1 a metric that is dear to measure and does not depend on the training rows may be None: trials are then held against
        each other by the others."""
        ...


class Memory(Protocol):
    """Where trials outlive the process. Safe to use from several threads, and from several processes on one study."""

    def trials(self) -> list[Trial]:
        """All trials so far, by number; those that are being tried, here or elsewhere, have the state "running"."""
        ...

    def adopt(self) -> list[Trial]:
        """Take over the running trials whose process is dead, to go on with them here; each is given to one caller only. A study asks
        for them when it begins to run."""
        ...

    def begin(self, candidate: Candidate) -> int | None:
        """Write down that this candidate is being tried, and give its number: one more than the highest. None when its key is there
        already, begun by another process in the meantime."""
        ...

    def note(self, trial: Trial) -> None:
        """Write down what a trial that goes on (state "running") has come to: its rungs, its seconds."""
        ...

    def end(self, trial: Trial) -> None:
        """Write down what came of it in the end."""
        ...
