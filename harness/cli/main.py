"""The `harness` command: wires the commands together. Each command imports what it needs when it runs."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from harness import __version__
from harness.cli import (
    bench,
    bundle,
    choose,
    compare,
    convert,
    decode,
    demo,
    devices,
    doctor,
    explain,
    networks,
    recipes,
    report,
    run,
    search,
    table,
    transfer,
)

_COLLECT = (50_000, 20, 20)

app = typer.Typer(
    name="harness",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a model to TFLite, ONNX and OpenVINO, measure every variant on your own devices, choose what to deploy.",
    epilog="Exit codes: 0 done; 1 a limit is not met; 2 your input is wrong; 3 a device failed; 4 done, but some rows failed.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ondevice-harness {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


app.command("demo")(demo.demo)
app.command("convert")(convert.convert)
app.command("decode")(decode.decode)
app.command("recipes")(recipes.recipes)
app.command("networks")(networks.networks)
app.command("run")(run.run)
app.command("search")(search.search)
app.command("bench")(bench.bench)
app.command("table")(table.table)
app.command("report")(report.report)
app.command("choose")(choose.choose)
app.command("compare")(compare.compare)
app.command("explain")(explain.explain)
app.command("export")(transfer.export)
app.command("import")(transfer.import_)
app.add_typer(devices.app, name="devices")
app.command("doctor")(doctor.doctor)
app.add_typer(bundle.app, name="bundle")


def main() -> None:
    """Entry point of the console script."""
    # Modules and records live to the end of a command. Looking for garbage among them again and again finds none.
    gc.set_threshold(*_COLLECT)
    app()


if __name__ == "__main__":
    main()
