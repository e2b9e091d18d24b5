"""The row: one variant on one device, flat, as `--json` prints it and every report reads it. Only `harness.table` makes rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

# The order in which `--json` and CSV give the fields is the order here; it is part of the public interface.
OK = "ok"
FAILED = "failed"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """One variant on one device. What was not measured is None, with its reason in `null_reasons`.

    `throughput_per_s`: inferences a second in the offline scenario, in batches of `batch` and that many `streams`, with its 95 %
    interval over runs. `latency_burst_ns`, `latency_sustained_ns`: medians of the first 30 s and the last third of a sustained
    run, `sustained_ratio` the latter over the former, `time_to_throttle_s` when it began to be slower for good. `mlperf_*`: what
    MLPerf's loadgen said in an official run; its latency includes binding inputs and reading outputs.

    `status`: "ok", "failed" (see `error`) or "refused" (the support matrix says it cannot exist). Latency figures are
    over runs: the median of run medians with its 95 % interval; p90 and p99 over pooled samples, with a bootstrap interval
    over runs and MLPerf's early-stopping estimate. `latency_uncontended_*`: the median, with its interval, from the
    `uncontended_blocks` of all `blocks` alone: those that had their CPUs for themselves. `accuracy`: top-1
    share (classification) in 0..1; None for regression, whose errors stand in `mae` and `rmse`. `accuracy_drop_pp`:
    points lost against the base, positive is worse, with its 95 % interval. `agreement`: share of rows with the base's
    class. `energy_total_uj`, `energy_dynamic_uj`: of one inference, the latter without the idle power `idle_power_uw`;
    `energy_resolution_uj`: what one step of the meter `power_source` is worth. `rmse_ratio`: RMSE over the base's RMSE on the same rows. `grade`: "A", "B", "C" or "invalid". `null_reasons`: "field: reason" each.
    `memory_*_peak_delta_bytes`, by phase: load, first inference, those after it. Counted at the conversion, where it had compression
    steps (docs/compression): `size_entropy_bytes`, `artifact_parameters`, `non_zeros`, `unique_values`, `weights_bytes` and TFLite's
    `arena_planned_bytes` of the exported file, `macs` and `effective_macs` of the model before the export. `hints`: advice, filled in after the table by
    `harness.hints`.
    """

    session: str
    variant: str
    base: str | None
    format: str
    recipe: str | None
    device: str
    engine: str | None
    status: str
    error: str | None = None
    size_bytes: int | None = None
    size_gzip_bytes: int | None = None
    parameters: int | None = None
    size_entropy_bytes: int | None = None
    artifact_parameters: int | None = None
    non_zeros: int | None = None
    unique_values: int | None = None
    weights_bytes: int | None = None
    macs: int | None = None
    effective_macs: int | None = None
    arena_planned_bytes: int | None = None
    latency_median_ns: float | None = None
    latency_median_low_ns: float | None = None
    latency_median_high_ns: float | None = None
    latency_min_ns: float | None = None
    latency_uncontended_median_ns: float | None = None
    latency_uncontended_low_ns: float | None = None
    latency_uncontended_high_ns: float | None = None
    latency_p90_ns: float | None = None
    latency_p99_ns: float | None = None
    latency_p90_low_ns: float | None = None
    latency_p90_high_ns: float | None = None
    latency_p90_early_stopping_ns: float | None = None
    latency_p99_low_ns: float | None = None
    latency_p99_high_ns: float | None = None
    latency_p99_early_stopping_ns: float | None = None
    virtual_time_ns: float | None = None
    throughput_per_s: float | None = None
    throughput_low_per_s: float | None = None
    throughput_high_per_s: float | None = None
    batch: int | None = None
    streams: int | None = None
    latency_burst_ns: float | None = None
    latency_sustained_ns: float | None = None
    sustained_ratio: float | None = None
    time_to_throttle_s: float | None = None
    temperature_start_c: float | None = None
    temperature_peak_c: float | None = None
    mlperf_scenario: str | None = None
    mlperf_valid: bool | None = None
    mlperf_latency_p90_ns: float | None = None
    mlperf_latency_p90_early_stopping_ns: float | None = None
    mlperf_throughput_per_s: float | None = None
    mlperf_accuracy: float | None = None
    load_ns: float | None = None
    first_inference_ns: float | None = None
    memory_peak_bytes: int | None = None
    memory_peak_delta_bytes: int | None = None
    memory_loaded_delta_bytes: int | None = None
    memory_load_peak_delta_bytes: int | None = None
    memory_first_peak_delta_bytes: int | None = None
    memory_steady_peak_delta_bytes: int | None = None
    memory_steady_delta_bytes: int | None = None
    memory_pss_bytes: int | None = None
    memory_pss_delta_bytes: int | None = None
    memory_arena_bytes: int | None = None
    memory_accelerator_bytes: int | None = None
    energy_total_uj: float | None = None
    energy_dynamic_uj: float | None = None
    energy_resolution_uj: float | None = None
    idle_power_uw: float | None = None
    power_source: str | None = None
    accuracy: float | None = None
    accuracy_top5: float | None = None
    macro_f1: float | None = None
    mae: float | None = None
    rmse: float | None = None
    rmse_ratio: float | None = None
    accuracy_drop_pp: float | None = None
    accuracy_drop_low_pp: float | None = None
    accuracy_drop_high_pp: float | None = None
    agreement: float | None = None
    outputs_sha256: str | None = None
    runs: int = 0
    samples: int = 0
    blocks: int = 0
    uncontended_blocks: int | None = None
    threads: int | None = None
    affinity: str | None = None
    precision: str | None = None
    grade: str = "invalid"
    grade_reasons: tuple[str, ...] = ()
    null_reasons: tuple[str, ...] = ()
    remedy: str | None = None
    hints: tuple[str, ...] = ()


def row_fields() -> tuple[str, ...]:
    """Field names in public order."""
    return tuple(field.name for field in dataclasses.fields(Row))


def row_to_dict(row: Row) -> dict[str, Any]:
    """A row as JSON-compatible data; tuples become lists."""
    data = dataclasses.asdict(row)
    data["grade_reasons"] = list(row.grade_reasons)
    data["null_reasons"] = list(row.null_reasons)
    data["hints"] = list(row.hints)
    return data
