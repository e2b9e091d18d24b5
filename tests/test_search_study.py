"""A study: what it tries, what it keeps, when it ends, and that a killed one goes on where it was."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import search_spaces as lab

from converters.errors import ConversionInputError
from converters.search.plain import InMemory, Plain
from converters.search.samplers import SAMPLERS, make_sampler
from converters.search.samplers.base import Task
from converters.search.space import Space, read_space
from converters.search.study import Event, Halving, Study
from converters.search.trial import Candidate, Outcome, Trial, Value

Try = tuple[int, str, float]


class Spy:
    """An `Evaluate` that remembers what it was asked, and does something first."""

    def __init__(self, then: Callable[[int], None] = lambda _: None, worth: Any = lab.worth) -> None:
        self.tries: list[Try] = []
        self._then, self._plain = then, Plain(worth)

    def __call__(self, candidate: Candidate, *, number: int, fidelity: float) -> Outcome:
        self.tries.append((number, candidate.key, fidelity))
        self._then(number)
        return self._plain(candidate, number=number, fidelity=fidelity)


class Killed(BaseException):
    """What a dead process is like for the study: it ends, and writes nothing down."""


def kill_at(number: int) -> Callable[[int], None]:
    def then(trial: int) -> None:
        if trial == number:
            raise Killed

    return then


def study(task: Task, memory: InMemory, evaluate: Any = None, sampler: str = "random", **options: Any) -> Study:
    return Study(task, make_sampler(sampler, task), evaluate or Plain(lab.worth), memory, **options)


def found(memory: InMemory) -> list[tuple[int, str, str, Mapping[str, float | None]]]:
    return [(one.number, one.outcome.state, one.candidate.key, one.outcome.metrics) for one in memory.trials()]


def test_a_study_tries_as_many_candidates_as_it_is_told_each_once() -> None:
    memory, spy, events = InMemory(), Spy(), list[Event]()
    ended = study(lab.task(lab.plain()), memory, spy, notify=events.append).run(12)
    assert ended.why == "trials"
    assert [one.number for one in ended.trials] == list(range(12))
    assert len({key for _, key, _ in spy.tries}) == 12
    assert all(one.outcome.state == "complete" and one.fidelity == 1.0 for one in ended.trials)
    assert [event.kind for event in events] == ["begun", "ended"] * 12
    assert (events[-1].ended, events[-1].of) == (12, 12)
    assert study(lab.task(lab.plain()), memory, spy).run(12).trials == ended.trials
    assert len(spy.tries) == 12


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_killed_study_goes_on_as_if_it_had_never_stopped(sampler: str) -> None:
    task = lab.task(lab.forked(), seed=5)
    worth = lambda values, _: {"loss": float(values.get("sparsity", 1.5)) + int(values["epochs"])}  # noqa: E731
    whole, spy = InMemory(), Spy(worth=worth)
    study(task, whole, spy, sampler).run(15)
    killed, before = InMemory(), Spy(kill_at(6), worth)
    with pytest.raises(Killed):
        study(task, killed, before, sampler).run(15)
    assert [one.outcome.state for one in killed.trials()] == ["complete"] * 6 + ["running"]
    after = Spy(worth=worth)
    revived = InMemory(killed.trials())
    study(task, revived, after, sampler).run(15)
    assert found(revived) == found(whole)
    assert after.tries[0] == before.tries[-1]
    assert before.tries[:-1] + after.tries == spy.tries


def test_a_trial_that_was_interrupted_here_is_tried_again_here() -> None:
    memory, interrupted = InMemory(), list[int]()

    def once(number: int) -> None:
        if number == 3 and not interrupted:
            interrupted.append(number)
            raise KeyboardInterrupt

    task = lab.task(lab.plain())
    search = study(task, memory, spy := Spy(once))
    ended = search.run(5)
    assert (ended.why, [one.outcome.state for one in ended.trials]) == ("interrupted", ["complete"] * 3 + ["running"])
    assert search.run(5).why == "trials"
    assert [number for number, _, _ in spy.tries] == [0, 1, 2, 3, 3, 4]


def test_several_workers_try_different_candidates_at_the_same_time() -> None:
    both = threading.Barrier(3, timeout=20)
    spy = Spy(lambda _: both.wait() and None)
    ended = study(lab.task(lab.plain()), InMemory(), spy).run(9, workers=3)
    assert len({key for _, key, _ in spy.tries}) == 9
    assert [one.outcome.state for one in ended.trials] == ["complete"] * 9


def test_ctrl_c_lets_the_trials_at_work_end_and_begins_no_other() -> None:
    memory, working, go = InMemory(), threading.Semaphore(0), threading.Event()

    def wait(number: int) -> None:
        working.release()
        assert go.wait(20)

    def interrupt() -> None:
        for _ in range(2):
            assert working.acquire(timeout=20)
        signal.raise_signal(signal.SIGINT)
        while not search._hurried:
            time.sleep(0.001)
        go.set()

    search = study(lab.task(lab.plain()), memory, Spy(wait))
    # A signal is dealt with in the main thread, which waits in `run`.
    threading.Timer(0.05, interrupt).start()
    ended = search.run(9, workers=2)
    assert ended.why == "interrupted"
    assert [one.outcome.state for one in ended.trials] == ["complete"] * 2


def test_a_failure_that_ctrl_c_brought_about_is_not_the_candidates() -> None:
    memory, working = InMemory(), threading.Event()

    class Tool:
        def __call__(self, candidate: Candidate, *, number: int, fidelity: float) -> Outcome:
            working.set()
            assert stopped.wait(20)
            return Outcome("failed", error="the tool was interrupted")

    stopped = threading.Event()
    task = lab.task(lab.plain())
    search = study(task, memory, Tool())

    def interrupt() -> None:
        assert working.wait(20)
        signal.raise_signal(signal.SIGINT)
        while not search._hurried:
            time.sleep(0.001)
        stopped.set()

    threading.Timer(0.01, interrupt).start()
    ended = search.run(4, workers=2)
    assert ended.why == "interrupted"
    assert {one.outcome.state for one in ended.trials} == {"running"}


@pytest.mark.parametrize("workers", [1, 3])
def test_what_ends_the_search_comes_out_and_its_trial_is_left_to_be_tried_again(workers: int) -> None:
    def full(number: int) -> None:
        if number == 2:
            raise OSError("the disk is full")

    memory = InMemory()
    with pytest.raises(OSError, match="disk is full"):
        study(lab.task(lab.plain()), memory, Spy(full)).run(30, workers=workers)
    states = {one.number: one.outcome.state for one in memory.trials()}
    assert states.pop(2) == "running"
    assert set(states.values()) == {"complete"}
    assert len(states) < 29


def test_the_budget_of_seconds_ends_a_study_between_trials() -> None:
    now = [0.0]

    def minute(_: int) -> None:
        now[0] += 60

    ended = study(lab.task(lab.plain()), InMemory(), Spy(minute), clock=lambda: now[0]).run(50, seconds=150)
    assert (ended.why, len(ended.trials)) == ("seconds", 3)
    assert [one.seconds for one in ended.trials] == [60, 60, 60]


def test_failed_trials_are_kept_with_their_words_and_not_repeated() -> None:
    def broken(values: Mapping[str, Value], fidelity: float) -> Mapping[str, float | None]:
        if values["scope"] == "layer":
            raise ValueError("no layer")
        return lab.worth(values, fidelity)

    ended = study(lab.task(lab.plain()), InMemory(), Plain(broken)).run(20)
    failed = [one for one in ended.trials if one.outcome.state == "failed"]
    assert failed
    assert {one.outcome.error for one in failed} == {"no layer"}
    assert all(one.candidate.values["scope"] == "layer" for one in failed)
    assert len({one.candidate.key for one in ended.trials}) == 20


def small() -> Space:
    return read_space(
        {
            "recipes": ["{steps} {precision} @ {format}"],
            "parameters": {
                "steps": {"choice": ["", "qat >", "qat(8) >"]},
                "precision": {"choice": ["static_wi8_ai8", "fp32"]},
                "format": {"choice": ["tflite", "onnx"]},
            },
        }
    )


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_study_ends_when_everything_possible_was_tried(sampler: str) -> None:
    """Twelve points: qat and qat(8) mean the same, and neither goes before fp32."""
    memory = InMemory()
    ended = study(lab.task(small()), memory, Plain(lambda *_: {"loss": 1.0}), sampler).run(50)
    assert ended.why == "exhausted"
    assert sorted(one.candidate.key for one in ended.trials) == sorted(
        f"{fmt}:{chain}" for fmt in ("tflite", "onnx") for chain in ("static_wi8_ai8", "fp32", "qat(8)>static_wi8_ai8")
    )


def test_a_candidate_that_another_process_began_is_left_to_it() -> None:
    class Shared(InMemory):
        def begin(self, candidate: Candidate) -> int | None:
            if not self.trials():
                assert super().begin(candidate) == 0
                return None
            return super().begin(candidate)

    memory, spy = Shared(), Spy()
    study(lab.task(lab.plain()), memory, spy).run(4)
    assert [number for number, _, _ in spy.tries] == [1, 2, 3]
    assert [one.outcome.state for one in memory.trials()] == ["running"] + ["complete"] * 3


def halved(tries: Sequence[Try]) -> dict[int, list[float]]:
    fidelities: dict[int, list[float]] = {}
    for number, _, fidelity in tries:
        fidelities.setdefault(number, []).append(fidelity)
    return fidelities


def test_hopeless_trials_are_given_up_on_a_few_rows() -> None:
    memory, spy, events = InMemory(), Spy(), list[Event]()
    rule = Halving(fidelities=(0.25, 0.5), share=0.5, least=4)
    ended = study(lab.task(lab.plain()), memory, spy, halving=rule, notify=events.append).run(40)
    tried = halved(spy.tries)
    for one in ended.trials:
        if one.candidate.values["epochs"] == 0:
            assert tried[one.number] == [1.0]
        elif one.outcome.state == "complete":
            assert tried[one.number] == [0.25, 0.5, 1.0]
            assert [rung.fidelity for rung in one.rungs] == [0.25, 0.5]
            assert one.outcome.metrics == lab.worth(one.candidate.values)
        else:
            assert one.outcome.state == "pruned"
            assert tried[one.number] == [0.25, 0.5][: len(one.rungs)]
            assert one.outcome.metrics == one.rungs[-1].metrics
            before = [
                other for other in ended.trials if other.number < one.number and len(other.rungs) >= len(one.rungs)
            ]
            rivals = [other.rungs[len(one.rungs) - 1].metrics["loss"] for other in before]
            own = one.rungs[-1].metrics["loss"]
            assert sum(rival < own for rival in rivals) >= 0.5 * (len(rivals) + 1)  # type: ignore[operator]
            assert len(rivals) >= rule.least
    given_up = sum(one.outcome.state == "pruned" for one in ended.trials)
    assert 8 < given_up < 32
    assert sum(event.kind == "rung" for event in events) == sum(
        len(one.rungs) - (one.outcome.state == "pruned") for one in ended.trials
    )


def test_a_killed_trial_goes_on_from_its_rung() -> None:
    killed = InMemory()

    class Dies(Spy):
        def __call__(self, candidate: Candidate, *, number: int, fidelity: float) -> Outcome:
            outcome = super().__call__(candidate, number=number, fidelity=fidelity)
            if fidelity == 1.0 and candidate.values["epochs"]:
                raise Killed
            return outcome

    task = lab.task(lab.plain())
    with pytest.raises(Killed):
        study(task, killed, before := Dies(), halving=Halving()).run(10)
    after = Spy()
    study(task, InMemory(killed.trials()), after, halving=Halving()).run(10)
    assert before.tries[-2][2] == 0.25
    assert after.tries[0] == before.tries[-1]
    assert after.tries[0][2] == 1.0


@pytest.mark.parametrize("wrong", [{"fidelities": (0.5, 0.25)}, {"fidelities": (1.0,)}, {"share": 1.0}, {"least": 0}])
def test_a_halving_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConversionInputError):
        Halving(**wrong)


def test_an_unknown_sampler_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConversionInputError, match=r"'nsga'; did you mean 'nsga2'"):
        make_sampler("nsga", lab.task(lab.plain()))


def test_a_sampler_whose_library_is_missing_says_which_extra_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(SAMPLERS["tpe"], target="no_such_module:Tpe")
    monkeypatch.setitem(SAMPLERS, "tpe", missing)
    with pytest.raises(ConversionInputError, match=r"ondevice-harness\[search\]"):
        make_sampler("tpe", lab.task(lab.plain()))


def test_the_memory_hands_over_what_a_dead_process_left_only_once() -> None:
    left = Trial(
        3,
        lab.plain().candidate({"sparsity": 0.5, "scope": "layer", "epochs": 0, "precision": "fp32"}),
        Outcome("running"),
    )
    memory = InMemory([left])
    assert [one.number for one in memory.adopt()] == [3]
    assert memory.adopt() == []
    assert memory.begin(left.candidate) is None
