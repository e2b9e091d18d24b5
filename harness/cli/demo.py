"""`harness demo`: the main job on the model and images that ship with the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, JsonOption, ResultsOption, StoreOption, guarded, say
from harness.cli.stopping_options import BudgetOption, stopping_changes


@guarded
def demo(
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="Measure on these devices instead of this host.")
    ] = None,
    budget: BudgetOption = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse conversions by content.")] = True,
    json_: JsonOption = False,
) -> None:
    """Convert a small trained image classifier to twenty variants in three formats, measure all of them here, choose one."""
    from importlib import resources

    from harness.cli.run import changed, run_experiment
    from harness.experiment import load_experiment

    assets = Path(str(resources.files("harness.demo")))
    loaded = load_experiment(assets / "experiment.yaml")
    if not json_:
        say("demo: Fashion-MNIST classifier → TFLite, ONNX, OpenVINO; about two minutes the first time, less after")
    raise typer.Exit(
        run_experiment(
            changed(loaded, device, None, stopping_changes(budget)),
            results=results,
            store_url=store,
            out=None,
            use_cache=cache,
            as_json=json_,
        )
    )
