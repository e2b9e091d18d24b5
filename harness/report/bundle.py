"""All reports of a session into one folder: report.html, report.md, rows.csv, rows.json.

Place in the flow: rows, recommendations and session data → here → files. Each file is whole or not there: it is written
beside its name and moved into place.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.differences import output_differences
from harness.errors import SpecError
from harness.records import SessionData
from harness.report.csv_rows import render_csv
from harness.report.differences import paragraphs
from harness.report.html import render_html, unavailable
from harness.report.json_rows import render_json
from harness.report.markdown import render_markdown
from harness.row import Row
from harness.table import run_medians
from harness.table.cells import all_latency_samples
from harness.table.sustained import all_strips

if TYPE_CHECKING:
    from harness.choose import Recommendation
    from harness.report.advice import Advice

logger = logging.getLogger(__name__)

# A box needs no more; the figures themselves are made of all samples.
_RUN_SAMPLES = 1000
NAMES = {"json": "rows.json", "csv": "rows.csv", "markdown": "report.md", "html": "report.html"}


def write_reports(
    folder: Path,
    session_id: str,
    rows: Sequence[Row],
    recommendations: Sequence[Recommendation | Advice],
    data: SessionData,
    hints: Sequence[str] = (),
) -> dict[str, Path]:
    """Write the reports, replacing older ones; kind → path, kinds as in NAMES.

    Without the extra `report` installed "html" is left out and a warning is logged. Raises SpecError when the folder
    cannot be written to; what was written before stays.
    """
    told = paragraphs(output_differences(data))
    texts = {
        "json": render_json(rows),
        "csv": render_csv(rows),
        "markdown": render_markdown(
            rows, recommendations, title=f"{data.session.name} ({session_id})", differences=told, hints=hints
        ),
    }
    reason = unavailable()
    if reason is None:
        texts["html"] = render_html(
            rows,
            recommendations,
            data,
            all_latency_samples(data, _RUN_SAMPLES),
            run_medians(data),
            told,
            all_strips(data),
            hints=hints,
        )
    else:
        logger.warning("no report.html: %s", reason)
    return write_all(folder, NAMES, texts)


def write_all(folder: Path, names: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, Path]:
    """Each text to the file that `names` gives its kind, in `folder`, made where it is not there: kind -> path. Raises SpecError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return {kind: write_text(folder / names[kind], text) for kind, text in texts.items()}
    except OSError as error:
        raise SpecError(f"cannot write reports to {folder}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> Path:
    """Write a text so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
