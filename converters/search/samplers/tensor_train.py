"""Tensor-train optimisation: all values of all parameters are a tensor, of which a cross approximation of low rank finds the small end.

ttopt (Sozykin et al., "TTOpt: A Maximum Volume Quantized Tensor Train-based Optimization", arXiv:2205.00293) sweeps over the parameters, and
asks for all values of one of them at the best few places of the others. It wants a function to call, and we have a study to wait for:
so for every proposal it runs again from its seed, over the values that are known, until it asks for one that is not. That takes
milliseconds, and lets it go on after a kill, and serve several workers. A parameter that is not at work changes nothing, so
the values along it are known at once. Imported only where this sampler is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ttopt import ttopt

from converters.search.domains import LEVELS
from converters.search.samplers.base import Judged, Task, judged
from converters.search.samplers.scalar import chebyshev, scale_of
from converters.search.trial import Candidate, Trial, Value

# Of a range so many values are a side of the tensor.
SIDE = LEVELS + 3
RANK = 2
# The first trials alone decide what a large difference is: if every trial did, the sweeps would change their minds all the time.
SETTLED = 10
# When so many sweeps have asked for nothing new, it begins again from another seed, so many times.
SWEEPS, RESTARTS = 4, 6
_Answer = tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]


class TensorTrain:
    """TT-cross over the grid of all parameters."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._names = tuple(task.space.parameters)
        self._levels = [domain.levels(SIDE) for domain in task.space.parameters.values()]

    def ask(self, trials: Sequence[Trial], attempt: int = 0) -> Candidate | None:
        """The next value that the sweep wants to know; a draw where every sweep has all it wants."""
        generator = self._task.generator(len(trials), attempt)
        if attempt == 0:
            known = self._known(trials)
            for restart in range(RESTARTS):
                wanted = self._wanted(known, restart)
                if wanted is not None:
                    return wanted
        return self._task.random(generator)

    def _wanted(self, known: dict[str, float], restart: int) -> Candidate | None:
        """The first candidate in ttopt's way whose value is not known; None when it goes round in circles."""
        worst = max(known.values(), default=0.0)
        found: list[Candidate] = []
        calls = 0

        def values(indices: npt.NDArray[np.int64], *_: Any) -> _Answer:
            nonlocal calls
            calls += 1
            if calls > SWEEPS * len(self._shape):
                return None, None
            answers = []
            for row in indices.tolist():
                candidate = self._candidate(row)
                value = known.get(candidate.key)
                if value is None and self._task.space.refusal(candidate) is None:
                    found.append(candidate)
                    return None, None
                answers.append(worst if value is None else value)
            return np.array(answers), np.zeros(len(answers))

        seed = int(self._task.generator(0, restart).integers(2**31))
        ttopt(values, self._shape, rank=RANK, seed=seed)
        return found[0] if found else None

    @property
    def _shape(self) -> list[int]:
        # It wants at least two sides.
        return [len(levels) for levels in self._levels] + [1] * (len(self._levels) == 1)

    def _candidate(self, row: Sequence[int]) -> Candidate:
        values: dict[str, Value] = {
            name: levels[place] for name, levels, place in zip(self._names, self._levels, row, strict=False)
        }
        return self._task.space.candidate(values)

    def _known(self, trials: Sequence[Trial]) -> dict[str, float]:
        """What each tried candidate is worth, as one figure: small is good, and a large difference is about 1."""
        seen = judged(self._task, trials)
        if not seen:
            return {trial.candidate.key: 0.0 for trial in trials}
        settled = [one for one in seen if one.known][:SETTLED]
        scale = scale_of([one.losses for one in settled])
        bounds = [
            max(abs(one.excesses[place]) for one in settled) or 1.0 for place in range(len(self._task.constraints))
        ]
        weights = [1.0 / len(self._task.objectives)] * len(self._task.objectives)

        def figure(one: Judged) -> float:
            beyond = sum(max(0.0, excess) / bound for excess, bound in zip(one.excesses, bounds, strict=True))
            return chebyshev(scale.normal(one.losses), weights) + beyond + math.ceil(min(beyond, 1.0))

        return {one.trial.candidate.key: figure(one) for one in seen}
