"""What a report shows of a row: the columns, their texts, their order, their explanations.

Place in the flow: `Row` → here → terminal, Markdown and HTML, so that the three say the same in the same words.
CSV and JSON bypass this: they carry the raw fields.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.report import units
from harness.row import Row

GRADE_MEANINGS = {
    "A": "all rules of the measurement were met",
    "B": "measured, but a stated rule was not met",
    "C": "indicative only: emulated or contended",
    "invalid": "not to be used",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `fields` are the row fields it shows (the first one decides whether there is a value), `text` the
    cell, `sort` the value to sort by, `meaning` the sentence of the legend. A column that is not `essential` appears
    only when some row has a value (and `when` says that it is worth showing); that one is missing needs no word when it is
    `special`: most sessions have none."""

    key: str
    header: str
    fields: tuple[str, ...]
    text: Callable[[Row], str]
    sort: Callable[[Row], float | str | None]
    meaning: str
    numeric: bool = True
    essential: bool = False
    special: bool = False
    when: Callable[[Row], bool] | None = None


def clean(text: str | None) -> str:
    """A string from a device, a model or a file, safe to print: control and direction characters become "�",
    line breaks spaces. Markup of the target (Markdown, HTML) is escaped where it is written."""
    if text is None:
        return ""
    flat = " ".join(text.split())
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") else c for c in flat)


def variant_label(row: Row) -> str:
    """The variant's name; format and recipe follow in brackets where the name does not hold them."""
    name = clean(row.variant)
    missing = [clean(part) for part in (row.format, row.recipe) if part and clean(part) not in name]
    return f"{name} ({' '.join(missing)})" if missing else name


def _memory(row: Row) -> str:
    text = units.format_bytes(row.memory_peak_bytes)
    if row.memory_peak_delta_bytes is None:
        return text
    return f"{text} ({units.format_bytes(row.memory_peak_delta_bytes, signed=True)})"


def _latency(row: Row) -> str:
    return units.format_ns_interval(row.latency_median_ns, row.latency_median_low_ns, row.latency_median_high_ns)


def _uncontended(row: Row) -> str:
    text = units.format_ns_interval(
        row.latency_uncontended_median_ns, row.latency_uncontended_low_ns, row.latency_uncontended_high_ns
    )
    if row.latency_uncontended_median_ns is None or row.uncontended_blocks is None:
        return text
    return f"{text} ({row.uncontended_blocks}/{row.blocks})"


def _drop(row: Row) -> str:
    return units.format_points_interval(row.accuracy_drop_pp, row.accuracy_drop_low_pp, row.accuracy_drop_high_pp)


_GRADE_ORDER = {"A": 0, "B": 1, "C": 2, "invalid": 3}


def _throughput(row: Row) -> str:
    text = units.format_rate_interval(row.throughput_per_s, row.throughput_low_per_s, row.throughput_high_per_s)
    return text if row.throughput_per_s is None else f"{text} ({row.batch} × {row.streams})"


def _sustained(row: Row) -> str:
    text = units.format_ns(row.latency_sustained_ns)
    return text if row.sustained_ratio is None else f"{text} ({row.sustained_ratio:.2f} × burst)"


def _official(row: Row) -> str:
    if row.mlperf_valid is None:
        return units.NOT_AVAILABLE
    offline = row.mlperf_scenario == "offline"
    figure = units.format_rate(row.mlperf_throughput_per_s) if offline else units.format_ns(row.mlperf_latency_p90_ns)
    return f"{figure} ({'' if offline else 'p90, '}{'valid' if row.mlperf_valid else 'INVALID'})"


