"""What MLPerf's loadgen said of one row, beside our own figures. Part of `harness.table`. Nothing is computed but the accuracy of
the answers that loadgen logged."""

from __future__ import annotations

from typing import Any

from harness.agent.scenarios import LOADGEN
from harness.collectors.loadgen import official_of
from harness.collectors.unavailable import Unavailable
from harness.records import Reference, SessionData
from harness.stats import proportions
from harness.table.cells import Cell

FIELDS = (
    "mlperf_scenario",
    "mlperf_valid",
    "mlperf_latency_p90_ns",
    "mlperf_latency_p90_early_stopping_ns",
    "mlperf_throughput_per_s",
    "mlperf_accuracy",
)


def official_figures(cell: Cell, data: SessionData, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    """Fill in the row's `mlperf_` fields from its last official run, or why they are missing."""
    if data.session.protocol.get("driver") != LOADGEN:
        reasons |= dict.fromkeys(FIELDS, "loadgen was not asked for (--driver loadgen)")
        return
    if not cell.official:
        counted = "instructions were counted, time was not measured"
        reasons |= dict.fromkeys(FIELDS, counted if cell.counted else "no official run of it was made")
        return
    run = cell.official[-1]
    failure = run.failed_variants.get(cell.variant.name) or run.failure
    found = official_of(run.sensors)
    if isinstance(found, Unavailable):
        words = (
            str(found)
            if failure is None
            else f"{failure.message} ({failure.remedy})"
            if failure.remedy
            else failure.message
        )
        reasons |= dict.fromkeys(FIELDS, words)
        return
    figures |= {"mlperf_scenario": found.scenario, "mlperf_valid": found.valid, "mlperf_latency_p90_ns": found.p90_ns}
    figures |= {
        "mlperf_latency_p90_early_stopping_ns": found.early_stopping_p90_ns,
        "mlperf_throughput_per_s": found.per_s,
    }
    reasons |= dict.fromkeys(
        FIELDS[2:5], f"loadgen gives none in the {found.scenario} scenario, or not from so few queries"
    )
    _accuracy(cell, data.reference, figures, reasons)


def _accuracy(cell: Cell, reference: Reference | None, figures: dict[str, Any], reasons: dict[str, str]) -> None:
    made = [item for item in cell.official[-1].evaluations if item.variant == cell.variant.name]
    if reference is None or reference.labels is None or reference.task != "classification":
        reasons["mlperf_accuracy"] = "there are no labelled data"
    elif not made or made[0].top is None or made[0].rows != reference.rows:
        reasons["mlperf_accuracy"] = "loadgen's accuracy mode did not answer all rows"
    else:
        figures["mlperf_accuracy"] = float(proportions.top_k_right(made[0].top, reference.labels, 1).mean())
