"""`harness networks`: the compact networks there are; or one of them as a base model, untrained or trained on the user's data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import EXIT_DEVICE, EXIT_INTERRUPTED, JsonOption, emit_json, guarded, say, screen

if TYPE_CHECKING:
    from converters.dataset import Dataset

_SHAPE = 3


@guarded
def networks(
    name: Annotated[str | None, typer.Argument(help="Network to make; without it, all are listed.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The .keras file to write.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="HEIGHTxWIDTHxCHANNELS of the images (default: as in the data).")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes (default: as in the data).")] = None,
    width: Annotated[float, typer.Option(help="Multiplies the channels, above 0, at most 4.")] = 1.0,
    resolution: Annotated[
        float, typer.Option(help="Multiplies the sides of the images: the network's first layers resize them.")
    ] = 1.0,
    data: Annotated[Path | None, typer.Option(help="Labelled data to train on, .npz or a folder of images.")] = None,
    epochs: Annotated[int | None, typer.Option(min=0, help="Epochs of training (default with --data: 10).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The first one; it falls to zero. Default 0.003.")] = None,
    scale: Annotated[float, typer.Option(help="Preprocessing: data is multiplied by this, e.g. 0.00392157.")] = 1.0,
    training_limit: Annotated[int | None, typer.Option(min=2, help="Train on only that many rows.")] = None,
    train_timeout: Annotated[str, typer.Option(help="Time limit of the training, e.g. 90s or 2h.")] = "1h",
    precision_policy: Annotated[
        str | None, typer.Option(help="Keras's dtype policy while training, e.g. mixed_bfloat16.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first weights and of the order of rows.")] = 0,
    json_: JsonOption = False,
) -> None:
    """List the compact networks; or build one, and train it, as a base model for `harness run` and `convert`."""
    if name is None:
        _list(json_=json_)
        return
    from converters.errors import ToolError
    from converters.networks.making import NetworkRequest, make_network
    from harness.errors import SpecError
    from harness.experiment import TrainingSpec
    from harness.yamlfile import validate

    if out is None:
        raise SpecError("where to write the network is not said", remedy="give --out model.keras")
    options = {"timeout": train_timeout, "precision_policy": precision_policy, "limit": training_limit}
    training = validate(TrainingSpec, options, Path("command line"))
    dataset = None if data is None else _data(data, scale, seed, training.limit)
    request = NetworkRequest(
        name=name,
        out=out,
        input_shape=None if input_ is None else _shape(input_),
        classes=classes,
        width=width,
        resolution=resolution,
        dataset=dataset,
        epochs=epochs if epochs is not None else 0 if dataset is None else 10,
        learning_rate=learning_rate,
        precision_policy=training.precision_policy,
        seed=seed,
        timeout_s=training.timeout,
    )
    try:
        report = make_network(request, say if not json_ else _quiet)
    except ToolError as error:
        say(f"error: {error}")
        raise typer.Exit(EXIT_DEVICE) from None
    except KeyboardInterrupt:
        say("interrupted; the same command goes on after the last whole epoch")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    _show(dataclasses.asdict(report), json_=json_)


def _list(*, json_: bool) -> None:
    from converters.networks.catalogue import NETWORKS
    from harness.report.networks import render_networks

    rows = [
        {
            "network": item.name,
            "summary": item.summary,
            "paper": item.paper,
            "parameters": item.parameters,
            "published_parameters_millions": item.published_millions,
        }
        for item in NETWORKS.values()
    ]
    if json_:
        emit_json(rows)
        return
    columns, color = screen()
    typer.echo(render_networks(rows, width=columns, color=color), nl=False)


def _show(report: dict[str, Any], *, json_: bool) -> None:
    if json_:
        emit_json(report)
        return
    from harness.report.networks import network_words

    typer.echo(network_words(report))


def _quiet(_text: str) -> None:
    """With --json nobody reads along."""


def _data(path: Path, scale: float, seed: int, limit: int | None) -> Dataset:
    from harness.cli.conversion import read_data
    from harness.experiment import DataSpec
    from harness.yamlfile import validate

    spec = validate(DataSpec, {"path": str(path), "preprocessing": {"scale": scale}}, Path("command line"))
    return read_data(spec, path, seed=seed, training=True, training_limit=limit)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) != _SHAPE or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter("write it like 28x28x1", param_hint="--input")
    return tuple(int(part) for part in parts)