def _scenario_columns() -> Iterable[Column]:
    yield Column(
        "throughput",
        "throughput [95 %] (batch × streams)",
        ("throughput_per_s",),
        _throughput,
        lambda r: r.throughput_per_s,
        "inferences a second in the offline scenario, with the 95 % interval over runs; rows of a batch × inferences at once",
        special=True,
    )
    yield Column(
        "sustained",
        "sustained (× burst)",
        ("latency_sustained_ns",),
        _sustained,
        lambda r: r.latency_sustained_ns,
        "median time of an inference in the last third of a sustained run; in brackets, relative to its first 30 s",
        special=True,
    )
    yield Column(
        "throttle",
        "throttles after",
        ("time_to_throttle_s",),
        lambda r: units.format_seconds(r.time_to_throttle_s),
        lambda r: r.time_to_throttle_s,
        "when the device became slower for good, by 5 % or more, in a sustained run",
        special=True,
    )
    yield Column(
        "mlperf",
        "MLPerf loadgen",
        ("mlperf_valid",),
        _official,
        lambda r: r.mlperf_throughput_per_s if r.mlperf_scenario == "offline" else r.mlperf_latency_p90_ns,
        "what MLPerf's load generator measured: p90 latency of a query, input and output included, or samples a second",
        special=True,
    )


def _latency_columns() -> Iterable[Column]:
    yield Column(
        "latency",
        "latency median [95 %]",
        ("latency_median_ns",),
        _latency,
        lambda r: r.latency_median_ns,
        "median time of one inference, over runs, with its 95 % interval",
        essential=True,
    )
    yield Column(
        "uncontended",
        "uncontended [95 %]",
        ("latency_uncontended_median_ns",),
        _uncontended,
        lambda r: r.latency_uncontended_median_ns,
        "the same median from those blocks alone that had their CPUs for themselves; in brackets, how many of all blocks",
        special=True,
        when=lambda r: r.uncontended_blocks is not None and r.uncontended_blocks < r.blocks,
    )
    yield Column(
        "p90",
        "p90 [95 %]",
        ("latency_p90_ns",),
        lambda r: units.format_ns_interval(r.latency_p90_ns, r.latency_p90_low_ns, r.latency_p90_high_ns),
        lambda r: r.latency_p90_ns,
        "nine of ten inferences take at most this long, with its 95 % interval over runs",
    )
    yield Column(
        "p99",
        "p99 [95 %]",
        ("latency_p99_ns",),
        lambda r: units.format_ns_interval(r.latency_p99_ns, r.latency_p99_low_ns, r.latency_p99_high_ns),
        lambda r: r.latency_p99_ns,
        "99 of 100 inferences take at most this long, with its 95 % interval over runs",
        special=True,
    )
    yield Column(
        "virtual",
        "virtual time",
        ("virtual_time_ns",),
        lambda r: units.format_ns(r.virtual_time_ns),
        lambda r: r.virtual_time_ns,
        "instructions counted by a deterministic emulator, as time; not a latency",
        special=True,
    )


def _cold_start_columns() -> Iterable[Column]:
    yield Column(
        "load",
        "load",
        ("load_ns",),
        lambda r: units.format_ns(r.load_ns),
        lambda r: r.load_ns,
        "loading and compiling in a fresh process",
    )
    yield Column(
        "first",
        "first",
        ("first_inference_ns",),
        lambda r: units.format_ns(r.first_inference_ns),
        lambda r: r.first_inference_ns,
        "the first inference after loading, in a fresh process",
    )


def _cost_columns() -> Iterable[Column]:
    yield Column(
        "memory",
        "peak memory (Δ)",
        ("memory_peak_bytes", "memory_peak_delta_bytes"),
        _memory,
        lambda r: r.memory_peak_bytes,
        "highest resident memory of the whole process; in brackets, its growth since before the model was loaded",
    )
    yield Column(
        "size",
        "size",
        ("size_bytes",),
        lambda r: units.format_bytes(r.size_bytes),
        lambda r: r.size_bytes,
        "the artifact's files on disk; 1 MB = 1,000,000 bytes",
        essential=True,
    )
    yield Column(
        "gzip",
        "gzip",
        ("size_gzip_bytes",),
        lambda r: units.format_bytes(r.size_gzip_bytes),
        lambda r: r.size_gzip_bytes,
        "the same files compressed: what a download costs",
    )


