"""Two variants, two devices or two sessions → faster, slower, equivalent or inconclusive, with ratio and interval.

Place in the flow: after `harness.table`, which gives the medians; `harness.stats.compare` has the mathematics. Always as
candidate / reference: below 1 the candidate is faster. How runs are paired decides how much noise cancels out:

- "block": both were in the same runs, or in runs that took turns; the log ratio is taken per interleaved round, one value
  per run;
- "round": same session, different runs; runs of equal round were made near each other in time and are paired;
- "unpaired": different sessions; run medians of both sides, Welch's t on their logarithms.

Verdicts are Holm-corrected over all pairs of a table, and each is explained in a sentence. `overall` is the one verdict on a whole
table: of two devices, or of two sessions on one device, one ratio per round (the geometric mean over variants); of several
devices, first one ratio for each, then their geometric mean, from five devices on. Sessions from different kinds of
machines are not compared unless asked for; what else was not alike is named (`harness.compare.comparable`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.compare.comparable import differences as setting_differences
from harness.compare.verdicts import explain, further_runs
from harness.errors import SpecError
from harness.records import SessionData
from harness.row import OK, Row
from harness.stats import compare as stats
from harness.stats.compare import Comparison
from harness.stats.looks import Looks, looks_of
from harness.stats.prediction import Prediction, predicted_median
from harness.table import block_medians, build_rows, run_medians

Key = tuple[str, str]  # variant, device
Blocks = Mapping[tuple[int, str], Mapping[int, float]]  # (round, run) → interleaved round → median
Method = Literal["block", "round", "unpaired", "none"]
# What must be equal for a difference in time to be the variant's own doing.
_SETTING = ("threads", "affinity", "precision")


@dataclass(frozen=True, slots=True)
class Pair:
    """One candidate against one reference.

    `size_ratio`: candidate / reference. `accuracy_difference_pp`: candidate − reference, in points.
    `outputs_identical`: bit for bit over the dataset, None where not known. `remarks`: what else differs, or makes the
    figures doubtful, in words. `explanation`: why the verdict is what it is. `more_runs`: how many runs should settle it; 0 when it
    is settled, None when none that anybody makes would.
    `predicted`: between two sessions, where the reference says that the median of a session made again lies, in ns.
    """

    candidate: Row
    reference: Row
    method: Method
    comparison: Comparison
    size_ratio: float | None
    accuracy_difference_pp: float | None
    outputs_identical: bool | None
    remarks: tuple[str, ...]
    explanation: str = ""
    more_runs: int | None = None
    predicted: Prediction | None = None


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """All pairs, and their overall ratio (None for variants of one device: there it would mean nothing).

    `overall_of`: what the overall ratio is an average of, "rounds" or "devices". `differences`: what was not alike in two
    sessions, in words.
    """

    candidate: str
    reference: str
    pairs: tuple[Pair, ...]
    overall: Comparison | None
    overall_of: Literal["rounds", "devices"] = "rounds"
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Side:
    """A session's rows and medians, looked up once. Keys are (variant, device). `counting`: devices that count instructions.
    `looks`: planned at the ratios of variants of one device while it was measured; None where stopping did not ask for them."""

    session: str
    rows: dict[tuple[str, str], Row]
    medians: Mapping[tuple[str, str], Mapping[int, float]]
    blocks: Mapping[Key, Blocks]
    artifacts: Mapping[str, str | None]
    counting: frozenset[str]
    looks: Looks | None


def _side(data: SessionData) -> _Side:
    return _Side(
        session=data.session.id,
        rows={(row.variant, row.device): row for row in build_rows(data)},
        medians=run_medians(data) | run_medians(data, counted=True),
        blocks=block_medians(data) | block_medians(data, counted=True),
        counting=frozenset(device.name for device in data.devices if device.facts.get("counts_instructions") is True),
        artifacts={variant.name: variant.artifact_sha256 for variant in data.variants},
        looks=looks_of(data.session.protocol),
    )


def compare_variants(
    data: SessionData, device: str, reference: str, candidates: Sequence[str] | None = None
) -> ComparisonTable:
    """Variants of one device against one of them; without `candidates`, all others that exist.

    Raises SpecError for a device or variant the session does not have.
    """
    side = _side(data)
    _known(device, [item.name for item in data.devices], "device")
    names = [variant.name for variant in data.variants if variant.status == OK]
    for name in (reference, *(candidates or ())):
        _known(name, [variant.name for variant in data.variants], "variant")
    chosen = [name for name in (candidates if candidates is not None else names) if name != reference]
    pairs = [_pair(side, (name, device), side, (reference, device)) for name in chosen]
    return ComparisonTable(f"variants on {device}", reference, _corrected(pairs), None)


def compare_pair(
    data: SessionData, candidate: str, reference: str, devices: Sequence[str] | None = None
) -> ComparisonTable:
    """One variant against another on each device (all of the session's, unless named), and over five or more of them overall.

    Raises SpecError for a device or variant the session does not have, and for a variant against itself.
    """
    side = _side(data)
    known = [item.name for item in data.devices]
    for name in devices or ():
        _known(name, known, "device")
    for name in (candidate, reference):
        _known(name, [variant.name for variant in data.variants], "variant")
    if candidate == reference:
        raise SpecError(f"{candidate!r} is compared with itself", remedy="give two variants")
    pairs = _corrected([_pair(side, (candidate, name), side, (reference, name)) for name in devices or known])
    overall = _over_devices([pair.comparison for pair in pairs]) if len(pairs) > 1 else None
    return ComparisonTable(candidate, reference, pairs, overall, "devices")


def compare_devices(data: SessionData, candidate: str, reference: str) -> ComparisonTable:
    """Every variant on one device against the same variant on another. Raises SpecError for an unknown device."""
    side = _side(data)
    for name in (candidate, reference):
        _known(name, [item.name for item in data.devices], "device")
    names = [variant.name for variant in data.variants if variant.status == OK]
    keys = [((name, candidate), (name, reference)) for name in names]
    pairs = [_pair(side, mine, side, other) for mine, other in keys]
    return ComparisonTable(candidate, reference, _corrected(pairs), _overall(side, side, keys))


def compare_sessions(
    candidate: SessionData, reference: SessionData, *, across_machines: bool = False
) -> ComparisonTable:
    """Every variant and device that both sessions have, newer against older.

    Raises SpecError when they share none, when they are one and the same, and (unless `across_machines`) when a device of the
    same name was another kind of machine.
    """
    if candidate.session.id == reference.session.id:
        raise SpecError(f"session {candidate.session.id} is compared with itself", remedy="give two sessions")
    one, two = _side(candidate), _side(reference)
    keys = [(key, key) for key, row in one.rows.items() if key in two.rows and row.status != "refused"]
    if not keys:
        raise SpecError(
            f"sessions {one.session} and {two.session} share no variant on a device of the same name",
            remedy="compare sessions of the same experiment",
        )
    devices = list(dict.fromkeys(device for (_, device), _ in keys))
    found = setting_differences(candidate, reference, devices)
    if found.machine and not across_machines:
        raise SpecError(
            f"the machines of {one.session} and {two.session} are not of one kind: {'; '.join(found.machine)}",
            remedy="compare sessions of one machine, or give --across-machines for a ratio of machines",
        )
    pairs = _corrected([_pair(one, mine, two, other) for mine, other in keys])
    each = {name: _overall(one, two, [key for key in keys if key[0][1] == name]) for name in devices}
    overall = each[devices[0]] if len(devices) == 1 else _over_devices([item for item in each.values() if item])
    of: Literal["rounds", "devices"] = "rounds" if len(devices) == 1 else "devices"
    older = () if candidate.session.created_at >= reference.session.created_at else (_SWAPPED,)
    remarks = (*older, *found.machine, *found.setting)
    return ComparisonTable(one.session, two.session, pairs, overall, of, remarks)


_SWAPPED = (
    "the first session is the older one: below 1 the older is faster; swap the two to hold the newer against the older"
)


def _over_devices(comparisons: Sequence[Comparison]) -> Comparison:
    """The geometric mean over devices, each with its own ratio; never of milliseconds."""
    return stats.geometric_mean([item.ratio for item in comparisons if item.ratio is not None])


def _known(name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        raise SpecError(f"the session has no {what} {name!r}", remedy=f"it has: {', '.join(names)}")


def _corrected(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    adjusted = stats.holm([pair.comparison for pair in pairs])
    family = sum(item.p_value is not None for item in adjusted)
    return tuple(
        dataclasses.replace(pair, comparison=new, explanation=explain(new, family), more_runs=further_runs(new, family))
        for pair, new in zip(pairs, adjusted, strict=True)
    )


def _pair(one: _Side, mine: tuple[str, str], two: _Side, other: tuple[str, str]) -> Pair:
    candidate, reference = one.rows[mine], two.rows[other]
    method, comparison = _compare(one, mine, two, other)
    sizes, hits = (candidate.size_bytes, reference.size_bytes), (candidate.accuracy, reference.accuracy)
    hashes = candidate.outputs_sha256, reference.outputs_sha256
    return Pair(
        candidate=candidate,
        reference=reference,
        method=method,
        comparison=comparison,
        size_ratio=sizes[0] / sizes[1] if sizes[0] and sizes[1] else None,
        accuracy_difference_pp=None if hits[0] is None or hits[1] is None else 100 * (hits[0] - hits[1]),
        outputs_identical=None if None in hashes else hashes[0] == hashes[1],
        remarks=tuple(_remarks(one, candidate, two, reference)),
        predicted=_predicted(one.medians[mine], two.medians[other]) if method == "unpaired" else None,
    )


def _predicted(mine: Mapping[int, float], other: Mapping[int, float]) -> Prediction | None:
    return predicted_median(list(other.values()), len(mine))


def _compare(one: _Side, mine: tuple[str, str], two: _Side, other: tuple[str, str]) -> tuple[Method, Comparison]:
    mine_runs, other_runs = one.medians.get(mine, {}), two.medians.get(other, {})
    for row, runs in ((one.rows[mine], mine_runs), (two.rows[other], other_runs)):
        if not runs or min(runs.values()) <= 0:
            reason = row.error or ("samples of 0 ns have no ratio" if runs else "no latency run of it ended")
            return "none", _inconclusive(f"{row.variant} on {row.device}: {reason}")
    if _mixed(one, mine, two, other):
        what = "throughput" if (mine[1] in one.counting) == (other[1] in two.counting) else "virtual time"
        return "none", _inconclusive(f"{what} is never held against latency")
    if one.session != two.session:
        return "unpaired", stats.unpaired(list(mine_runs.values()), list(other_runs.values()))
    # The session may have been stopped by ratios between variants of a device, never by those between devices.
    looks = one.looks if mine[1] == other[1] else None
    by_block = _block_ratios(one.blocks[mine], two.blocks[other])
    if by_block:
        return "block", stats.paired(list(by_block.values()), looks)
    by_round = [math.log(mine_runs[r] / other_runs[r]) for r in sorted(mine_runs) if r in other_runs]
    return "round", stats.paired(by_round, looks)


def _mixed(one: _Side, mine: tuple[str, str], two: _Side, other: tuple[str, str]) -> bool:
    """Whether one side counted instructions and the other measured time, or one latency and the other throughput."""
    counting = (mine[1] in one.counting) != (other[1] in two.counting)
    return counting or (one.rows[mine].throughput_per_s is None) != (two.rows[other].throughput_per_s is None)


def _inconclusive(reason: str) -> Comparison:
    return Comparison(None, None, None, 0, None, None, "inconclusive", reason)


def _block_ratios(mine: Blocks, other: Blocks) -> dict[int, float]:
    """Round → log ratio, for each run that both were in, over the interleaved rounds that both had in it."""
    ratios = {}
    for run, blocks in mine.items():
        common = [i for i in blocks if i in other.get(run, {}) and blocks[i] > 0 and other[run][i] > 0]
        if common:
            ratios[run[0]] = stats.run_log_ratio([blocks[i] for i in common], [other[run][i] for i in common])
    return ratios


def _remarks(one: _Side, candidate: Row, two: _Side, reference: Row) -> list[str]:
    found = []
    for name in _SETTING:
        mine, other = getattr(candidate, name), getattr(reference, name)
        # Between variants precision is the very thing compared; between devices or sessions it must not differ.
        if (
            mine != other
            and None not in (mine, other)
            and (name != "precision" or candidate.variant == reference.variant)
        ):
            found.append(f"{name} differ: {mine} and {other}")
    if candidate.variant == reference.variant and one.session != two.session:
        hashes = one.artifacts.get(candidate.variant), two.artifacts.get(reference.variant)
        if None not in hashes and hashes[0] != hashes[1]:
            found.append("the artifacts differ")
    if candidate.device in one.counting and reference.device in two.counting:
        found.append("these are ratios of virtual time: of instructions counted, not of latency")
    if candidate.throughput_per_s is not None and reference.throughput_per_s is not None:
        found.append("these are ratios of the time an inference takes of the whole: the inverse of the throughput")
        pairs = [(name, getattr(candidate, name), getattr(reference, name)) for name in ("batch", "streams")]
        found += [f"{name} differ: {mine} and {other}" for name, mine, other in pairs if mine != other]
    doubtful = [row for row in (candidate, reference) if row.status == OK and row.grade in ("C", "invalid")]
    return found + [
        f"{row.variant} on {row.device} is of grade {row.grade}: {'; '.join(row.grade_reasons)}" for row in doubtful
    ]


def _overall(one: _Side, two: _Side, keys: Sequence[tuple[tuple[str, str], tuple[str, str]]]) -> Comparison | None:
    """One ratio per round over all variants measured on both sides in all of the rounds; None where there are none."""
    shared = [
        (mine, other)
        for mine, other in keys
        if mine in one.medians and other in two.medians and not _mixed(one, mine, two, other)
        if min(one.medians[mine].values()) > 0 and min(two.medians[other].values()) > 0
    ]
    series = [(one.medians[mine], two.medians[other]) for mine, other in shared]
    if not series:
        return None
    if one.session != two.session:
        mine, other = _mean_logs([pair[0] for pair in series]), _mean_logs([pair[1] for pair in series])
        return stats.unpaired([math.exp(v) for v in mine.values()], [math.exp(v) for v in other.values()])
    ratios = [_round_ratios(one, mine, two, other) for mine, other in shared]
    rounds = set(ratios[0]).intersection(*ratios)
    return stats.paired([float(np.mean([item[number] for item in ratios])) for number in sorted(rounds)])


def _round_ratios(one: _Side, mine: Key, two: _Side, other: Key) -> dict[int, float]:
    """Round → log ratio: over interleaved rounds where both took turns, of the run medians else."""
    mine_runs, other_runs = one.medians[mine], two.medians[other]
    ratios = {r: math.log(mine_runs[r] / other_runs[r]) for r in mine_runs if r in other_runs}
    return ratios | _block_ratios(one.blocks[mine], two.blocks[other])


def _mean_logs(medians: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Round → mean of the logarithms over all variants, for the rounds that every variant has."""
    rounds = set(medians[0]).intersection(*medians)
    return {number: float(np.mean([math.log(item[number]) for item in medians])) for number in sorted(rounds)}


def comparison_to_dict(table: ComparisonTable) -> dict[str, Any]:
    """A comparison as JSON-compatible data, one flat object a pair."""
    return {
        "candidate": table.candidate,
        "reference": table.reference,
        "overall": None if table.overall is None else dataclasses.asdict(table.overall),
        "overall_of": table.overall_of,
        "differences": list(table.differences),
        "pairs": [_pair_to_dict(pair) for pair in table.pairs],
    }


def _pair_to_dict(pair: Pair) -> dict[str, Any]:
    sides = {"candidate": pair.candidate, "reference": pair.reference}
    fields = ("session", "variant", "device", "latency_median_ns", "virtual_time_ns", "throughput_per_s")
    return {
        **{f"{side}_{name}": getattr(row, name) for side, row in sides.items() for name in fields},
        "method": pair.method,
        **dataclasses.asdict(pair.comparison),
        "size_ratio": pair.size_ratio,
        "accuracy_difference_pp": pair.accuracy_difference_pp,
        "outputs_identical": pair.outputs_identical,
        "explanation": pair.explanation,
        "more_runs": pair.more_runs,
        "predicted_low_ns": None if pair.predicted is None else pair.predicted.low,
        "predicted_high_ns": None if pair.predicted is None else pair.predicted.high,
        "remarks": list(pair.remarks),
    }
