"""`harness bench`: measure artifacts made elsewhere, with no experiment file and no data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, JsonOption, ResultsOption, StoreOption, guarded
from harness.cli.scenario_options import (
    BatchOption,
    DriverOption,
    DurationOption,
    ScenarioOption,
    StreamsOption,
    scenario_changes,
)
from harness.cli.stopping_options import BudgetOption, StopOnOption, stopping_changes


@guarded
def bench(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Files (.tflite, .onnx, .xml), variant folders, or folders of these.")
    ],
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-d", help="Profile name, .yaml file or ssh://[user@]host[:port]; may be repeated."),
    ] = None,
    preset: Annotated[str, typer.Option(help="quick, standard, headline or certified.")] = "quick",
    runs: Annotated[
        int | None, typer.Option(min=1, help="Latency runs (fresh processes), instead of the preset's.")
    ] = None,
    run_s: Annotated[
        float | None, typer.Option("--run-s", min=0.001, help="Measured seconds per variant and run.")
    ] = None,
    probes: Annotated[int | None, typer.Option(min=1, help="Fresh processes for cold start and memory.")] = None,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of the engines.")] = 1,
    precision: Annotated[str, typer.Option(help="f32 (never lowered in silence) or auto.")] = "f32",
    energy: Annotated[
        bool, typer.Option("--energy", help="Measure energy too, on devices with a power meter (minutes per variant).")
    ] = False,
    budget: BudgetOption = None,
    stop_on: StopOnOption = None,
    scenario: ScenarioOption = None,
    batch: BatchOption = None,
    streams: StreamsOption = None,
    duration: DurationOption = None,
    driver: DriverOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random input and of the order.")] = 0,
    resume: Annotated[
        str | None, typer.Option(help="Go on with a session that ended early: its id or 'latest'. Nothing is repeated.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure latency (or throughput, or what heat leaves of them), load time and memory of artifacts made elsewhere, on random input of the right shapes and types."""
    from harness.cli.artifacts import collect, record
    from harness.cli.session import Measurement, finish, measure
    from harness.experiment import resolve_devices
    from harness.experiment_parts import ProtocolSpec
    from harness.yamlfile import validate

    changes = {"preset": preset, "runs": runs, "max_runs": runs, "run_s": run_s, "probes": probes}
    changes["energy"] = energy or None
    changes |= scenario_changes(scenario, batch, streams, duration, driver) | stopping_changes(budget, stop_on)
    protocol = validate(ProtocolSpec, {k: v for k, v in changes.items() if v is not None}, Path("command line"))
    if precision not in {"f32", "auto"}:
        raise typer.BadParameter("give f32 or auto", param_hint="--precision")
    devices = resolve_devices(list(device or ["local"]), Path("command line"))
    variants = collect(artifacts)
    loaded = measure(
        Measurement(
            name="bench",
            records=[record(variant) for variant in variants],
            variants={variant.name: variant for variant in variants},
            devices=devices,
            protocol=protocol.build(),
            threads=threads,
            precision=precision,
            seed=seed,
            resume=resume,
        ),
        results=results,
        store_url=store,
        quiet=json_,
    )
    raise typer.Exit(finish(loaded, results, as_json=json_, constraints=None))
