"""A study: asks a sampler, tries what it proposes, keeps what came of it, until the trials or the time are spent.

Top of `converters.search`. Everything it knows is in its `Memory`, so a study that was killed goes on where it was: no trial that has
ended is repeated, and those that a dead process left running are tried again under their numbers. Hopeless trials are given up on a
small share of the training rows (`Halving`). Knows no device, no toolchain and no SQL.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from converters.errors import ConversionInputError
from converters.search.front import goodness
from converters.search.samplers.base import Sampler, Task
from converters.search.trial import Candidate, Evaluate, Memory, Outcome, Rung, Trial

Why = Literal["trials", "seconds", "interrupted", "exhausted"]
# How often a sampler is asked again when what it proposes was tried before; then a draw decides, and then the first that is left.
ATTEMPTS, DRAWS, MOST_LISTED = 16, 256, 20_000
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Halving:
    """When a trial is given up early: successive halving (Jamieson and Talwalkar, arXiv:1502.07943), asynchronous as in ASHA (Li et al.,
    arXiv:1810.05934), so that no worker waits for another.

    A trial whose recipe trains is first tried with the shares `fidelities` of the training rows, from the smallest. It goes on only
    if it is among the best `share` of all that were tried with as many rows, itself included; the first `least` always go on."""

    fidelities: tuple[float, ...] = (0.25,)
    share: float = 0.5
    least: int = 4

    def __post_init__(self) -> None:
        rising = list(self.fidelities) == sorted(set(self.fidelities))
        if not self.fidelities or not rising or not all(0 < each < 1 for each in self.fidelities):
            raise ConversionInputError(f"fidelities are {self.fidelities}, but must rise, between 0 and 1")
        if not 0 < self.share < 1 or self.least < 1:
            raise ConversionInputError(
                f"share is {self.share} and least {self.least}; a share is between 0 and 1, least 1 or more"
            )


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a trial: it was "begun", came to a "rung" and goes on, or "ended". `ended`: trials that have ended so far, `of` how many."""

    kind: Literal["begun", "rung", "ended"]
    trial: Trial
    ended: int
    of: int


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run of a study came to its end. `trials`: all of the study. `why`: the number of trials is reached, the seconds are spent,
    the user interrupted, or nothing is left that was not tried."""

    trials: tuple[Trial, ...]
    why: Why


def _silent(_event: Event) -> None:
    return None


class Study:
    """A search. `task`: the space, what is sought, and the seed; `sampler`: made of the same task; `evaluate` and `memory`: see
    `converters.search.trial`. `halving`: None to try everything in full. `notify`: told of every event, one at a time. `clock`: seconds."""

    def __init__(
        self,
        task: Task,
        sampler: Sampler,
        evaluate: Evaluate,
        memory: Memory,
        *,
        halving: Halving | None = None,
        notify: Callable[[Event], None] = _silent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._sampler, self._evaluate, self._memory = task, sampler, evaluate, memory
        self._halving, self._notify, self._clock = halving, notify, clock
        self._lock = threading.Lock()
        self._unfinished: list[int] = []
        self._begin(0, None)

    def run(self, trials: int, *, workers: int = 1, seconds: float | None = None) -> Finished:
        """Go on until there are `trials` of them, those of earlier runs included, or `seconds` have passed.

        With one worker everything happens in the calling thread, and Ctrl-C ends the trial at work; with several, Ctrl-C lets those at work
        end, and a second one does not wait for them. Either way what did not end is tried again in the next run, and this returns. What
        `evaluate`, `memory` or `sampler` raise ends the run and comes out here."""
        self._begin(trials, seconds)
        with self._lock:
            self._unfinished += [trial.number for trial in self._memory.adopt()]
        if workers == 1:
            self._alone()
        else:
            self._together(workers)
        if self._error is not None:
            raise self._error
        return Finished(tuple(self._memory.trials()), self._why)

    def _begin(self, trials: int, seconds: float | None) -> None:
        self._wanted, self._seconds, self._began = trials, seconds, self._clock()
        # Hurried: trials at work are not begun another time with more rows, and their failures are not believed.
        self._stopped = self._hurried = False
        self._why: Why = "trials"
        self._error: BaseException | None = None

    def _alone(self) -> None:
        try:
            self._work()
        except KeyboardInterrupt:
            self._why = "interrupted"

    def _together(self, workers: int) -> None:
        ends = [threading.Event() for _ in range(workers)]
        for number, end in enumerate(ends):
            # A daemon, so that a second Ctrl-C can leave it behind.
            threading.Thread(target=self._guarded, args=(end,), name=f"trial-{number}", daemon=True).start()
        try:
            _wait(ends)
        except KeyboardInterrupt:
            self._stop("interrupted")
            self._hurried = True
            try:
                _wait(ends)
            except KeyboardInterrupt:
                return

    def _guarded(self, end: threading.Event) -> None:
        """The work of one thread, which sets `end` when it is over; an error of one ends all, each after its trial."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  raised again by `run`
            with self._lock:
                self._error = self._error or error
                self._stopped = self._hurried = True
        finally:
            end.set()

    def _stop(self, why: Why) -> None:
        self._stopped, self._why = True, why

    def _work(self) -> None:
        """Try one trial after the other, until it is enough."""
        while True:
            with self._lock:
                trial = self._next()
                if trial is None:
                    return
                self._tell("begun", trial)
            ended = None
            try:
                ended = self._tried(trial)
            finally:
                if ended is None:
                    with self._lock:
                        self._unfinished.append(trial.number)
            if ended is None:
                return
            with self._lock:
                self._memory.end(ended)
                self._tell("ended", ended)

    def _tell(self, kind: Literal["begun", "rung", "ended"], trial: Trial) -> None:
        over = sum(each.outcome.state != "running" for each in self._memory.trials())
        self._notify(Event(kind, trial, over, self._wanted))

    def _next(self) -> Trial | None:
        """The trial to go on with, or a new one, begun; None when it is enough."""
        if self._stopped:
            return None
        if self._seconds is not None and self._clock() - self._began >= self._seconds:
            self._stop("seconds")
            return None
        if self._unfinished:
            number = self._unfinished.pop(0)
            return next(trial for trial in self._memory.trials() if trial.number == number)
        for candidate in self._proposals():
            begun = self._memory.begin(candidate)
            if begun is not None:
                return Trial(begun, candidate, Outcome("running"), 0.0)
        return None

    def _proposals(self) -> Iterator[Candidate]:
        """Candidates that were not tried, one more whenever another process was faster; none when there are trials enough."""
        while True:
            trials = self._memory.trials()
            if len(trials) >= self._wanted:
                return
            candidate = self._new(trials)
            if candidate is None:
                self._stop("exhausted")
                return
            yield candidate

    def _new(self, trials: Sequence[Trial]) -> Candidate | None:
        """What the sampler proposes and was not tried; else a draw; else the first that is left; else None."""
        space, tried = self._task.space, {trial.candidate.key for trial in trials}
        for attempt in range(ATTEMPTS):
            asked = self._sampler.ask(trials, attempt)
            if asked is None:
                return None
            if asked.key not in tried and space.refusal(asked) is None:
                return asked
        generator = self._task.generator(len(trials), ATTEMPTS)
        drawn = (self._task.random(generator) for _ in range(DRAWS))
        size = space.size
        listed = space.everything() if size is not None and size <= MOST_LISTED else iter(())
        for candidate in itertools.chain(drawn, listed):
            if candidate.key not in tried and space.refusal(candidate) is None:
                return candidate
        return None

    def _tried(self, trial: Trial) -> Trial | None:
        """The trial at its end, or None where the search was stopped before."""
        for fidelity in self._fidelities(trial):
            began = self._clock()
            outcome = self._evaluate(trial.candidate, number=trial.number, fidelity=fidelity)
            seconds = trial.seconds + self._clock() - began
            if outcome.state == "failed" and self._hurried:
                # Ctrl-C reaches the tools at work too: this is its failure, not the candidate's.
                return None
            trial = dataclasses.replace(
                trial, outcome=outcome, fidelity=fidelity, seconds=seconds, variant=outcome.variant
            )
            if outcome.state != "complete" or fidelity == 1.0:
                return trial
            rung = Rung(fidelity, outcome.metrics)
            trial = dataclasses.replace(trial, outcome=Outcome("running"), rungs=(*trial.rungs, rung), variant=None)
            with self._lock:
                self._memory.note(trial)
                if self._hopeless(trial, rung):
                    return dataclasses.replace(trial, outcome=dataclasses.replace(outcome, state="pruned"))
                self._tell("rung", trial)
            if self._hurried:
                return None
        return trial

    def _fidelities(self, trial: Trial) -> tuple[float, ...]:
        """Those that are still to be tried."""
        if self._halving is None or not self._task.space.trains(trial.candidate):
            return (1.0,)
        done = {rung.fidelity for rung in trial.rungs}
        return (*(each for each in self._halving.fidelities if each not in done), 1.0)

    def _hopeless(self, trial: Trial, rung: Rung) -> bool:
        """Whether too many others were better with as many rows."""
        if self._halving is None:
            return False
        others = [
            each.metrics
            for other in self._memory.trials()
            if other.number != trial.number
            for each in other.rungs
            if each.fidelity == rung.fidelity
        ]
        number = len(others) + 1
        if number <= self._halving.least:
            return False
        own, *rivals = goodness([rung.metrics, *others], self._task.objectives, self._task.constraints)
        return sum(rival < own for rival in rivals) >= math.ceil(self._halving.share * number)


def _wait(ends: Sequence[threading.Event]) -> None:
    """Until all are set. Not by joining the threads: up to CPython 3.12, a join that Ctrl-C interrupts takes a thread that is
    still at work for one that has ended, so the next join would not wait for it."""
    for end in ends:
        # A wait without end would not let Ctrl-C through on every platform.
        while not end.wait(_POLL_SECONDS):
            pass
