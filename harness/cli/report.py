"""`harness report`: the reports of a stored session, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    JsonOption,
    ResultsOption,
    SessionArgument,
    StoreOption,
    emit_json,
    guarded,
    open_store,
    session_folder,
)


@guarded
def report(
    session: SessionArgument = "latest",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder (default: the session's in RESULTS).")] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a session's reports: report.html (one offline page), report.md, rows.csv, rows.json."""
    from harness.cli import show

    with open_store(results, store) as opened:
        loaded = show.load(opened, session)
    loaded = loaded.chosen(None)
    paths = show.write_reports(loaded, out or session_folder(results, loaded.session_id))
    if json_:
        emit_json({kind: str(path) for kind, path in paths.items()})
    else:
        for kind, path in paths.items():
            typer.echo(f"{kind}: {path}")
