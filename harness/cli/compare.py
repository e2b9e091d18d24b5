"""`harness compare`: faster, slower, equivalent or inconclusive; between variants, devices or sessions."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    JsonOption,
    ResultsOption,
    SessionArgument,
    StoreOption,
    emit_json,
    guarded,
    open_store,
)

if TYPE_CHECKING:
    from harness.compare import ComparisonTable
    from harness.records import SessionData


@guarded
def compare(
    session: SessionArgument = "latest",
    older: Annotated[
        str | None, typer.Argument(help="Another session, to hold the first against: same variants, same devices.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Compare variants on this device.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Variant to compare the others with (default: the fp32 one).")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Compare only these variants; may be repeated.")
    ] = None,
    devices: Annotated[
        tuple[str, str] | None, typer.Option("--devices", help="Compare two devices of the session: A with B.")
    ] = None,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Tell what is faster: variants of a session (the default), two devices of it, or two sessions; by runs, paired."""
    from harness.compare import compare_devices, compare_sessions, comparison_to_dict
    from harness.errors import SpecError

    if older is not None and (devices or device or reference or variant):
        raise SpecError(
            "two sessions are compared as a whole", remedy="leave out --device, --devices, --variant and --reference"
        )
    with open_store(results, store) as opened:
        data = opened.load(opened.resolve(session))
        other = None if older is None else opened.load(opened.resolve(older))
    if other is not None:
        tables = [compare_sessions(data, other)]
    elif devices is not None:
        tables = [compare_devices(data, *devices)]
    else:
        tables = _variants(data, device, reference, variant)
    if json_:
        emit_json([comparison_to_dict(table) for table in tables])
        return
    from harness.report.comparison import render_comparison

    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    typer.echo("\n".join(render_comparison(table, width=width, color=terminal) for table in tables), nl=False)


def _variants(
    data: SessionData, device: str | None, reference: str | None, variants: list[str] | None
) -> list[ComparisonTable]:
    """One table per device, its variants against the reference."""
    from harness.compare import compare_variants
    from harness.errors import SpecError
    from harness.row import OK

    made = [item for item in data.variants if item.status == OK]
    if reference is None:
        plain = next((item for item in made if item.recipe == "fp32"), made[0] if made else None)
        if plain is None:
            raise SpecError(f"session {data.session.id} has no variant that could be measured")
        reference = plain.name
    names = [device] if device is not None else [item.name for item in data.devices]
    return [compare_variants(data, name, reference, variants) for name in names]
