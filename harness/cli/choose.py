"""`harness choose`: limits in, the variant to deploy out; exit code 1 when none meets them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    EXIT_UNMET,
    JsonOption,
    ResultsOption,
    SessionArgument,
    StoreOption,
    emit_json,
    guarded,
    open_store,
)


@guarded
def choose(
    session: SessionArgument = "latest",
    max_latency: Annotated[str | None, typer.Option(help="Median latency, e.g. 2ms.")] = None,
    max_latency_p90: Annotated[str | None, typer.Option(help="90th percentile of latency, e.g. 3ms.")] = None,
    max_load: Annotated[str | None, typer.Option(help="Load and compile time, e.g. 500ms.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Size of the artifact's files, e.g. 500kB.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Peak memory over the bare engine's, e.g. 64MiB.")] = None,
    max_drop: Annotated[str | None, typer.Option(help="Accuracy lost against the base, in points, e.g. 0.5.")] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="Accuracy at least, e.g. 0.88 or 88%.")] = None,
    max_rmse_ratio: Annotated[float | None, typer.Option(help="Regression: RMSE over the base's, e.g. 1.05.")] = None,
    objective: Annotated[str | None, typer.Option(help="What to win by: latency, size, accuracy or memory.")] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Only for this device of the session.")] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Tell which variant to deploy under the limits given (without any: those of the session's experiment)."""
    from harness.cli import show
    from harness.experiment import ConstraintsSpec
    from harness.yamlfile import validate

    given = {
        "max_latency": max_latency,
        "max_latency_p90": max_latency_p90,
        "max_load": max_load,
        "max_size": max_size,
        "max_memory": max_memory,
        "max_drop": max_drop,
        "min_accuracy": min_accuracy,
        "max_rmse_ratio": max_rmse_ratio,
        "objective": objective,
    }
    given = {key: value for key, value in given.items() if value is not None}
    limits = validate(ConstraintsSpec, given, Path("command line"))
    with open_store(results, store) as opened:
        loaded = show.load(opened, session)
    loaded = loaded.chosen(show.constraints_of(limits) if given else None, device=device)
    if json_:
        emit_json(loaded.recommendation_dicts())
    else:
        show.recommendations(loaded)
    if not all(item.qualifies for item in loaded.recommendations):
        raise typer.Exit(EXIT_UNMET)
