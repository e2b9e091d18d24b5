"""Rows → JSON: what `--json` prints and rows.json holds. Flat objects, fields in public order, null for what is not known."""

from __future__ import annotations

import json
from collections.abc import Iterable

from harness.row import Row, row_to_dict


def render_json(rows: Iterable[Row]) -> str:
    """A JSON array of flat rows, ending in a newline.

    Raises ValueError for NaN or infinity: neither is JSON, and a figure that could not be computed must be null.
    """
    return json.dumps([row_to_dict(row) for row in rows], indent=2, ensure_ascii=False, allow_nan=False) + "\n"
