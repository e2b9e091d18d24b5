"""`harness report`: the reports of a stored session, made again."""

from __future__ import annotations

from collections.abc import Mapping
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
    study: Annotated[
        str | None, typer.Option(help="Of a search instead: its id, a unique beginning of it, a name, or 'latest'.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder (default: the session's in RESULTS).")] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a session's reports: report.html (one offline page), report.md, rows.csv, rows.json; of a search: search.html, trials.csv, study.json."""
    paths = _of_session(session, out, results, store) if study is None else _of_study(study, out, results, store)
    if json_:
        emit_json({kind: str(path) for kind, path in paths.items()})
    else:
        for kind, path in paths.items():
            typer.echo(f"{kind}: {path}")


def _of_session(session: str, out: Path | None, results: Path, store: str | None) -> Mapping[str, Path]:
    from harness.cli import show

    with open_store(results, store) as opened:
        loaded = show.load(opened, session)
    loaded = loaded.chosen(None)
    return show.write_reports(loaded, out or session_folder(results, loaded.session_id))


def _of_study(study: str, out: Path | None, results: Path, store: str | None) -> Mapping[str, Path]:
    from harness.cli.search import study_view, write_study
    from harness.store.studies import resolve_study

    with open_store(results, store) as opened:
        view = study_view(opened, resolve_study(opened, study))
    return write_study(view, out or session_folder(results, view.id))
