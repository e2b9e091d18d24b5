"""`harness export` and `harness import`: a session from one store to another, samples and all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    ResultsOption,
    SessionArgument,
    StoreOption,
    guarded,
    open_store,
    say,
)

if TYPE_CHECKING:
    from harness.store import Store


@guarded
def export(
    session: SessionArgument,
    file: Annotated[Path, typer.Argument(help="SQLite file to put the session into; made where there is none.")],
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
) -> None:
    """Copy a session into a file that another host can import: everything that was stored of it, to the last bit."""
    from harness.store import Store

    with open_store(results, store) as source:
        found = source.resolve(session)
        with Store.open(file) as target:
            _copy(source, target, found)
    say(f"session {found} is in {file}; `harness import {file}` takes it into another store")


@guarded
def import_(
    file: Annotated[Path, typer.Argument(help="A store, as `harness export` makes it.")],
    session: Annotated[
        str | None, typer.Option("--session", help="Only this one: its id, a beginning of it, or 'latest'.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
) -> None:
    """Take the sessions of a file into the store; those that are there already are left alone."""
    from harness.store import Store

    with Store.open(file, create=False) as source, open_store(results, store, create=True) as target:
        wanted = source.session_ids() if session is None else [source.resolve(session)]
        there = set(target.session_ids())
        for identity in reversed(wanted):
            if identity in there:
                say(f"session {identity} is there already")
            else:
                _copy(source, target, identity)
                say(f"session {identity} was imported")


def _copy(source: Store, target: Store, session: str) -> None:
    from harness.store import copy_session

    copy_session(source, target, session)
