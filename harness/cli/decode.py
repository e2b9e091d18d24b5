"""`harness decode`: the Keras model that a variant's entropy-coded weights stand for, as a file again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import EXIT_DEVICE, EXIT_INTERRUPTED, JsonOption, emit_json, guarded, say


@guarded
def decode(
    source: Annotated[
        Path, typer.Argument(help="Folder of a variant that the step entropy was part of, or a file weights.huf.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .keras file to write; one that is there is replaced.")],
    architecture: Annotated[
        Path | None, typer.Option(help="The architecture.json, where it does not lie beside the weights.")
    ] = None,
    limit: Annotated[
        str, typer.Option(help="Refuse weights that unfold to more, e.g. 4GiB: few bytes can name very many.")
    ] = "1GiB",
    json_: JsonOption = False,
) -> None:
    """Make the .keras model of an entropy-coded variant again, bit for bit; nothing in the files is run."""
    from converters.decoding import decode as decoded
    from converters.decoding import find_coded
    from converters.errors import ToolError
    from harness.units import parse_size_bytes

    try:
        limit_bytes = parse_size_bytes(limit)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--limit") from None
    try:
        report = decoded(find_coded(source, architecture), out, limit_bytes=limit_bytes)
    except ToolError as error:
        say(f"error: {error}")
        raise typer.Exit(EXIT_DEVICE) from None
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if json_:
        emit_json(dataclasses.asdict(report))
        return
    from harness.report.conversion import decode_words

    typer.echo(decode_words(dataclasses.asdict(report)))
