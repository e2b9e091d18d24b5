"""Why a variant is slower (or faster) than its base: two stored profiles → what takes the time, and what makes the difference.

Pure: `harness.records.Profile` in, `Explanation` out; the words are in `harness.report.explain`. Times are ns for one inference.
Latency is that of the plain inferences of the profile run, never the profiled ones; what the operators' sum leaves of it (or
exceeds it by) is reported as unexplained.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.explain.findings import Finding, find
from harness.records import PROFILE, OperatorTimes, Profile, Run
from harness.stats.attribution import (
    COMPUTE,
    MOVING,
    QUIET,
    TimedOperator,
    central_ns,
    match_layers,
    quiet,
    role_of,
)

# Two latencies within that of each other are called alike: an explanation is no verdict, `harness compare` gives those.
_ALIKE = 0.05
# A sum of operators that misses the latency by more is said to explain it badly.
WELL_EXPLAINED = 0.15


@dataclass(frozen=True, slots=True)
class TypeTime:
    """All operators of one type: how many, their time, and its share of all operators' time; the same of the base (0 where it
    has none). `difference_share`: of the difference of the two sums; None without a base, or without a difference."""

    type: str
    role: str
    count: int
    time_ns: float
    share: float
    base_count: int = 0
    base_time_ns: float = 0.0
    difference_share: float | None = None


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer in both: the base's operator by name, types in order of execution, times."""

    name: str
    types: tuple[str, ...]
    time_ns: float
    base_types: tuple[str, ...]
    base_time_ns: float


@dataclass(frozen=True, slots=True)
class Change:
    """Layers that the base runs with the operators `base_types`, and the variant with `types` instead (types in order of their
    time). `difference_share`: of the difference between the sums of all operators; may exceed 1 where other layers gained."""

    layers: int
    types: tuple[tuple[str, float], ...]
    time_ns: float
    base_types: tuple[tuple[str, float], ...]
    base_time_ns: float
    share: float
    difference_share: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """One variant: `latency_ns` from plain inferences, `profiled_ns` from profiled ones, `operators_ns` the sum of the operators.
    `unexplained`: (latency - sum) / latency. All from quiet inferences; `disturbed`: share of those that were not. `roles`: role → (operators, time). `graph`: as in records.Profile.
    `moved_bytes`: read and written by operators that compute nothing; None where the engine does not tell."""

    variant: str
    method: str
    latency_ns: float
    profiled_ns: float
    operators_ns: float
    operators: int
    unexplained: float
    inferences: int
    disturbed: float
    roles: Mapping[str, tuple[int, float]]
    precisions: Mapping[str, int]
    graph: Mapping[str, Any]
    moved_bytes: int | None
    outside_delegate: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """`ratio`: variant / base latency; `difference_ns`: of the latencies, `operators_difference_ns`: of the sums. `matched_by`: how
    layers were matched, None when they could not be (then `changes` and `layers` are empty)."""

    device: str
    engine: str
    format: str
    variant: Side
    base: Side | None
    ratio: float | None
    difference_ns: float | None
    operators_difference_ns: float | None
    types: tuple[TypeTime, ...]
    changes: tuple[Change, ...]
    layers: tuple[LayerTime, ...]
    matched_by: str | None
    findings: tuple[Finding, ...]

    @property
    def direction(self) -> str | None:
        """Either "slower", "faster" or "alike"; None without a base."""
        if self.ratio is None:
            return None
        if abs(self.ratio - 1) <= _ALIKE:
            return "alike"
        return "slower" if self.ratio > 1 else "faster"


def profiles_in(runs: Sequence[Run], variant: str, device: str) -> list[Profile]:
    """Profiles of a variant on a device among stored runs, in time order."""
    mine = (run for run in runs if run.kind == PROFILE and run.device == device and run.status == "ok")
    return [profile for run in mine for profile in run.profiles if profile.variant == variant]


def _timed(profiles: Sequence[Profile]) -> list[TimedOperator]:
    """Operators with one time each: the mean over runs of the central time in each run.

    A run is the unit here too; profiles of another method, or with other operators, than the last are left out.
    """
    last = profiles[-1]
    names = [(item.name, item.type) for item in last.operators]
    alike = [
        item for item in profiles if item.method == last.method and [(o.name, o.type) for o in item.operators] == names
    ]
    timed = []
    for place, operator in enumerate(last.operators):
        times = [central_ns(_chosen(profile.operators[place].times_ns, _quiet(profile))) for profile in alike]
        time_ns = sum(times) / len(times)
        timed.append(TimedOperator(operator.name, operator.type, time_ns, operator.inputs, operator.outputs))
    return timed


