"""`harness run`: an experiment file from base model to reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from converters.dataset import Dataset
    from converters.recipe import Recipe
    from harness.cli.show import LoadedSession
    from harness.experiment import LoadedExperiment
    from harness.records import VariantRecord


@guarded
def run(
    experiment: Annotated[Path, typer.Argument(help="The experiment, a YAML file (docs/getting-started).")],
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="Measure on these devices instead; may be repeated.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Another preset: quick, standard, headline or certified.")] = None,
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
    out: Annotated[Path | None, typer.Option(help="Where variants go (default RESULTS/variants/NAME).")] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse conversions by content.")] = True,
    resume: Annotated[
        str | None, typer.Option(help="Go on with a session that ended early: its id or 'latest'. Nothing is repeated.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Convert, measure, and tell what to deploy: one experiment file from the base model to the reports."""
    from harness.experiment import load_experiment

    loaded = load_experiment(experiment)
    changes = scenario_changes(scenario, batch, streams, duration, driver) | stopping_changes(budget, stop_on)
    changes |= {"energy": True} if energy else {}
    raise typer.Exit(
        run_experiment(
            changed(loaded, device, preset, changes),
            results=results,
            store_url=store,
            out=out,
            use_cache=cache,
            as_json=json_,
            resume=resume,
        )
    )


def changed(
    loaded: LoadedExperiment,
    device: list[str] | None,
    preset: str | None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> LoadedExperiment:
    """The experiment with what the command line says instead; `changes`: keys of the protocol."""
    import dataclasses

    from harness.experiment import resolve_devices
    from harness.experiment_parts import ProtocolSpec
    from harness.yamlfile import validate

    if device:
        loaded = dataclasses.replace(loaded, devices=resolve_devices(list(device), Path("command line")))
    if preset is not None or changes:
        given = loaded.experiment.protocol.model_dump(exclude_unset=True) if preset is None else {"preset": preset}
        protocol = validate(ProtocolSpec, given | dict(changes), Path("command line"))
        loaded = dataclasses.replace(loaded, experiment=loaded.experiment.model_copy(update={"protocol": protocol}))
    return loaded


def run_experiment(
    loaded: LoadedExperiment,
    *,
    results: Path,
    store_url: str | None,
    out: Path | None,
    use_cache: bool,
    as_json: bool,
    resume: str | None = None,
) -> int:
    """Carry out an experiment, or the rest of one; the exit code."""
    from harness.cli.session import finish
    from harness.cli.show import constraints_of

    measured = measure_experiment(
        loaded, results=results, store_url=store_url, out=out, use_cache=use_cache, quiet=as_json, resume=resume
    )
    return finish(measured, results, as_json=as_json, constraints=constraints_of(loaded.experiment.constraints))


def measure_experiment(
    loaded: LoadedExperiment,
    *,
    results: Path,
    store_url: str | None,
    out: Path | None,
    use_cache: bool,
    quiet: bool,
    resume: str | None = None,
) -> LoadedSession:
    """Convert and measure; the session as the store then has it."""
    import dataclasses

    from harness.cli.artifacts import base_inputs, collect, record
    from harness.cli.conversion import read_data, read_recipes
    from harness.cli.session import Measurement, measure
    from harness.session.reference import reference_of

    spec = loaded.experiment
    dataset = None
    recipes = [] if spec.base is None else read_recipes(spec.recipes)
    if spec.data is not None:
        dataset = read_data(
            spec.data,
            loaded.resolve(spec.data.path),
            seed=spec.seed,
            training=any(recipe.steps for recipe in recipes),
            training_limit=loaded.training_limit,
        )
    folders: list[Path] = []
    records: list[VariantRecord] = []
    base_outputs = None
    if spec.base is not None:
        folders, records, base_outputs = _converted(
            loaded, recipes, dataset, out or results / "variants" / spec.name, use_cache=use_cache, quiet=quiet
        )
    if dataset is not None:
        dataset = dataclasses.replace(dataset, training=None)  # nobody trains any more
    variants = collect([*folders, *(loaded.resolve(path) for path in spec.artifacts)])
    inputs = base_inputs(variants)
    if dataset is not None and inputs:
        dataset = dataset.matched_to(inputs)
    return measure(
        Measurement(
            name=spec.name,
            records=[*(record(variant) for variant in variants), *records],
            variants={variant.name: variant for variant in variants},
            devices=loaded.devices,
            protocol=spec.protocol.build(),
            threads=spec.threads,
            precision=spec.precision,
            options=spec.engine_options,
            seed=spec.seed,
            inputs=None if dataset is None else dataset.inputs,
            reference=None if dataset is None else reference_of(dataset, base_outputs),
            experiment=spec.model_dump(mode="json"),
            resume=resume,
        ),
        results=results,
        store_url=store_url,
        quiet=quiet,
    )


def _converted(
    loaded: LoadedExperiment,
    recipes: list[Recipe],
    dataset: Dataset | None,
    out: Path,
    *,
    use_cache: bool,
    quiet: bool,
) -> tuple[list[Path], list[VariantRecord], NDArray[np.float32] | None]:
    """Folders of the variants made, records of those that were not, the base's outputs. Raises when there are none."""
    from harness.cli import conversion
    from harness.cli.artifacts import unmade
    from harness.errors import ConversionError
    from harness.session.reference import base_outputs_of

    spec = loaded.experiment
    assert spec.base is not None  # noqa: S101 - the caller has looked
    report = conversion.convert_base(
        loaded.resolve(spec.base),
        recipes,
        out,
        dataset=dataset,
        limits=conversion.ConversionLimits(
            jobs=spec.conversion.jobs,
            timeout_s=spec.conversion.timeout_s,
            memory_limit_bytes=spec.conversion.memory_limit,
            use_cache=use_cache,
            train_timeout_s=spec.training.timeout,
            training_function=loaded.training_function(),
            precision_policy=spec.training.precision_policy,
            folder=loaded.folder,
        ),
        seed=spec.seed,
        name=spec.base_name,
        quiet=quiet,
    )
    folders = [row.folder for row in report.rows if row.status == "ok" and row.folder is not None]
    if not folders and not spec.artifacts:
        first = next((row for row in report.rows if row.status == "failed"), report.rows[0])
        raise ConversionError(
            f"none of {len(report.rows)} recipes could be made: {first.variant}: {first.message}",
            remedy=first.remedy,
        )
    records = [unmade(row, report.base_name) for row in report.rows if row.status != "ok"]
    return folders, records, base_outputs_of(report.reference)
