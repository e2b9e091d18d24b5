"""What more time would settle: open verdicts and wide intervals, in minutes, and those that no time would settle. Part of the advice.

Used by `harness.hints`. Pure. Widths fall with the square root of the runs (`harness.compare.verdicts`, `harness.stats.stopping`); what a run
takes is known from those that were made: what was spent around the samples, and on each variant's own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.compare.verdicts import MOST_RUNS, further_runs
from harness.records import LATENCY, Run, SessionData
from harness.row import Row
from harness.stats import compare
from harness.stats.grade import RULES, Rules
from harness.table import block_medians

# Nobody waits longer for one verdict.
LONGEST_S = 7200.0
_MINUTE_S = 60.0
_MOST = 2
BASE_RECIPE = "fp32"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a latency run of one engine: `around` its samples, and of each variant on average."""

    around: float
    of: Mapping[str, float]

    def run_s(self, variants: Sequence[str]) -> float:
        """A run of these variants alone."""
        return self.around + sum(self.of.get(name, 0.0) for name in variants)


@dataclass(frozen=True, slots=True)
class Times:
    """A session and the medians of its blocks, as `harness.table` gives them."""

    data: SessionData
    blocks: Mapping[tuple[str, str], Mapping[tuple[int, str], Mapping[int, float]]]


@dataclass(frozen=True, slots=True)
class _Open:
    """An open comparison: `further` runs, None when hopeless, at `seconds` a run."""

    one: Row
    other: Row
    comparison: compare.Comparison
    further: int | None
    seconds: float

    @property
    def total_s(self) -> float:
        """What settling should take."""
        return math.inf if self.further is None else self.further * self.seconds


def costs(device: str, data: SessionData) -> dict[str, Cost]:
    """Engine → what its latency runs on a device took."""
    around: dict[str, list[float]] = {}
    spent: dict[str, dict[str, list[float]]] = {}
    for run in data.runs:
        if run.device != device or run.kind != LATENCY or run.status != "ok":
            continue
        own: dict[str, float] = {}
        for block in run.blocks:
            own[block.variant] = own.get(block.variant, 0.0) + block.wall_sum_ns / 1e9
        around.setdefault(run.engine, []).append(max(0.0, run.duration_s - sum(own.values()) - _waited_s(run)))
        for name, seconds in own.items():
            spent.setdefault(run.engine, {}).setdefault(name, []).append(seconds)
    return {
        engine: Cost(sum(all_) / len(all_), {name: sum(v) / len(v) for name, v in spent.get(engine, {}).items()})
        for engine, all_ in around.items()
    }


def times_of(data: SessionData) -> Times:
    """What is reckoned from: looked up once for all devices."""
    return Times(data, block_medians(data))


def _waited_s(run: Run) -> float:
    """Seconds in which the agent slept while others had their turn."""
    told = (item["values"].get("waited_ns") for item in run.sensors if item["name"] == "contention")
    return sum(float(value) for value in told if value is not None) / 1e9


