"""The best of many trials: fronts, hypervolume, curves, and the order that decides what is given up."""

from __future__ import annotations

import numpy as np
import pytest
import search_spaces as lab
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.search import front
from converters.search.trial import Candidate, Constraint, Objective, Outcome, Trial

GRID = st.integers(0, 4).map(float)
POINTS = st.integers(1, 4).flatmap(lambda size: st.lists(st.tuples(*[GRID] * size), min_size=1, max_size=9))
ACCURACY = Objective("accuracy", "maximise")


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_the_front_is_what_nothing_dominates_and_dominates_the_rest(points: list[tuple[float, ...]]) -> None:
    best = [points[place] for place in front.front(points)]
    assert not any(front.dominates(one, other) for one in points for other in best)
    assert all(point in best or any(front.dominates(one, point) for one in best) for point in points)
    numbers = front.layers(points)
    assert [place for place, number in enumerate(numbers) if number == 0] == front.front(points)
    for one, number in zip(points, numbers, strict=True):
        assert all(later > number for other, later in zip(points, numbers, strict=True) if front.dominates(one, other))


@settings(max_examples=40, deadline=None)
@given(POINTS)
def test_hypervolume_counts_the_cells_that_are_dominated(points: list[tuple[float, ...]]) -> None:
    reference = (4.0,) * len(points[0])
    # Every point lies on a lattice of whole numbers, so the volume is the number of unit cells with a point below their corner.
    cells = np.stack(np.meshgrid(*[np.arange(4.0)] * len(reference)), axis=-1).reshape(-1, len(reference))
    counted = sum(
        any(all(a <= b for a, b in zip(point, cell, strict=True)) for point in points) for cell in cells.tolist()
    )
    assert front.hypervolume(points, reference) == pytest.approx(counted)


def trial(number: int, state: str = "complete", **metrics: float | None) -> Trial:
    return Trial(number, Candidate({}, str(number), str(number)), Outcome(state, metrics))  # type: ignore[arg-type]


TRIALS = [
    trial(0, accuracy=0.80, size=50),
    trial(2, accuracy=0.95, size=90),
    trial(1, accuracy=0.70, size=60),
    trial(3, "failed"),
    trial(4, "pruned", accuracy=0.99, size=1),
    trial(5, accuracy=0.80, size=40),
    trial(6, accuracy=None, size=1),
    trial(7, accuracy=0.99, size=200),
]
SMALL = Constraint("size", "<=", 100)


def test_the_pareto_front_is_of_complete_feasible_trials() -> None:
    found = front.pareto(TRIALS, [ACCURACY, lab.SIZE], [SMALL])
    assert [one.number for one in found] == [2, 5]
    assert [one.number for one in front.pareto(TRIALS, [ACCURACY, lab.SIZE])] == [2, 5, 7]


def test_the_best_so_far_keeps_the_metrics_sign_and_the_order_of_the_trials() -> None:
    assert front.best_so_far(TRIALS, ACCURACY, [SMALL]) == [0.80, 0.80, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95]
    assert front.best_so_far([trial(0, "failed"), trial(1, size=3)], lab.SIZE) == [None, 3]


def test_the_hypervolume_so_far() -> None:
    found = front.hypervolume_so_far(TRIALS, [ACCURACY, lab.SIZE], [SMALL], {"accuracy": 0.5, "size": 100})
    rest = 0.3 * 50 + 0.15 * 10
    assert found == pytest.approx(
        [15, 15, rest, rest, rest, 0.3 * 60 + 0.15 * 10, 0.3 * 60 + 0.15 * 10, 0.3 * 60 + 0.15 * 10]
    )


def test_what_misses_its_constraints_least_comes_first_then_the_front() -> None:
    figures = [
        {"loss": 1.0, "size": 200.0},
        {"loss": 9.0, "size": 90.0},
        {"loss": 5.0, "size": 90.0},
        {"loss": 0.0, "size": 300.0},
    ]
    order = front.goodness(figures, [lab.LOSS], [SMALL])
    assert sorted(range(4), key=order.__getitem__) == [2, 1, 0, 3]


def test_what_one_does_not_know_decides_for_none() -> None:
    figures = [{"loss": 1.0, "latency": None}, {"loss": 2.0, "latency": 1.0}]
    latency = Objective("latency", "minimise")
    assert front.goodness(figures, [lab.LOSS, latency], [Constraint("latency", "<=", 0.5)]) == [(0, 0), (0, 1)]
    assert front.goodness(figures, [latency], []) == [(0, 0), (0, 0)]


def test_a_constraint_in_figures() -> None:
    limit = Constraint("accuracy", ">=", 0.9)
    assert limit.violation({"accuracy": 0.75}) == pytest.approx(0.15)
    assert limit.excess({"accuracy": 0.95}) == pytest.approx(-0.05)
    assert limit.violation({"accuracy": 0.95}) == 0.0
    assert limit.violation({}) is None
