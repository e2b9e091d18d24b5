"""`harness table`: the rows of a session."""

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
)


@guarded
def table(
    session: SessionArgument = "latest",
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the sessions instead.")] = False,
) -> None:
    """Print the rows of a session: every variant on every device."""
    from harness.cli import show

    if sum((json_, csv, markdown)) > 1:
        from harness.errors import SpecError

        raise SpecError("--json, --csv and --markdown exclude each other", remedy="give one of them")
    with open_store(Path(results), store) as opened:
        if list_:
            show.sessions(opened, as_json=json_)
            return
        loaded = show.load(opened, session)
    if json_:
        emit_json(loaded.row_dicts())
    elif csv:
        typer.echo(loaded.csv(), nl=False)
    elif markdown:
        typer.echo(loaded.markdown())
    else:
        show.table(loaded)