def more_time(device: str, rows: Sequence[Row], times: Times) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Sentences and the variants each is about: at most two open verdicts, the cheapest to settle first, and the widest interval."""
    ranked = sorted((row for row in rows if row.latency_median_ns), key=lambda row: row.latency_median_ns or 0.0)
    cost = costs(device, times.data)
    if not ranked or not cost:
        return
    found = sorted(_open(device, ranked, times, cost), key=lambda item: item.total_s)
    told = [item for item in found if item.total_s <= LONGEST_S][:_MOST]
    for item in told:
        yield _settles(item), (item.one.variant, item.other.variant)
    # Of those that are out of reach, only who is the fastest is worth a word.
    top = {row.variant for row in ranked[:2]}
    for item in found:
        if item.total_s > LONGEST_S and {item.one.variant, item.other.variant} == top:
            yield _hopeless(item), (item.one.variant, item.other.variant)
    widest = _widest(ranked, times, cost)
    if widest is not None:
        yield widest


def _open(device: str, ranked: Sequence[Row], times: Times, cost: Mapping[str, Cost]) -> Iterator[_Open]:
    """Verdicts left open: of the two fastest, and of each variant against the base of its format."""
    bases = {row.format: row for row in ranked if row.recipe == BASE_RECIPE}
    pairs = [(row, bases[row.format]) for row in ranked if row.format in bases and row is not bases[row.format]]
    if len(ranked) > 1 and (ranked[0], ranked[1]) not in pairs and (ranked[1], ranked[0]) not in pairs:
        pairs.append((ranked[0], ranked[1]))
    ratios = []
    for one, other in pairs:
        mine, theirs = (times.blocks.get((row.variant, device), {}) for row in (one, other))
        ratios.append(compare.paired(_ratios(mine, theirs) or _round_ratios(mine, theirs)))
    for (one, other), comparison in zip(pairs, compare.holm(ratios), strict=True):
        if comparison.verdict != "inconclusive" or comparison.ratio is None:
            continue
        engines: dict[str, list[str]] = {}
        for row in (one, other):
            engines.setdefault(str(row.engine), []).append(row.variant)
        seconds = sum(cost[engine].run_s(names) for engine, names in engines.items() if engine in cost)
        yield _Open(one, other, comparison, further_runs(comparison, len(pairs)), seconds)


def _ratios(
    mine: Mapping[tuple[int, str], Mapping[int, float]], other: Mapping[tuple[int, str], Mapping[int, float]]
) -> list[float]:
    """One log ratio for each run that both were in."""
    found = []
    for run, blocks in mine.items():
        common = [i for i in blocks if i in other.get(run, {}) and blocks[i] > 0 and other[run][i] > 0]
        if common:
            found.append(compare.run_log_ratio([blocks[i] for i in common], [other[run][i] for i in common]))
    return found


def _round_ratios(
    mine: Mapping[tuple[int, str], Mapping[int, float]], other: Mapping[tuple[int, str], Mapping[int, float]]
) -> list[float]:
    """One log ratio for each round of runs: of two engines, which never are in one run."""

    def middles(runs: Mapping[tuple[int, str], Mapping[int, float]]) -> dict[int, float]:
        return {number: statistics.median(blocks.values()) for (number, _), blocks in runs.items() if blocks}

    one, two = middles(mine), middles(other)
    return [math.log(one[r] / two[r]) for r in sorted(one) if one[r] > 0 and two.get(r, 0.0) > 0]


def _settles(item: _Open) -> str:
    runs = item.further or 0
    return (
        f"{_minutes(item.total_s)} would settle {_pair(item)} (`--budget`): {_interval(item.comparison)} now, "
        f"{runs} run{'s' if runs != 1 else ''} of {item.seconds:.1f} s"
    )


def _hopeless(item: _Open) -> str:
    near = "too near the bound of a claim"
    why = near if item.further is None else f"that would take {item.total_s / 3600:.0f} h"
    return f"{_pair(item)} would not be settled by more time: {_interval(item.comparison)}, {why}"


def _pair(item: _Open) -> str:
    start = f"{item.one.base}." if item.one.base and item.one.base == item.other.base else ""
    return f"{item.one.variant.removeprefix(start)} against {item.other.variant.removeprefix(start)}"


def _interval(comparison: compare.Comparison) -> str:
    return f"ratio {comparison.ratio:.3f} [{comparison.low:.3f}–{comparison.high:.3f}]"


def _minutes(seconds: float) -> str:
    if seconds < _MINUTE_S:
        return "less than a minute more"
    count = math.ceil(seconds / _MINUTE_S)
    return f"{count} more minute{'s' if count > 1 else ''}"


def _half_width(row: Row) -> float:
    low, high = row.latency_median_low_ns, row.latency_median_high_ns
    if low is None or high is None or not row.latency_median_ns:
        return 0.0
    return (high - low) / 2.0 / row.latency_median_ns


def _widest(ranked: Sequence[Row], times: Times, cost: Mapping[str, Cost]) -> tuple[str, tuple[str, ...]] | None:
    """The row whose own interval is farthest from what its preset wants, and what would bring it there."""
    target = RULES.get(str(times.data.session.protocol.get("preset")), Rules()).half_width
    known = [(width, row) for row in ranked if (width := _half_width(row)) > target and row.engine in cost]
    if not known:
        return None
    width, row = max(known, key=lambda item: item[0])
    runs = math.ceil(row.runs * ((width / target) ** 2 - 1.0))
    seconds = runs * cost[str(row.engine)].run_s([row.variant])
    if seconds > LONGEST_S or runs > MOST_RUNS:
        return None
    return (
        f"{_minutes(seconds)} would bring the interval of {row.variant} from ±{width:.1%} to ±{target:.0%}: {runs} more runs",
        (row.variant,),
    )
