"""The options that say how long to go on, the same in `harness demo`, `bench` and `run`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Device time for the whole session, e.g. 10m or 90s: runs are added where the uncertainty is until it is spent.",
    ),
]
StopOnOption = Annotated[
    str | None,
    typer.Option(
        "--stop-on",
        help="What settles a variant: its own estimate, its verdict against the fp32 variant, or both (default: the preset's).",
    ),
]


def stopping_changes(budget: str | None, stop_on: str | None = None) -> dict[str, Any]:
    """What these options change in the protocol, by the names of its keys; nothing for those not given."""
    return {name: value for name, value in (("budget", budget), ("stop_on", stop_on)) if value is not None}
