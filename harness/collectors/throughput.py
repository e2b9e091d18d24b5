"""The agent's "throughput" messages of an offline run → blocks of throughput. Pure; they stay in Run.sensors.

A stream's rate is its batches over the time from the start of its first to the end of its last; the block's is their sum. So the
moment in which one stream has ended and another finishes its last batch does not count as idling.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Lap:
    """One visit to a variant. `index`: the interleaved round, -1 for warm-up. `per_s`: inferences of one row a second, in all
    streams together. `inferences`: rows worked off. `seconds`: from the first start to the last end."""

    variant: str
    index: int
    phase: str
    batch: int
    streams: int
    started_ns: int
    seconds: float
    inferences: int
    per_s: float


def laps_of(sensors: Iterable[Mapping[str, Any]]) -> tuple[Lap, ...]:
    """All visits of a run, in time order. Messages that are none of ours raise KeyError, TypeError or ValueError."""
    return tuple(_lap(item["values"]) for item in sensors if item["name"] == "throughput")


def _lap(values: Mapping[str, Any]) -> Lap:
    started, ended = [int(t) for t in values["started_ns"]], [int(t) for t in values["ended_ns"]]
    batches, batch = [int(n) for n in values["batches"]], int(values["batch"])
    if not batches or not len(started) == len(ended) == len(batches):
        raise ValueError("a block of throughput without the times of each stream")
    spans = [(last - first) / 1e9 for first, last in zip(started, ended, strict=True)]
    if min(spans) <= 0 or min(batches) < 1 or batch < 1:
        raise ValueError("a block of throughput in which a stream did nothing or took no time")
    return Lap(
        variant=str(values["id"]),
        index=int(values["index"]),
        phase=str(values["phase"]),
        batch=batch,
        streams=len(batches),
        started_ns=min(started),
        seconds=(max(ended) - min(started)) / 1e9,
        inferences=batch * sum(batches),
        per_s=sum(batch * count / span for count, span in zip(batches, spans, strict=True)),
    )


def times_of(sensors: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Variant → interleaved round → ns that one inference took of the whole: the inverse of the throughput, to be compared like
    a latency (below 1 is faster)."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for lap in laps_of(sensors):
        if lap.phase == "measure":
            found[lap.variant][lap.index] = 1e9 / lap.per_s
    return dict(found)
