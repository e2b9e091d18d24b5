"""Rows and limits → which variant to deploy on each device, who is excluded by which limit, and how sure that is.

Place in the flow: after `harness.table`; `harness.report.advice` puts the result into words. All figures are in base units.

A limit is held against the point estimate. A figure that was not measured cannot meet a limit. What cannot be told apart from
the best is a tie: then the smaller artifact wins (or, when size itself was the objective, the faster one).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.row import OK, REFUSED, Row, row_to_dict
from harness.stats import compare

# "virtual_time" takes the place of "latency" on a device that counts instructions: a ranking of its own, never mixed.
# "throughput" and "sustained" do in sessions of the scenarios that have no latency of single inferences.
Objective = Literal["latency", "size", "accuracy", "memory", "virtual_time", "throughput", "sustained"]
RunMedians = Mapping[tuple[str, str], Mapping[int, float]]

DEFAULT_MAX_DROP_PP = 1.0
DEFAULT_MAX_RMSE_RATIO = 1.05
CONFIDENT = 0.95
RESAMPLES = 1000
# Two standard errors of a share counted over so many bootstraps: another draw must not take back what this one said.
_COUNTING_ERROR = 2.0 * math.sqrt(CONFIDENT * (1.0 - CONFIDENT) / RESAMPLES)
_SEED = 20_240_229
_MINIMUM_RUNS = 6
# How far two peaks may lie apart and still be the same: what a high-water mark is good for.
_VIRTUAL_SAME = 0.005
# One run has no interval: what is nearer than this is not told apart.
_SUSTAINED_SAME = 0.05
_MEMORY_SAME_BYTES, _MEMORY_SAME_SHARE = 2 * 1024 * 1024, 0.02


@dataclass(frozen=True, slots=True)
class Constraints:
    """Limits, None for none. `max_memory_bytes` is of the peak's growth over the bare engine. `max_drop_pp`: points.

    Where neither `max_drop_pp` nor `min_accuracy` is given, a drop of at most 1.0 point is asked for (regression: an RMSE
    of at most 1.05 times the base's), so that a broken variant never wins by being fast.
    """

    max_latency_ns: float | None = None
    max_latency_p90_ns: float | None = None
    max_load_ns: float | None = None
    max_size_bytes: int | None = None
    max_memory_bytes: int | None = None
    max_drop_pp: float | None = None
    min_accuracy: float | None = None
    max_rmse_ratio: float | None = None
    objective: Objective = "latency"


# Limit → the row's figure it is held against, and whether the figure must stay below it (or above).
LIMITS: dict[str, tuple[str, bool]] = {
    "max_latency_ns": ("latency_median_ns", True),
    "max_latency_p90_ns": ("latency_p90_ns", True),
    "max_load_ns": ("load_ns", True),
    "max_size_bytes": ("size_bytes", True),
    "max_memory_bytes": ("memory_peak_delta_bytes", True),
    "max_drop_pp": ("accuracy_drop_pp", True),
    "min_accuracy": ("accuracy", False),
    "max_rmse_ratio": ("rmse_ratio", True),
}
# Objective → the row's figure, and 1 where less is better, -1 where more is.
OBJECTIVES: dict[str, tuple[str, int]] = {
    "latency": ("latency_median_ns", 1),
    "size": ("size_bytes", 1),
    "accuracy": ("accuracy", -1),
    "memory": ("memory_peak_delta_bytes", 1),
    "virtual_time": ("virtual_time_ns", 1),
    "throughput": ("throughput_per_s", -1),
    "sustained": ("latency_sustained_ns", 1),
}
# What stands in for latency where no row has one, by the first that some row has.
_INSTEAD: tuple[Objective, ...] = ("virtual_time", "throughput", "sustained")
# Objectives by which the fastest wins, whatever the clock.
_FASTEST = ("latency", *_INSTEAD)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One reason why a variant was not eligible. `limit` names the field of Constraints, or is "failed" or "objective".

    `value` and `bound` are in the figure's unit; `value` is None when it was not measured, and `reason` says why.
    """

    variant: str
    limit: str
    value: float | None = None
    bound: float | None = None
    reason: str | None = None

    @property
    def over(self) -> float | None:
        """By how much the limit is missed, in the figure's unit, positive; None when the figure was not measured."""
        return None if self.value is None or self.bound is None else abs(self.value - self.bound)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to deploy on one device. `winner` and `runner_up` are None when nobody qualifies.

    `tie`: the variants that cannot be told apart from the best by the objective, the winner among them; () when the
    winner stands alone. `confidence`: share of run-level bootstraps in which the best by latency stays the best, None
    where there are too few runs or the objective is another. `reference`: the fp32 row the winner is compared with.
    `pareto`: variants on the front of accuracy against latency; `pareto_size`: with size as a third aim.
    `defaulted`: names of the limits that were filled in.
    """

    device: str
    constraints: Constraints
    defaulted: tuple[str, ...]
    winner: Row | None
    runner_up: Row | None
    tie: tuple[str, ...]
    confidence: float | None
    excluded: tuple[Exclusion, ...]
    pareto: tuple[str, ...]
    pareto_size: tuple[str, ...]
    reference: Row | None
    candidates: int

    @property
    def qualifies(self) -> bool:
        """Whether some variant meets every limit."""
        return self.winner is not None


def recommend(
    rows: Sequence[Row],
    constraints: Constraints | None = None,
    *,
    device: str | None = None,
    run_medians: RunMedians | None = None,
) -> list[Recommendation]:
    """One recommendation for each device (or only for `device`), in the order in which the rows name them.

    `run_medians`: (variant, device) → round → median in ns, as `harness.table.run_medians` gives it; without it ties are
    told by overlapping intervals alone. A device that no row names gets none.
    """
    names = dict.fromkeys(row.device for row in rows if device is None or row.device == device)
    return [_on_device(name, rows, constraints or Constraints(), run_medians or {}) for name in names]


def _on_device(device: str, rows: Sequence[Row], given: Constraints, medians: RunMedians) -> Recommendation:
    here = [row for row in rows if row.device == device and row.status != REFUSED]
    limits, defaulted = with_defaults(_objective_here(given, here), here)
    excluded = [item for row in here for item in _exclusions(row, limits)]
    out = {item.variant for item in excluded}
    eligible = sorted((row for row in here if row.variant not in out), key=lambda row: _rank(row, limits.objective))
    tied, confidence = _tie(eligible, limits.objective, device, medians)
    winner = min(tied, key=lambda row: _tie_break(row, limits.objective), default=None)
    others = [row for row in tied if row is not winner] + [row for row in eligible if row not in tied]
    return Recommendation(
        device=device,
        constraints=limits,
        defaulted=defaulted,
        winner=winner,
        runner_up=others[0] if others else None,
        tie=tuple(row.variant for row in tied) if len(tied) > 1 else (),
        confidence=confidence,
        excluded=tuple(excluded),
        pareto=pareto_front(here, with_size=False),
        pareto_size=pareto_front(here, with_size=True),
        reference=_reference(winner, here),
        candidates=len(eligible),
    )


def _objective_here(given: Constraints, rows: Sequence[Row]) -> Constraints:
    """Where no row has a latency but some have virtual time, throughput or a sustained latency, that is what can be won by."""
    if given.objective == "latency":
        return dataclasses.replace(given, objective=_clock(rows))
    return given


def _clock(rows: Sequence[Row]) -> Objective:
    """By which objective the fastest of these rows is told."""
    if any(row.latency_median_ns is not None for row in rows):
        return "latency"
    found = (name for name in _INSTEAD if any(getattr(row, OBJECTIVES[name][0]) is not None for row in rows))
    return next(found, "latency")


def time_field(rows: Sequence[Row]) -> str:
    """The field that orders one device's rows by speed: latency, or what stands in for it where there is none."""
    return OBJECTIVES[_clock(rows)][0]


def time_of(row: Row) -> float | None:
    """A row's time, for ordering rows of one device only: its latency, else its virtual time, the time an inference takes of the
    throughput, or the sustained latency."""
    if row.latency_median_ns is not None:
        return row.latency_median_ns
    if row.virtual_time_ns is not None:
        return row.virtual_time_ns
    return 1e9 / row.throughput_per_s if row.throughput_per_s else row.latency_sustained_ns


def with_defaults(given: Constraints, rows: Sequence[Row]) -> tuple[Constraints, tuple[str, ...]]:
    """The limits with a bound on lost quality where none was given but quality was measured; and what was filled in."""
    measured = [row for row in rows if row.status == OK]
    if given.max_drop_pp is None and given.min_accuracy is None:
        if any(row.accuracy_drop_pp is not None for row in measured):
            return dataclasses.replace(given, max_drop_pp=DEFAULT_MAX_DROP_PP), ("max_drop_pp",)
        if given.max_rmse_ratio is None and any(row.rmse_ratio is not None for row in measured):
            return dataclasses.replace(given, max_rmse_ratio=DEFAULT_MAX_RMSE_RATIO), ("max_rmse_ratio",)
    return given, ()


def _exclusions(row: Row, limits: Constraints) -> list[Exclusion]:
    """Why this row is out; [] when it is in."""
    if row.status != OK:
        return [Exclusion(row.variant, "failed", reason=row.error or "it failed")]
    found = []
    for limit, (name, below) in LIMITS.items():
        bound, value = getattr(limits, limit), getattr(row, name)
        if bound is None:
            continue
        if value is None:
            found.append(Exclusion(row.variant, limit, None, float(bound), _why_null(row, name)))
        elif (value > bound) if below else (value < bound):
            found.append(Exclusion(row.variant, limit, float(value), float(bound)))
    aim = OBJECTIVES[limits.objective][0]
    if getattr(row, aim) is None and not any(LIMITS[item.limit][0] == aim for item in found):
        found.append(Exclusion(row.variant, "objective", reason=_why_null(row, aim)))
    return found


def _why_null(row: Row, name: str) -> str:
    entries = (entry.split(":", 1) for entry in row.null_reasons)
    return next((reason.strip() for key, reason in entries if key == name), "not measured")


def _rank(row: Row, objective: Objective) -> tuple[float, float, float, str]:
    """Best first by the objective; what is equal by latency, then size, then name, so that the order is always the same."""
    name, sign = OBJECTIVES[objective]
    return sign * float(getattr(row, name)), _or_inf(time_of(row)), _or_inf(row.size_bytes), row.variant


def _tie_break(row: Row, objective: Objective) -> tuple[float, float, str]:
    size, time = _or_inf(row.size_bytes), _or_inf(time_of(row))
    return (size, time, row.variant) if objective in _FASTEST else (time, size, row.variant)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _tie(
    eligible: Sequence[Row], objective: Objective, device: str, medians: RunMedians
) -> tuple[list[Row], float | None]:
    """The best and all that cannot be told apart from it, best first, and the confidence in the best."""
    if not eligible:
        return [], None
    best = eligible[0]
    if objective not in ("latency", "throughput"):
        return [row for row in eligible if row is best or _same(best, row, objective)], None
    shares = _bootstrap(eligible, device, medians)
    doubtful: set[str] = set()
    covered = 0.0
    for variant, share in sorted(shares.items(), key=lambda item: (item[0] != best.variant, -item[1], item[0])):
        if covered < CONFIDENT + _COUNTING_ERROR:
            doubtful.add(variant)
            covered += share
    tied = []
    for row in eligible:
        apart = _apart(medians.get((best.variant, device), {}), medians.get((row.variant, device), {}))
        alike = _same(best, row, objective) if apart is None else not apart
        if row is best or row.variant in doubtful or alike:
            tied.append(row)
    return tied, shares.get(best.variant)


def _apart(best: Mapping[int, float], other: Mapping[int, float]) -> bool | None:
    """Whether `other` is slower than `best` by the rule of every comparison: the 95 % interval of the ratio, paired by the rounds
    that both were in, lies beyond 1 %. None where too few are shared.

    Nothing is corrected for how many others there are: to stand alone the best must be told apart from each of them.
    """
    rounds = sorted(set(best) & set(other))
    if len(rounds) < _MINIMUM_RUNS or min(*best.values(), *other.values()) <= 0:
        return None
    return compare.paired([math.log(other[number] / best[number]) for number in rounds]).verdict == "slower"


def _same(best: Row, row: Row, objective: Objective) -> bool:
    """Whether `row` cannot be told apart from `best`: overlapping intervals, or figures as good as equal."""
    if objective == "latency":
        return (
            best.latency_median_high_ns is not None
            and _or_inf(row.latency_median_low_ns) <= best.latency_median_high_ns
        )
    if objective == "throughput":
        return best.throughput_low_per_s is not None and (row.throughput_high_per_s or 0.0) >= best.throughput_low_per_s
    if objective == "sustained":
        return _or_inf(row.latency_sustained_ns) <= (best.latency_sustained_ns or 0.0) * (1 + _SUSTAINED_SAME)
    if objective == "virtual_time":
        return _or_inf(row.virtual_time_ns) <= (best.virtual_time_ns or 0.0) * (1 + _VIRTUAL_SAME)
    if objective == "size":
        return row.size_bytes == best.size_bytes
    if objective == "accuracy":
        low, high = row.accuracy_drop_low_pp, best.accuracy_drop_high_pp
        return row.accuracy == best.accuracy or (low is not None and high is not None and low <= high)
    one, two = best.memory_peak_delta_bytes or 0, row.memory_peak_delta_bytes or 0
    return abs(one - two) <= max(_MEMORY_SAME_BYTES, _MEMORY_SAME_SHARE * one)


def _bootstrap(rows: Sequence[Row], device: str, medians: RunMedians) -> dict[str, float]:
    """Variant → share of bootstraps over runs in which it is the fastest; {} where runs are too few.

    Runs of one round were made near each other in time: where all variants share six rounds or more, these are drawn, else
    each variant's runs by themselves.
    """
    found = [medians.get((row.variant, device), {}) for row in rows]
    if not found or min(len(item) for item in found) < _MINIMUM_RUNS:
        return {}
    chance = np.random.default_rng(_SEED)
    common = sorted(set(found[0]).intersection(*found))
    together = len(common) >= _MINIMUM_RUNS
    shared = chance.integers(0, len(common), (RESAMPLES, len(common))) if together else None
    drawn: list[NDArray[np.float64]] = []
    for item in found:
        values = np.array([item[number] for number in (common if together else sorted(item))])
        chosen = chance.integers(0, values.size, (RESAMPLES, values.size)) if shared is None else shared
        drawn.append(np.median(values[chosen], axis=1))
    wins = np.bincount(np.argmin(np.stack(drawn), axis=0), minlength=len(rows))
    return {row.variant: float(count) / RESAMPLES for row, count in zip(rows, wins, strict=True)}


def pareto_front(rows: Sequence[Row], *, with_size: bool) -> tuple[str, ...]:
    """Variants that no other beats in one aim without losing in another: quality against latency (and size).

    Quality is accuracy, else RMSE, else agreement, the first that was measured; without any, size takes its place.
    """
    clock = _clock([row for row in rows if row.status == OK])
    timed, way = OBJECTIVES[clock]
    measured = [row for row in rows if row.status == OK and getattr(row, timed) is not None]
    aims: list[tuple[str, int]] = [(timed, way)]
    quality = (("accuracy", -1), ("rmse", 1), ("agreement", -1))
    known = [aim for aim in quality if any(getattr(row, aim[0]) is not None for row in measured)]
    aims += known[:1]
    if with_size or not known:
        aims.append(("size_bytes", 1))
    points = [
        (row.variant, tuple(sign * float(getattr(row, name)) for name, sign in aims))
        for row in measured
        if all(getattr(row, name) is not None for name, _ in aims)
    ]
    return tuple(name for name, point in points if not any(_beats(other, point) for _, other in points))


def _beats(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    return one != two and all(a <= b for a, b in zip(one, two, strict=True))


def _reference(winner: Row | None, rows: Sequence[Row]) -> Row | None:
    """The fp32 row to compare the winner with: of its own format, else the fastest there is; None without latency."""
    if winner is None:
        return None
    full = [row for row in rows if row.status == OK and row.recipe == "fp32" and time_of(row) is not None]
    return min(full, key=lambda row: (row.format != winner.format, _or_inf(time_of(row))), default=None)


def recommendation_to_dict(item: Recommendation) -> dict[str, Any]:
    """A recommendation as JSON-compatible data: variants by name, and the winner's and the reference's whole rows."""
    return {
        "device": item.device,
        "qualifies": item.qualifies,
        "winner": None if item.winner is None else item.winner.variant,
        "runner_up": None if item.runner_up is None else item.runner_up.variant,
        "tie": list(item.tie),
        "confidence": item.confidence,
        "constraints": dataclasses.asdict(item.constraints),
        "defaulted": list(item.defaulted),
        "excluded": [dataclasses.asdict(one) | {"over": one.over} for one in item.excluded],
        "pareto": list(item.pareto),
        "pareto_size": list(item.pareto_size),
        "candidates": item.candidates,
        "winner_row": None if item.winner is None else row_to_dict(item.winner),
        "reference_row": None if item.reference is None else row_to_dict(item.reference),
    }
