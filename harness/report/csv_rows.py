"""Rows → CSV with a header: one line a row, fields in public order, raw figures in the units their names say.

What is not known is an empty cell. Lists of reasons are joined by "; ".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from harness.row import Row, row_fields, row_to_dict

# A spreadsheet would run a text that begins so as a formula. Names of models and words of tools must not do that.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def render_csv(rows: Iterable[Row]) -> str:
    """CSV as RFC 4180 has it, but with plain line feeds. What a spreadsheet would take for a formula begins with "'"."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(row_fields())
    for row in rows:
        data = row_to_dict(row)
        writer.writerow([_cell(data[name]) for name in row_fields()])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list):
        value = "; ".join(value)
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    return value
