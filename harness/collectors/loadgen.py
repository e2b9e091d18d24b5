"""What MLPerf's loadgen writes → figures and answers. Pure.

The summary comes home in the agent's "loadgen" message and stays in Run.sensors; the logs themselves are fetched into the
session's results folder. The accuracy log holds each row's first output as hexadecimal float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.collectors.unavailable import Unavailable

_NUMBER = r"\s*:\s*([0-9.eE+-]+)"


@dataclass(frozen=True, slots=True)
class Official:
    """Loadgen's own figures of performance mode, None where it does not print them (they depend on the scenario).

    `early_stopping_p90_ns`: its estimate from few queries. `valid`: its word on its own rules. `queries`: worked off.
    """

    scenario: str
    valid: bool
    p90_ns: float | None
    early_stopping_p90_ns: float | None
    mean_ns: float | None
    per_s: float | None
    reason: str | None = None


def parse_summary(text: str) -> Official | Unavailable:
    """Figures of `mlperf_log_summary.txt` of a performance run."""
    scenario = re.search(r"^Scenario : (\w+)", text, re.MULTILINE)
    verdict = re.search(r"^Result is : (\w+)", text, re.MULTILINE)
    if scenario is None or verdict is None:
        return Unavailable("loadgen's summary has no result")

    def number(label: str) -> float | None:
        found = re.search(label + _NUMBER, text)
        return None if found is None else float(found[1])

    single = scenario[1] == "SingleStream"
    unmet = re.findall(r"^\s+(\w[\w ]*) satisfied\s*: NO", text, re.MULTILINE | re.IGNORECASE)
    return Official(
        scenario="single-stream" if single else scenario[1].lower(),
        valid=verdict[1] == "VALID",
        p90_ns=number(r"90\.0th percentile latency \(ns\)"),
        early_stopping_p90_ns=number(r"Early stopping 90\.0th percentile estimate"),
        mean_ns=number(r"Mean latency \(ns\)") if single else None,
        per_s=number(r"QPS w/ loadgen overhead") if single else number("Samples per second"),
        reason=", ".join(f"{name.strip().lower()} not satisfied" for name in unmet) or None,
    )


def official_of(sensors: Iterable[Mapping[str, Any]]) -> Official | Unavailable:
    """The figures of a run's performance mode."""
    for item in sensors:
        if item["name"] == "loadgen" and item["values"]["mode"] == "performance":
            return parse_summary(str(item["values"]["summary"]))
    return Unavailable("loadgen's performance mode did not end")


def answers_of(text: str, rows: int) -> NDArray[np.float32] | Unavailable:
    """The first outputs of all rows, float32 [rows, values], from `mlperf_log_accuracy.json`."""
    try:
        entries = {int(entry["qsl_idx"]): bytes.fromhex(entry["data"]) for entry in json.loads(text)}
        outputs = [np.frombuffer(entries[row], "<f4") for row in range(rows)]
        return np.stack(outputs).astype(np.float32)
    except (ValueError, KeyError, TypeError) as error:
        return Unavailable(f"loadgen's accuracy log cannot be read: {error!r}")