def _answer_columns() -> Iterable[Column]:
    yield Column(
        "accuracy",
        "accuracy",
        ("accuracy",),
        lambda r: units.format_share(r.accuracy),
        lambda r: r.accuracy,
        "top-1 share of the dataset's labels, computed from the device's own outputs",
    )
    yield Column(
        "drop",
        "drop [95 %]",
        ("accuracy_drop_pp",),
        _drop,
        lambda r: r.accuracy_drop_pp,
        "percentage points (pp) of accuracy lost against the base model, with its 95 % interval; positive is worse",
    )
    yield Column(
        "mae",
        "MAE",
        ("mae",),
        lambda r: units.format_number(r.mae),
        lambda r: r.mae,
        "mean absolute error of a regression",
        special=True,
    )
    yield Column(
        "rmse",
        "RMSE",
        ("rmse",),
        lambda r: units.format_number(r.rmse),
        lambda r: r.rmse,
        "root of the mean squared error of a regression",
        special=True,
    )
    yield Column(
        "rmse_ratio",
        "RMSE / base",
        ("rmse_ratio",),
        lambda r: units.format_number(r.rmse_ratio),
        lambda r: r.rmse_ratio,
        "RMSE over the base model's RMSE on the same rows; above 1 is worse",
        special=True,
    )
    yield Column(
        "agreement",
        "agreement",
        ("agreement",),
        lambda r: units.format_share(r.agreement),
        lambda r: r.agreement,
        "share of the rows on which the variant predicts the base model's class",
    )


def _columns() -> Iterable[Column]:
    yield Column(
        "variant",
        "variant",
        ("variant",),
        variant_label,
        variant_label,
        "one artifact: the base model in one format, compressed by one recipe",
        numeric=False,
        essential=True,
    )
    yield from _latency_columns()
    yield from _scenario_columns()
    yield from _cold_start_columns()
    yield from _cost_columns()
    yield from _answer_columns()
    yield Column(
        "energy",
        "energy",
        ("energy_total_uj",),
        lambda r: units.format_uj(r.energy_total_uj),
        lambda r: r.energy_total_uj,
        "total energy of one inference",
        special=True,
    )
    yield Column(
        "grade",
        "grade",
        ("grade",),
        lambda r: clean(r.grade),
        lambda r: _GRADE_ORDER.get(r.grade, 4),
        "how far the figures of the row can be trusted",
        numeric=False,
        essential=True,
    )


COLUMNS: dict[str, Column] = {column.key: column for column in _columns()}


def plain_header(column: Column) -> str:
    """A column's header without what it says about brackets."""
    return column.header.partition(" [")[0].partition(" (")[0]


def has_value(column: Column, rows: Iterable[Row]) -> bool:
    """Whether some row has a value in this column that is worth showing."""
    return any(getattr(row, column.fields[0]) is not None and (column.when is None or column.when(row)) for row in rows)


def columns_for(rows: Iterable[Row]) -> list[Column]:
    """The columns worth showing for these rows: the essential ones, and those in which some row has a value."""
    rows = list(rows)
    return [column for column in COLUMNS.values() if column.essential or has_value(column, rows)]


# What only the HTML report has room for.
DETAILS: tuple[Column, ...] = (
    Column(
        "top5",
        "top-5",
        ("accuracy_top5",),
        lambda r: units.format_share(r.accuracy_top5),
        lambda r: r.accuracy_top5,
        "share of the rows whose label is among the five best classes",
    ),
    Column(
        "macro_f1",
        "macro F1",
        ("macro_f1",),
        lambda r: units.format_share(r.macro_f1),
        lambda r: r.macro_f1,
        "mean over the classes of F1, the harmonic mean of precision and recall",
    ),
    Column(
        "precision",
        "precision",
        ("precision",),
        lambda r: clean(r.precision) or units.NOT_AVAILABLE,
        lambda r: clean(r.precision) or None,
        "the precision the engine says it computed in, read back after loading",
        numeric=False,
    ),
    Column(
        "runs",
        "runs",
        ("runs",),
        lambda r: units.format_count(r.runs),
        lambda r: r.runs,
        "latency runs, each a fresh process",
    ),
    Column(
        "samples",
        "samples",
        ("samples",),
        lambda r: units.format_count(r.samples),
        lambda r: r.samples,
        "timed inferences in all runs",
    ),
)
