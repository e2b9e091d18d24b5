"""The options that choose a scenario, the same in `harness bench` and `harness run`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

ScenarioOption = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        help="single-stream (latency, the default), offline (throughput) or sustained (minutes without a pause).",
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="Offline: rows of an inference; an artifact of fixed batch keeps its own."),
]
StreamsOption = Annotated[
    int | None, typer.Option("--streams", min=1, help="Offline: inferences at once, each with --threads threads.")
]
DurationOption = Annotated[
    str | None, typer.Option("--duration", help="Sustained: how long per variant, e.g. 10m (the default) or 90s.")
]
DriverOption = Annotated[
    str | None,
    typer.Option(
        "--driver",
        help="harness (the default), or loadgen: official runs of MLPerf's load generator beside ours, where it is "
        "installed on the device (extra 'loadgen').",
    ),
]


def scenario_changes(
    scenario: str | None, batch: int | None, streams: int | None, duration: str | None, driver: str | None
) -> dict[str, Any]:
    """What these options change in the protocol, by the names of its keys; nothing for those not given."""
    given = {"scenario": scenario, "batch": batch, "streams": streams, "duration_s": duration, "driver": driver}
    return {name: value for name, value in given.items() if value is not None}