def _quiet(profile: Profile) -> list[int]:
    return quiet(profile.profiled_ns, profile.profiled_cpu_ns)


def _chosen(times_ns: Sequence[int], places: Sequence[int]) -> Sequence[int]:
    """Those times; all of an operator whose times are not one for each inference (ablation has one for each pass)."""
    return [times_ns[place] for place in places] if places and len(times_ns) > max(places) else times_ns


def _mean_latency(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Mean over runs of the central wall time of quiet inferences; pairs of wall and CPU times, ns."""
    found = [central_ns(_chosen(wall, quiet(wall, cpu))) for wall, cpu in pairs if wall]
    return sum(found) / len(found) if found else 0.0


def _busy(profiles: Sequence[Profile]) -> float:
    """Share of inferences, plain and profiled, that had to share the CPU."""
    pairs = [pair for p in profiles for pair in ((p.plain_ns, p.plain_cpu_ns), (p.profiled_ns, p.profiled_cpu_ns))]
    shares = [cpu / wall for walls, cpus in pairs for wall, cpu in zip(walls, cpus, strict=True) if wall > 0]
    return sum(share < QUIET for share in shares) / len(shares) if shares else 0.0


def _outside(
    operators: Sequence[OperatorTimes], timed: Sequence[TimedOperator], graph: Mapping[str, Any]
) -> dict[str, tuple[int, float]]:
    """Operators that the delegate (or first execution provider) left to others, by type; {} where there is none."""
    providers = graph.get("providers", ())
    main = graph.get("delegate") or (providers[0] if len(providers) > 1 else None)
    if main in (None, "none"):
        return {}
    left = [t for o, t in zip(operators, timed, strict=True) if o.runner is not None and o.runner != main]
    counts = Counter(item.type for item in left)
    return {kind: (n, sum(t.time_ns for t in left if t.type == kind)) for kind, n in sorted(counts.items())}


def _side(profiles: Sequence[Profile], timed: Sequence[TimedOperator]) -> Side:
    last = profiles[-1]
    latency_ns = _mean_latency([(p.plain_ns, p.plain_cpu_ns) for p in profiles])
    total_ns = sum(operator.time_ns for operator in timed)
    roles: dict[str, tuple[int, float]] = {}
    for operator in timed:
        count, time_ns = roles.get(operator.role, (0, 0.0))
        roles[operator.role] = (count + 1, time_ns + operator.time_ns)
    moved = [o.moved_bytes for o in last.operators if role_of(o.type) in MOVING]
    precisions = Counter(o.precision for o in last.operators if o.precision and role_of(o.type) == COMPUTE)
    told = any(o.moved_bytes is not None for o in last.operators)
    return Side(
        variant=last.variant,
        method=last.method,
        latency_ns=latency_ns,
        profiled_ns=_mean_latency([(p.profiled_ns, p.profiled_cpu_ns) for p in profiles]),
        operators_ns=total_ns,
        operators=len(timed),
        unexplained=(latency_ns - total_ns) / latency_ns if latency_ns else 0.0,
        inferences=sum(len(profile.profiled_ns) for profile in profiles),
        disturbed=_busy(profiles),
        roles=dict(sorted(roles.items())),
        precisions=dict(sorted(precisions.items())),
        graph=last.graph,
        moved_bytes=sum(value or 0 for value in moved) if told else None,
        outside_delegate=_outside(last.operators, timed, last.graph),
        notes=last.notes,
    )


def _share(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None


def _types(
    mine: Sequence[TimedOperator], its: Sequence[TimedOperator], difference_ns: float | None
) -> tuple[TypeTime, ...]:
    """By type, what takes longest first; then what only the base has."""
    total = sum(operator.time_ns for operator in mine) or 1.0
    times: dict[str, float] = defaultdict(float)
    base_times: dict[str, float] = defaultdict(float)
    for operator in mine:
        times[operator.type] += operator.time_ns
    for operator in its:
        base_times[operator.type] += operator.time_ns
    counts, base_counts = Counter(o.type for o in mine), Counter(o.type for o in its)
    kinds = sorted({*times, *base_times}, key=lambda kind: (-times[kind], -base_times[kind], kind))
    return tuple(
        TypeTime(
            type=kind,
            role=role_of(kind),
            count=counts[kind],
            time_ns=times[kind],
            share=times[kind] / total,
            base_count=base_counts[kind],
            base_time_ns=base_times[kind],
            difference_share=_share(times[kind] - base_times[kind], difference_ns),
        )
        for kind in kinds
    )


def _layers(
    mine: Sequence[TimedOperator], its: Sequence[TimedOperator], layer_of: Mapping[int, int], base_of: Mapping[int, int]
) -> list[LayerTime]:
    groups: dict[int, tuple[list[TimedOperator], list[TimedOperator]]] = {}
    for number, operator in ((layer_of[i], mine[i]) for i in sorted(layer_of)):
        groups.setdefault(number, ([], []))[0].append(operator)
    for number, operator in ((base_of[i], its[i]) for i in sorted(base_of)):
        groups.setdefault(number, ([], []))[1].append(operator)
    found = []
    for number in sorted(groups):
        here, there = groups[number]
        compute = [o for o in there if o.role == COMPUTE] or there or here
        found.append(
            LayerTime(
                name=compute[0].name,
                types=tuple(operator.type for operator in here),
                time_ns=sum(operator.time_ns for operator in here),
                base_types=tuple(operator.type for operator in there),
                base_time_ns=sum(operator.time_ns for operator in there),
            )
        )
    return found


def _core(types: Sequence[str]) -> tuple[str, ...]:
    """What a layer is, whatever stands around it: its compute operators, or all it has."""
    compute = sorted({kind for kind in types if role_of(kind) == COMPUTE})
    return tuple(compute or sorted(set(types)))


def _changes(
    layers: Sequence[LayerTime],
    pairs: Mapping[int, tuple[Sequence[TimedOperator], Sequence[TimedOperator]]],
    total_ns: float,
    difference_ns: float | None,
) -> tuple[Change, ...]:
    """Layers that changed in the same way, together; those that made the greatest difference first."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        groups[_core(layer.base_types), _core(layer.types)].append(place)

    def by_time(operators: Sequence[TimedOperator]) -> tuple[tuple[str, float], ...]:
        times: dict[str, float] = defaultdict(float)
        for operator in operators:
            times[operator.type] += operator.time_ns
        return tuple(sorted(times.items(), key=lambda item: (-item[1], item[0])))

    found = []
    for places in groups.values():
        time_ns = sum(layers[place].time_ns for place in places)
        base_time_ns = sum(layers[place].base_time_ns for place in places)
        found.append(
            Change(
                layers=len(places),
                types=by_time([o for place in places for o in pairs[place][0]]),
                time_ns=time_ns,
                base_types=by_time([o for place in places for o in pairs[place][1]]),
                base_time_ns=base_time_ns,
                share=time_ns / (total_ns or 1.0),
                difference_share=_share(time_ns - base_time_ns, difference_ns),
            )
        )
    return tuple(sorted(found, key=lambda change: -abs(change.time_ns - change.base_time_ns)))


def explain(
    variant: Sequence[Profile], base: Sequence[Profile], *, device: str, engine: str, format_: str
) -> Explanation:
    """Explain a variant by its profiles (at least one) against its base's ([]: by itself). Raises ValueError without a profile."""
    if not variant:
        raise ValueError("there is no profile of the variant")
    mine, its = _timed(variant), _timed(base) if base else []
    side, other = _side(variant, mine), _side(base, its) if base else None
    difference = None if other is None else side.operators_ns - other.operators_ns
    matched_by, layer_of, base_of = match_layers(mine, its)
    layers = _layers(mine, its, layer_of, base_of)
    numbers = sorted({*layer_of.values(), *base_of.values()})
    pairs = {
        place: (
            [mine[i] for i, n in layer_of.items() if n == number],
            [its[i] for i, n in base_of.items() if n == number],
        )
        for place, number in enumerate(numbers)
    }
    longer = {number: layers[place].time_ns > layers[place].base_time_ns for place, number in enumerate(numbers)}
    grown = [longer[layer_of[place]] if place in layer_of else True for place in range(len(mine))]
    return Explanation(
        device=device,
        engine=engine,
        format=format_,
        variant=side,
        base=other,
        ratio=side.latency_ns / other.latency_ns if other is not None and other.latency_ns else None,
        difference_ns=None if other is None else side.latency_ns - other.latency_ns,
        operators_difference_ns=difference,
        types=_types(mine, its, difference),
        changes=_changes(layers, pairs, side.operators_ns, difference),
        layers=tuple(sorted(layers, key=lambda layer: -abs(layer.time_ns - layer.base_time_ns))),
        matched_by=matched_by,
        findings=find(variant[-1].operators, mine, grown, set(side.outside_delegate), engine),
    )


def explanation_to_dict(explanation: Explanation) -> dict[str, Any]:
    """Flat enough for JSON; `direction` beside the fields."""
    return {"direction": explanation.direction, **asdict(explanation)}
