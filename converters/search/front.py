"""What the best of many trials is: Pareto front, order by quality, hypervolume, and the best so far after each trial.

Pure functions beside `converters.search.study` and the samplers, which ask them, and for reports. Points are tuples of losses: small is
good in each. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from converters.search.trial import Constraint, Objective, Trial

Point = tuple[float, ...]
Metrics = Mapping[str, float | None]


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is nowhere worse than `other`, and better in something."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Positions of the points that no other dominates, in order; equal points stand side by side."""
    return [place for place, point in enumerate(points) if not any(dominates(other, point) for other in points)]


def layers(points: Sequence[Point]) -> list[int]:
    """Of each point: the number of its front, 0 for the first; the second is the front of what is left without the first, and so on."""
    found, left, number = [0] * len(points), list(range(len(points))), 0
    while left:
        best = {left[place] for place in front([points[each] for each in left])}
        for place in best:
            found[place] = number
        left, number = [place for place in left if place not in best], number + 1
    return found


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume of what the points dominate within `reference`, exactly, by slices along the last objective (Zitzler and Thiele, PPSN V,
    1998, define it). Points that are not better than the reference everywhere add nothing. In the product of the objectives' units."""
    inside = [point for point in points if all(a < b for a, b in zip(point, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(point[0] for point in inside)
    inside.sort(key=lambda point: point[-1])
    volume = 0.0
    for place, point in enumerate(inside):
        above = inside[place + 1][-1] if place + 1 < len(inside) else reference[-1]
        if above > point[-1]:
            volume += (above - point[-1]) * hypervolume([each[:-1] for each in inside[: place + 1]], reference[:-1])
    return volume


def losses(metrics: Metrics, objectives: Sequence[Objective]) -> Point | None:
    """The objectives' figures, each to be made small; None when one was not measured or is not a finite number."""
    found = [metrics.get(objective.metric) for objective in objectives]
    if any(value is None or not math.isfinite(value) for value in found):
        return None
    return tuple(
        objective.sign * value for objective, value in zip(objectives, found, strict=True) if value is not None
    )


def pareto(
    trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
) -> list[Trial]:
    """The feasible trials that no other feasible one dominates, by number."""
    feasible = [(trial, point) for trial, point in _feasible(trials, objectives, constraints) if point is not None]
    return [feasible[place][0] for place in front([point for _, point in feasible])]


def best_so_far(
    trials: Sequence[Trial], objective: Objective, constraints: Sequence[Constraint] = ()
) -> list[float | None]:
    """After each trial, by number: the best figure of a feasible one, in the metric's own sign and unit; None before there is one."""
    found: list[float | None] = []
    best: float | None = None
    for _, point in _feasible(trials, [objective], constraints):
        if point is not None and (best is None or point[0] < best):
            best = point[0]
        found.append(None if best is None else objective.sign * best)
    return found


def hypervolume_so_far(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    reference: Mapping[str, float],
) -> list[float]:
    """After each trial, by number: the volume that the feasible ones so far dominate. `reference`: a bad figure of each metric, in its
    own sign and unit."""
    corner = tuple(objective.sign * reference[objective.metric] for objective in objectives)
    found: list[float] = []
    best: list[Point] = []
    for _, point in _feasible(trials, objectives, constraints):
        if point is not None and not any(other == point or dominates(other, point) for other in best):
            best = [*(other for other in best if not dominates(point, other)), point]
            found.append(hypervolume(best, corner))
        else:
            found.append(found[-1] if found else 0.0)
    return found


def goodness(
    figures: Sequence[Metrics], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> list[Point]:
    """A key to order by, best first: what misses its constraints least, then the number of the front. What one of them does not know
    is left out for all: on few rows not everything is measured.

    Violations are added as shares of the largest of each constraint (after Deb, 2000, doi:10.1016/S0045-7825(99)00389-8)."""
    known = [each for each in objectives if all(losses(metrics, [each]) is not None for metrics in figures)]
    points = [losses(metrics, known) or () for metrics in figures]
    missed = [0.0] * len(figures)
    for constraint in constraints:
        found = [constraint.violation(metrics) for metrics in figures]
        largest = max((value for value in found if value is not None), default=0.0)
        if None not in found and largest > 0:
            missed = [total + (value or 0.0) / largest for total, value in zip(missed, found, strict=True)]
    return [(total, float(layer)) for total, layer in zip(missed, layers(points), strict=True)]


def _feasible(
    trials: Sequence[Trial], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> list[tuple[Trial, Point | None]]:
    """Every trial by number, with its losses where it is feasible."""
    ordered = sorted(trials, key=lambda trial: trial.number)
    return [
        (trial, losses(trial.outcome.metrics, objectives) if trial.feasible(constraints) else None) for trial in ordered
    ]
