"""The agent's "second" messages of a sustained run → seconds: how fast, how hot, how held back. Pure.

They stay in Run.sensors; the samples that were kept are blocks of the same index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.collectors.thermal import Heat, parse_heat


@dataclass(frozen=True, slots=True)
class Second:
    """One block of a sustained run. `at_s`: from the start of the first. `median_ns`, `p90_ns`, `min_ns`, `max_ns`: exact, of all
    `count` inferences; `mean_ns`, `mean_cpu_ns`: wall and CPU time of one. `kept_every`: every so many samples are stored."""

    at_s: float
    count: int
    median_ns: float
    p90_ns: float
    min_ns: float
    max_ns: float
    mean_ns: float
    mean_cpu_ns: float
    kept_every: int
    heat: Heat

    @property
    def frequency_khz(self) -> int | None:
        """The highest frequency of any CPU then; None where the device does not tell."""
        return max(self.heat.frequency_khz.values(), default=None)


def seconds_of(sensors: Iterable[Mapping[str, Any]], variant: str) -> tuple[Second, ...]:
    """The seconds of a variant, in time order. Messages that are none of ours raise KeyError, TypeError or ValueError."""
    found = [item["values"] for item in sensors if item["name"] == "second" and item["values"]["id"] == variant]
    origin = int(found[0]["started_ns"]) if found else 0
    return tuple(_second(values, origin) for values in found)


def _second(values: Mapping[str, Any], origin_ns: int) -> Second:
    count = int(values["count"])
    return Second(
        at_s=(int(values["started_ns"]) - origin_ns) / 1e9,
        count=count,
        median_ns=float(values["median_ns"]),
        p90_ns=float(values["p90_ns"]),
        min_ns=float(values["min_ns"]),
        max_ns=float(values["max_ns"]),
        mean_ns=int(values["wall_ns"]) / count,
        mean_cpu_ns=int(values["cpu_ns"]) / count,
        kept_every=int(values["kept_every"]),
        heat=parse_heat(values.get("thermal", {})),
    )
