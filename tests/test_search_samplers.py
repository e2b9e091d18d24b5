"""All samplers under one interface: they find what is good, repeat nothing, and after a kill propose what they would have proposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import search_spaces as lab

pytest.importorskip("optuna", exc_type=ImportError)
pytest.importorskip("ttopt", exc_type=ImportError)
pytest.importorskip("sklearn", exc_type=ImportError)
pytestmark = pytest.mark.stats

from converters.search.front import hypervolume_so_far, pareto  # noqa: E402
from converters.search.plain import InMemory, Plain  # noqa: E402
from converters.search.samplers import SAMPLERS, Task, make_sampler  # noqa: E402
from converters.search.samplers.base import judged  # noqa: E402
from converters.search.samplers.gaussian import encoded  # noqa: E402
from converters.search.samplers.scalar import chebyshev, scale_of  # noqa: E402
from converters.search.space import read_space  # noqa: E402
from converters.search.study import Study  # noqa: E402
from converters.search.trial import Constraint, Outcome, Trial, Value  # noqa: E402

LEARNING = ("tpe", "gp", "nsga2", "tensor_train")


def run(
    name: str, task: Task, trials: int, worth: Any = lab.worth, memory: InMemory | None = None, workers: int = 1
) -> list[Trial]:
    memory = memory or InMemory()
    Study(task, make_sampler(name, task), Plain(worth), memory).run(trials, workers=workers)
    return memory.trials()


def best(trials: list[Trial]) -> float:
    return min(float(one.outcome.metrics["loss"] or 0) for one in trials if one.outcome.state == "complete")


def forked_worth(values: Mapping[str, Value], _fidelity: float = 1.0) -> dict[str, float | None]:
    """Factorizing at a ratio of 0.3 and rank 8 is best; of pruning only the sparsity matters."""
    if "sparsity" in values:
        return {"loss": 0.5 + abs(float(values["sparsity"]) - 0.5), "size": 1 - float(values["sparsity"])}
    loss = (float(values["ratio"]) - 0.3) ** 2 + 0.1 * abs(np.log2(float(values["rank"])) - 3)
    return {"loss": float(loss), "size": float(values["ratio"])}


def sampled_worth(values: Mapping[str, Value], fidelity: float = 1.0) -> dict[str, float | None]:
    """Some fail, and some have no size."""
    if values["precision"] == "fp32":
        raise ValueError("cannot be made")
    found = lab.worth(values, fidelity)
    return found | ({"size": None} if values["epochs"] == 1 else {})


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("kind", ["plain", "forked", "failing", "constrained", "objectives"])
def test_a_killed_search_proposes_what_the_unbroken_one_did(name: str, kind: str) -> None:
    space = lab.forked() if kind == "forked" else lab.plain()
    worth = {"forked": forked_worth, "failing": sampled_worth}.get(kind, lab.worth)
    objectives = (lab.LOSS, lab.SIZE) if kind in ("failing", "objectives") else (lab.LOSS,)
    constraints = (Constraint("size", "<=", 0.45),) if kind == "constrained" else ()
    task = Task(space, objectives, constraints, seed=3)
    whole = run(name, task, 16, worth)
    keys = [one.candidate.key for one in whole]
    assert len(set(keys)) == 16
    assert all(space.holds(one.candidate.values) and space.refusal(one.candidate) is None for one in whole)
    # Fresh objects, and a study that is made anew.
    again = run(name, Task(space, objectives, constraints, seed=3), 16, worth, InMemory(whole[:13]))
    assert [one.candidate.key for one in again] == keys
    other = run(name, Task(space, objectives, constraints, seed=4), 4, worth)
    assert [one.candidate.key for one in other] != keys[:4]


@pytest.mark.parametrize("name", LEARNING)
def test_learning_samplers_beat_draws(name: str) -> None:
    """Over seeds, at the same number of trials."""
    found = [best(run(name, lab.task(lab.plain(), seed=seed), 30)) for seed in range(3)]
    draws = [best(run("random", lab.task(lab.plain(), seed=seed), 30)) for seed in range(20)]
    assert np.mean(found) < np.mean(draws)


@pytest.mark.parametrize("name", LEARNING)
def test_conditional_parameters_are_learnt(name: str) -> None:
    trials = run(name, lab.task(lab.forked()), 40, forked_worth)
    assert best(trials) < 0.15
    late = [one.candidate.values for one in trials[20:]]
    assert sum("ratio" in values for values in late) > len(late) / 2


@pytest.mark.parametrize("name", LEARNING)
def test_constraints_turn_the_search_to_what_is_feasible(name: str) -> None:
    """The best of all lies at a size of 0.4; only a size below 0.2 is allowed, an eighth of the draws."""
    limit = Constraint("size", "<=", 0.2)
    runs = [run(name, lab.task(lab.plain(), constraints=(limit,), seed=seed), 40) for seed in range(3)]
    missed = np.array([[limit.violation(one.outcome.metrics) or 0.0 for one in trials] for trials in runs])
    if name == "tensor_train":
        # It sweeps over what is not feasible too, but then along what is.
        assert (missed == 0).mean() > 1.5 / 8
    else:
        assert missed[:, -14:].mean() < 0.75 * missed[:, :10].mean()


@pytest.mark.parametrize("name", LEARNING)
def test_several_objectives_give_a_front(name: str) -> None:
    objectives = (lab.LOSS, lab.SIZE)

    def volume(sampler: str, seeds: int) -> float:
        """What a search of 24 trials dominates, on average."""
        runs = [run(sampler, lab.task(lab.plain(), *objectives, seed=seed), 24) for seed in range(seeds)]
        if sampler == name != "tensor_train":  # which looks for one point of the front
            assert max(len(pareto(one, objectives)) for one in runs) > 2
        corner = {"loss": 0.6, "size": 1.0}
        return float(np.mean([hypervolume_so_far(one, objectives, (), corner)[-1] for one in runs]))

    assert volume(name, 3) > 0.95 * volume("random", 8)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_several_workers_get_different_candidates(name: str) -> None:
    trials = run(name, lab.task(lab.plain()), 24, workers=4)
    assert len({one.candidate.key for one in trials}) == 24


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_trials_that_run_or_fail_before_any_is_complete_do_no_harm(name: str) -> None:
    space = lab.plain()
    task = lab.task(space)
    first = make_sampler("random", task).ask([])
    assert first is not None
    for state in ("running", "failed", "pruned"):
        asked = make_sampler(name, task).ask([Trial(0, first, Outcome(state, {"loss": None}))])  # type: ignore[arg-type]
        assert asked is not None
        assert space.holds(asked.values)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_one_parameter_is_enough(name: str) -> None:
    space = read_space(
        {"recipes": ["prune({x}, epochs=0) @ tflite"], "parameters": {"x": {"float": [0.1, 0.9], "step": 0.05}}}
    )
    trials = run(name, lab.task(space), 17, lambda values, _: {"loss": abs(float(values["x"]) - 0.55)})
    assert len(trials) == (5 if name == "grid" else 17)
    assert name == "grid" or best(trials) == pytest.approx(0)


def test_what_did_not_end_well_counts_like_the_worst() -> None:
    space = lab.plain()
    task = Task(space, (lab.LOSS,), (Constraint("size", "<=", 0.5),))
    draw = np.random.default_rng(0)
    candidates = [task.random(draw) for _ in range(4)]
    trials = [
        Trial(0, candidates[0], Outcome("failed")),
        lab.complete(1, candidates[1], loss=1.0, size=0.9),
        lab.complete(2, candidates[2], loss=3.0, size=0.4),
        Trial(3, candidates[3], Outcome("pruned", {"loss": 0.0, "size": 0.0})),
        Trial(
            4,
            lab.forked().candidate({"recipe": lab.FORKED["recipes"][0], "sparsity": 0.5, "epochs": 1}),
            Outcome("running"),
        ),
    ]
    seen = judged(task, trials)
    assert [(one.trial.number, one.losses[0], round(one.excesses[0], 6), one.known, one.feasible) for one in seen] == [
        (0, 3.0, 0.4, False, False),
        (1, 1.0, 0.4, True, False),
        (2, 3.0, -0.1, True, True),
        (3, 3.0, 0.4, False, False),
    ]


def test_the_encoding_keeps_what_is_not_at_work_in_the_middle() -> None:
    space = lab.forked()
    prune, factorize = lab.FORKED["recipes"]
    rows = encoded(
        space,
        [
            {"recipe": prune, "sparsity": 0.9, "epochs": 3},
            {"recipe": factorize, "ratio": 0.5, "rank": 8, "epochs": 0},
        ],
    )
    assert list(space.parameters) == ["recipe", "sparsity", "ratio", "rank", "epochs"]
    half = 0.5**0.5
    assert rows == pytest.approx(np.array([[half, 0, 1, 0.5, 0.5, 1], [0, half, 0.5, 0.5, 0.5, 0]]), abs=1e-6)


def test_the_chebyshev_sum_reaches_the_hollow_of_a_front() -> None:
    ends, hollow = [(0.0, 1.0), (1.0, 0.0)], (0.6, 0.6)
    scale = scale_of([*ends, hollow])
    figures = [chebyshev(scale.normal(point), (0.5, 0.5)) for point in (*ends, hollow)]
    assert figures[2] < min(figures[:2])
    assert sum(hollow) > sum(ends[0])
