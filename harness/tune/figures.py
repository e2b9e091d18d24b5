"""What a trial's figures are: from the variant's manifest, from a row of a session in memory, and held against the reference.

Under `harness.tune.trials`. Pure; a figure that is not there is None, with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from converters.variant import Manifest
from harness.compare import compare_variants
from harness.records import SessionData
from harness.row import Row
from harness.search_section import METRICS
from harness.table.ledger import ledger_counts

_INTERVALS = {
    "latency_ns": ("latency_median_low_ns", "latency_median_high_ns"),
    "latency_p90_ns": ("latency_p90_low_ns", "latency_p90_high_ns"),
    "accuracy_drop_pp": ("accuracy_drop_low_pp", "accuracy_drop_high_pp"),
}
# Of the exported file itself; MACs are of the model before the export.
_LEDGER = ("size_entropy_bytes", "macs", "effective_macs")


@dataclass(slots=True)
class Figures:
    """Metrics as they are found. `reasons`: of those that are None."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def put(self, name: str, value: float | None, reason: str | None = None) -> None:
        """Note a figure, or why there is none."""
        self.metrics[name] = value
        if value is None:
            self.reasons[name] = reason or "it was not measured"


def file_figures(manifest: Manifest, figures: Figures) -> None:
    """What the variant's files are: sizes, weights, products."""
    counts, reasons = ledger_counts({"ledger": manifest.ledger, "size_entropy_bytes": manifest.size_entropy_bytes})
    figures.put("size_bytes", float(manifest.size_bytes))
    figures.put("size_gzip_bytes", float(manifest.size_gzip_bytes))
    parameters = counts.get("artifact_parameters", manifest.parameters)
    figures.put("parameters", _number(parameters), reasons.get("artifact_parameters"))
    for name in _LEDGER:
        figures.put(name, _number(counts.get(name)), reasons.get(name))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def row_figures(row: Row, source: str, wanted: frozenset[str], figures: Figures) -> None:
    """What a row has of the metrics of one source ("answers" or "device"); those that are `wanted` also where it has none, with the reason."""
    whys = dict(entry.split(": ", 1) for entry in row.null_reasons if ": " in entry)
    for name, metric in METRICS.items():
        if metric.source != source or metric.row is None:
            continue
        value = _number(getattr(row, metric.row))
        if value is not None or name in wanted:
            figures.put(name, value, whys.get(metric.row))
        low, high = (getattr(row, end) for end in _INTERVALS.get(name, ("error", "error")))
        if value is not None and isinstance(low, float) and isinstance(high, float):
            figures.intervals[name] = (low, high)


def ratio_figures(data: SessionData, candidate: Row, reference: Row, figures: Figures) -> None:
    """The candidate's time over the reference's, from the runs that had both in them, with its interval over runs.

    Instructions repeat: there the ratio of the counts is all there is to say.
    """
    counted = candidate.virtual_time_ns is not None
    name = "virtual_time_ratio" if counted else "latency_ratio"
    if candidate.variant == reference.variant:
        figures.put(name, 1.0)
        return
    if candidate.virtual_time_ns is not None and reference.virtual_time_ns:
        figures.put(name, candidate.virtual_time_ns / reference.virtual_time_ns)
        return
    (pair,) = compare_variants(data, candidate.device, reference.variant, [candidate.variant]).pairs
    found = pair.comparison
    figures.put(name, found.ratio, found.reason)
    if found.ratio is not None and found.low is not None and found.high is not None:
        figures.intervals[name] = (found.low, found.high)
