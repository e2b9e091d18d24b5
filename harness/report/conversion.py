"""What became of each recipe, in a terminal or piped: flat rows of `harness convert` → text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from harness.report import units
from harness.report.cells import clean

_PIPED_WIDTH = 200


def _error_text(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1e}"


def render_conversion(rows: Sequence[dict[str, Any]], *, width: int | None = None, color: bool = False) -> str:
    """A table of the variants made, then one line for each recipe that failed or was refused, with its reason."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = [row for row in rows if row["status"] == "ok"]
    console = Console(
        file=io.StringIO(),
        width=width or _PIPED_WIDTH,
        force_terminal=color,
        no_color=not color,
        highlight=False,
        color_system="standard" if color else None,
    )
    if made:
        table = Table(box=None, pad_edge=False)
        table.add_column("variant", overflow="fold")
        for header in ("size", "gzip", "relative error", "same class", "time"):
            table.add_column(header, justify="right", no_wrap=True)
        for row in made:
            seconds = "cached" if row["cached"] else f"{row['seconds']:.1f} s"
            table.add_row(
                clean(row["variant"]),
                units.format_bytes(row["size_bytes"]),
                units.format_bytes(row["size_gzip_bytes"]),
                _error_text(row["relative_error"]),
                units.format_share(row["argmax_agreement"]),
                seconds,
            )
        console.print(table)
    for status in ("refused", "failed"):
        for row in rows:
            if row["status"] == status:
                remedy = f" — {row['remedy']}" if row["remedy"] else ""
                text = f"{status}: {clean(row['variant'])}: {clean(row['error'])}{clean(remedy)}"
                console.print(Text(text, style="red" if status == "failed" else "yellow"))
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "refused", "failed")}
    console.print(f"{counts['ok']} made, {counts['refused']} cannot exist, {counts['failed']} failed")
    output = console.file
    assert isinstance(output, io.StringIO)  # noqa: S101
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"
