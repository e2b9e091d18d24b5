"""The time of one row: latency or virtual time, load and first inference."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.stats import quantiles
from harness.table.cells import Cell
from harness.table.nulls import NULLABLE

_COUNTED = "instructions were counted, time was not measured"
_TIMES = ("load_ns", "first_inference_ns")
_PERCENTILES = (("latency_p90", 0.90), ("latency_p99", 0.99))  # the lowest first


def virtual_time_figures(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Median over runs of the run medians, like a latency's; only that it is none, and the guest's other times are none."""
    reasons |= dict.fromkeys([name for name in NULLABLE if name.startswith("latency")], _COUNTED)
    reasons |= dict.fromkeys(_TIMES, _COUNTED)
    reasons["virtual_time_ns"] = "no latency run of it ended"
    if cell.latency:
        samples = sum(samples.size for samples in cell.latency)
        figures |= {"runs": len(cell.latency), "samples": samples}
        figures["virtual_time_ns"] = float(np.median([samples.median_ns for samples in cell.latency]))


def latency_figures(cell: Cell, seed: int, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Median, percentiles and their intervals; `reasons` for what too few samples do not give."""
    if not cell.latency:
        return
    tails = quantiles.tails([samples.wall_ns for samples in cell.latency], _PERCENTILES[0][1])
    figures |= {"runs": len(cell.latency), "samples": tails.n}
    middle = quantiles.median([samples.median_ns for samples in cell.latency])
    figures |= {"latency_median_ns": middle.value, "latency_median_low_ns": middle.low}
    figures |= {"latency_median_high_ns": middle.high, "latency_min_ns": tails.least}
    if middle.reason is not None:
        reasons |= dict.fromkeys(("latency_median_low_ns", "latency_median_high_ns"), middle.reason)
    if tails.n < quantiles.minimum_n(0.5):
        # Like any other percentile: not from fewer samples than could ever give it an interval.
        reason = f"n/a (n={tails.n}): the median needs at least {quantiles.minimum_n(0.5)}"
        figures["latency_median_ns"] = None
        reasons |= dict.fromkeys(("latency_median_ns", "latency_median_low_ns", "latency_median_high_ns"), reason)
    for name, q in _PERCENTILES:
        found = quantiles.pooled_percentile(tails, q, seed=seed)
        early = quantiles.early_stopping_estimate(tails, q)
        figures |= {f"{name}_ns": found.value, f"{name}_low_ns": found.low, f"{name}_high_ns": found.high}
        figures[f"{name}_early_stopping_ns"] = early
        if found.reason is not None:
            reasons |= dict.fromkeys((f"{name}_ns", f"{name}_low_ns", f"{name}_high_ns"), found.reason)
        reasons[f"{name}_early_stopping_ns"] = f"n/a (n={tails.n}): too few for MLPerf's early stopping"


def cold_start_figures(cell: Cell, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Load and first inference: medians over the probes."""
    reason = "no probe run of it ended"
    if cell.probes:
        figures["load_ns"] = float(np.median([load.load_ns for load in cell.probes]))
        first = [load.first_inference_ns for load in cell.probes if load.first_inference_ns is not None]
        figures["first_inference_ns"] = float(np.median(first)) if first else None
        reason = "the agent did not tell"
    reasons |= dict.fromkeys(_TIMES, reason)
