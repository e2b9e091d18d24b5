"""The table "Sizes and operations": what compression made of each variant's file and products, whatever it runs on.

Place in the flow: `Row` → here → terminal, Markdown and HTML. One line a variant, not one a device: nothing here is measured. Shown where
a conversion with compression steps has counted (`harness.table.ledger`); JSON and CSV carry the raw fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.report import units
from harness.report.arrange import absences
from harness.report.cells import COLUMNS, Column, has_value
from harness.row import Row

TITLE = "Sizes and operations"
NOTE = (
    "Counted in the exported file; multiply-accumulates (MACs) in the model before the export. Zeros and shared values save storage "
    "alone: no engine here leaves out the products that effective MACs do without."
)


def _of(part: int | None, whole: int | None) -> str:
    """A count, and in brackets its share of another."""
    text = units.format_count(part)
    return text if part is None or not whole else f"{text} ({part / whole:.1%})".replace("%", " %")


_COUNTED: tuple[Column, ...] = (
    Column(
        "entropy",
        "entropy-coded",
        ("size_entropy_bytes",),
        lambda r: units.format_bytes(r.size_entropy_bytes),
        lambda r: r.size_entropy_bytes,
        "the file's weights, Huffman-coded as the step entropy stores them",
    ),
    Column(
        "weights",
        "weights",
        ("artifact_parameters",),
        lambda r: units.format_count(r.artifact_parameters),
        lambda r: r.artifact_parameters,
        "constants of the exported file, without scales and zero points of quantization",
    ),
    Column(
        "non_zeros",
        "non-zeros",
        ("non_zeros", "artifact_parameters"),
        lambda r: _of(r.non_zeros, r.artifact_parameters),
        lambda r: r.non_zeros,
        "those of them that are not zero",
    ),
    Column(
        "unique",
        "distinct values",
        ("unique_values",),
        lambda r: units.format_count(r.unique_values),
        lambda r: r.unique_values,
        "distinct values of each tensor, added up",
    ),
    Column(
        "macs",
        "MACs",
        ("macs",),
        lambda r: units.format_count(r.macs),
        lambda r: r.macs,
        "multiply-accumulates of one inference",
    ),
    Column(
        "effective",
        "effective MACs",
        ("effective_macs", "macs"),
        lambda r: _of(r.effective_macs, r.macs),
        lambda r: r.effective_macs,
        "those with a weight that is not zero",
    ),
    Column(
        "arena",
        "planned arena",
        ("arena_planned_bytes",),
        lambda r: units.format_bytes(r.arena_planned_bytes),
        lambda r: r.arena_planned_bytes,
        "what TFLite's interpreter plans for activations",
    ),
)
# In this order columns are added while a terminal has room.
LEAST_NEEDED_LAST = ("entropy", "non_zeros", "effective", "macs", "gzip", "unique", "weights", "arena")


def counted(rows: Iterable[Row]) -> list[Row]:
    """One row for each variant of which something was counted, in the order of the rows."""
    found: dict[str, Row] = {}
    for row in rows:
        if any(getattr(row, column.fields[0]) is not None for column in _COUNTED):
            found.setdefault(row.variant, row)
    return list(found.values())


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why cells of the table say "n/a"."""
    return absences(rows, [column for column in columns_of(rows) if column in _COUNTED])


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The columns in which some of these rows has a value: its file beside what was counted."""
    every = (COLUMNS["variant"], COLUMNS["size"], COLUMNS["gzip"], *_COUNTED)
    return [column for column in every if has_value(column, rows)]
