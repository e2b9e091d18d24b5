"""Bayesian optimisation: a Gaussian process of the trials so far, and the candidate from which it expects the most improvement.

scikit-learn's process with a Matérn kernel (5/2, one length per column, and noise). Choices become one column each; parameters that are not
at work stand in the middle of theirs. Each constraint has a process of its own, and improvement counts with the probability that
all are kept (Gardner et al., ICML 2014). Several objectives become one with weights drawn for each proposal (ParEGO, Knowles, 2006).
Optuna's own Gaussian process needs PyTorch. Imported only where this sampler is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from converters.search.domains import Choice
from converters.search.samplers.base import Judged, Task, judged, shares
from converters.search.samplers.scalar import chebyshev, scale_of
from converters.search.space import Space, Values
from converters.search.trial import Candidate, Trial, Value

Matrix = npt.NDArray[np.float64]

STARTUP = 10
# A space of at most so many points is looked at whole; of a larger one as many draws as this and some neighbours of the best.
MOST_LISTED, DRAWS = 1024, 512
PARENTS, CHILDREN, STRIDE = 5, 16, 0.15


class GaussianProcess:
    """Expected improvement under a Gaussian process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        size = task.space.size
        listed = (
            {each.key: each for each in task.space.everything()} if size is not None and size <= MOST_LISTED else {}
        )
        self._everything = [each.values for each in listed.values()]

    def ask(self, trials: Sequence[Trial], attempt: int = 0) -> Candidate | None:
        """The candidate that was not tried with the most improvement to expect; a draw before ten trials are complete."""
        task, generator = self._task, self._task.generator(len(trials), attempt)
        seen = judged(task, trials)
        if sum(one.known for one in seen) < STARTUP:
            return task.random(generator)
        tried = {trial.candidate.key for trial in trials}
        pool = self._everything or self._drawn(seen, generator)
        worth, mean = self._worth(seen, encoded(task.space, pool), generator)
        # Where nothing is expected to improve, the lowest mean is best.
        for place in np.lexsort((mean, -worth)).tolist():
            candidate = task.space.candidate(pool[place])
            if candidate.key not in tried and task.space.refusal(candidate) is None:
                return candidate
        return task.random(generator)

    def _worth(self, seen: Sequence[Judged], pool: Matrix, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
        """Of each row of the pool the improvement to expect, and the mean."""
        task = self._task
        known = encoded(task.space, [one.trial.candidate.values for one in seen])
        scale = scale_of([one.losses for one in seen if one.known])
        weights = generator.dirichlet(np.ones(len(task.objectives))) if len(task.objectives) > 1 else np.ones(1)
        losses = np.array([chebyshev(scale.normal(one.losses), weights.tolist()) for one in seen])
        chance = int(generator.integers(2**31))
        mean, spread = _predicted(known, losses, pool, chance)
        feasible = [loss for one, loss in zip(seen, losses.tolist(), strict=True) if one.feasible]
        worth = _improvement(mean, spread, min(feasible)) if feasible else np.ones(len(pool))
        for number in range(len(task.constraints)):
            excesses = np.array([one.excesses[number] for one in seen])
            if (excesses > 0).any():
                beyond, doubt = _predicted(known, excesses, pool, chance)
                worth = worth * ndtr(-beyond / doubt)
        return worth, mean

    def _drawn(self, seen: Sequence[Judged], generator: np.random.Generator) -> list[Values]:
        """Values to choose from: draws, and neighbours of the best."""
        space, draws = self._task.space, shares(generator)
        found: list[Values] = [space.draw(draws) for _ in range(DRAWS)]
        best = sorted(
            seen, key=lambda one: (not one.feasible, sum(max(0.0, each) for each in one.excesses), one.losses)
        )
        for one in best[:PARENTS]:
            found += [_neighbour(space, one.trial.candidate.values, generator) for _ in range(CHILDREN)]
        return found


def encoded(space: Space, points: Sequence[Values]) -> Matrix:
    """float64 [points, columns], each in [0, 1]: a range is one column, a choice one per option; what is not at work is the middle."""
    columns: list[Matrix] = []
    for name, domain in space.parameters.items():
        values = [point.get(name) for point in points]
        if isinstance(domain, Choice):
            # An option that is taken lies as far from another as the ends of a range.
            place = np.array([-1 if value is None else domain.place(value) for value in values])
            hot = (place[:, None] == np.arange(domain.count)) / np.sqrt(2.0)
            hot[place < 0] = 1 / (np.sqrt(2.0) * domain.count)
            columns.append(hot)
        else:
            columns.append(np.array([[0.5 if value is None else domain.unit(value)] for value in values]))
    return np.concatenate(columns, axis=1)


def _predicted(known: Matrix, figures: Matrix, pool: Matrix, seed: int) -> tuple[Matrix, Matrix]:
    """Mean and standard deviation [rows of the pool] of a process fitted to `figures` [rows of known]."""
    lengths = np.full(known.shape[1], 0.5)
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(lengths, (5e-2, 2e1), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1e-1))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    # Matrices of sixty rows are slower on several cores than on one, and those cores are training a trial; nor may the sums depend on them.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # A length at its bound only says that a column does not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(known, figures)
        mean, spread = process.predict(pool, return_std=True)
    return mean, np.maximum(spread, 1e-12)


def _improvement(mean: Matrix, spread: Matrix, best: float) -> Matrix:
    """Expected improvement below `best` (Jones, Schonlau and Welch, 1998)."""
    gain = (best - mean) / spread
    density = np.exp(-0.5 * gain**2) / np.sqrt(2 * np.pi)
    return np.asarray((best - mean) * ndtr(gain) + spread * density)


def _neighbour(space: Space, values: Values, generator: np.random.Generator) -> Values:
    """The same with one parameter moved or drawn anew; where that is the recipe, all that the new one adds are drawn."""
    names = space.active(values)
    name = names[int(generator.integers(len(names)))]
    domain = space.parameters[name]
    draws = shares(generator)
    moved: dict[str, Value] = dict(values)
    if isinstance(domain, Choice):
        moved[name] = domain.drawn(next(draws))
    else:
        moved[name] = domain.at(domain.unit(moved[name]) + STRIDE * float(generator.normal()))
    return {
        each: moved[each] if each in moved else space.parameters[each].drawn(next(draws))
        for each in space.active(moved)
    }
