"""Optuna's samplers behind ours: TPE and NSGA-II, for one or several objectives.

Optuna is asked anew for each proposal, with a study in memory that is told the trials so far: so the store stays ours, and a
search that goes on proposes what it would have proposed. Imported only where one of these samplers is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from converters.search.domains import Choice, Domain
from converters.search.samplers.base import Judged, Task, judged, shares
from converters.search.space import RECIPE
from converters.search.trial import Candidate, Trial, Value

# Before TPE has seen as many trials it draws (Optuna's own default).
STARTUP = 10
# Members of a generation: a search of sixty trials then has five, where Optuna's fifty would leave it one.
POPULATION = 12
# Where Optuna keeps the generation of a trial.
_GENERATION = f"{NSGAIISampler.__name__}:generation"
# Tells the draws of sleeping genes from those of proposals.
_ASLEEP = 1_000_003


@dataclass(frozen=True, slots=True)
class Tpe:
    """Tree-structured Parzen estimators. Parameters that are not at work do not exist for it."""

    task: Task

    def ask(self, trials: Sequence[Trial], attempt: int = 0) -> Candidate | None:
        """The most promising of 24 draws from the density of the better trials."""
        space = self.task.space
        # The constant liar is ours (`judged`).
        sampler = TPESampler(n_startup_trials=STARTUP, seed=_seed(self.task, trials, attempt), constant_liar=False)
        seen = judged(self.task, trials)
        told = [_told(self.task, one, dict(one.trial.candidate.values)) for one in seen]
        asked = _study(self.task, sampler, told).ask()
        values: dict[str, Value] = {}
        if len(space.templates) > 1:
            values[RECIPE] = _suggested(asked, RECIPE, space.parameters[RECIPE])
        for name in space.template(values).names:
            values[name] = _suggested(asked, name, space.parameters[name])
        return space.candidate(values)


@dataclass(frozen=True, slots=True)
class Nsga2:
    """A population that is crossed, mutated and sorted by fronts.

    Optuna crosses only parameters that all trials have. So those that are not at work are carried along as sleeping genes, drawn for
    each trial, and come to work where a crossing changes the recipe."""

    task: Task

    def ask(self, trials: Sequence[Trial], attempt: int = 0) -> Candidate | None:
        """A child of two of the last generation's best, or a draw for the first generation."""
        space = self.task.space
        sampler = NSGAIISampler(population_size=POPULATION, seed=_seed(self.task, trials, attempt))
        told = []
        for position, one in enumerate(judged(self.task, trials)):
            draws = shares(self.task.generator(one.trial.number, _ASLEEP))
            asleep = {name: domain.drawn(next(draws)) for name, domain in space.parameters.items()}
            genes = asleep | dict(one.trial.candidate.values)
            told.append(_told(self.task, one, genes, {_GENERATION: position // POPULATION}))
        asked = _study(self.task, sampler, told).ask()
        return space.candidate({name: _suggested(asked, name, domain) for name, domain in space.parameters.items()})


def _seed(task: Task, trials: Sequence[Trial], attempt: int) -> int:
    return int(task.generator(len(trials), attempt).integers(2**31))


def _study(task: Task, sampler: BaseSampler, told: Sequence[FrozenTrial]) -> optuna.Study:
    # It would announce every study on stderr.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(task.objectives), sampler=sampler)
    study.add_trials(told)
    return study


def _told(task: Task, one: Judged, values: dict[str, Value], attributes: dict[str, int] | None = None) -> FrozenTrial:
    """A trial as Optuna knows it. What did not come to an end is told as judged: as complete, and as bad as the worst."""
    parameters = task.space.parameters
    return create_trial(
        state=TrialState.COMPLETE,
        values=list(one.losses),
        params={name: _internal(parameters[name], value) for name, value in values.items()},
        distributions={name: _distribution(parameters[name]) for name in values},
        constraints={f"{number}": excess for number, excess in enumerate(one.excesses)},
        system_attrs=attributes,
    )


def _distribution(domain: Domain) -> CategoricalDistribution | IntDistribution | FloatDistribution:
    """By place where there are places: Optuna would take 1 and True for the same option, and leave out the last of many steps."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(range(domain.count))
    if domain.step is not None and domain.count is not None:
        return IntDistribution(0, domain.count - 1)
    if domain.whole:
        return IntDistribution(round(domain.low), round(domain.high), domain.log)
    return FloatDistribution(domain.low, domain.high, domain.log)


def _by_place(domain: Domain) -> bool:
    return isinstance(domain, Choice) or domain.step is not None


def _internal(domain: Domain, value: Value) -> Value:
    return domain.place(value) if _by_place(domain) else value


def _suggested(asked: optuna.Trial, name: str, domain: Domain) -> Value:
    distribution = _distribution(domain)
    found: Value
    if isinstance(distribution, CategoricalDistribution):
        found = int(asked.suggest_categorical(name, range(len(distribution.choices))))
    elif isinstance(distribution, IntDistribution):
        found = asked.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    else:
        found = asked.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    return domain.nth(int(found)) if _by_place(domain) else found
