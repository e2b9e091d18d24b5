"""A memory that lasts as long as the process, and an evaluation that is a plain function: for tests, and for trying samplers.

Beside `converters.search.study`; the product's own are `harness.store` and `harness.tune`. Standard library only.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping

from converters.search.trial import Candidate, Outcome, Trial, Value

Worth = Callable[[Mapping[str, Value], float], Mapping[str, float | None]]


class InMemory:
    """A `Memory` without a file. `trials`: of an earlier process; those of them that are running count as left by it."""

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self._lock = threading.Lock()
        self._trials = {trial.number: trial for trial in trials}
        self._orphans = [trial for _, trial in sorted(self._trials.items()) if trial.outcome.state == "running"]

    def trials(self) -> list[Trial]:
        """All, by number."""
        with self._lock:
            return [trial for _, trial in sorted(self._trials.items())]

    def adopt(self) -> list[Trial]:
        """Those that the earlier process left, once."""
        with self._lock:
            orphans, self._orphans = self._orphans, []
            return orphans

    def begin(self, candidate: Candidate) -> int | None:
        """The number of the new trial; None where the candidate was begun before."""
        with self._lock:
            if any(trial.candidate.key == candidate.key for trial in self._trials.values()):
                return None
            number = max(self._trials, default=-1) + 1
            self._trials[number] = Trial(number, candidate, Outcome("running"), 0.0)
            return number

    def note(self, trial: Trial) -> None:
        """Keep what it came to so far."""
        with self._lock:
            self._trials[trial.number] = trial

    def end(self, trial: Trial) -> None:
        """Keep what came of it."""
        self.note(trial)


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    """An `Evaluate` of a function: the candidate's values and the fidelity in, metrics out. A ValueError of it is a failed trial."""

    worth: Worth

    def __call__(self, candidate: Candidate, *, number: int, fidelity: float) -> Outcome:
        """What the function says."""
        del number
        try:
            return Outcome("complete", self.worth(candidate.values, fidelity))
        except ValueError as error:
            return Outcome("failed", error=str(error))
