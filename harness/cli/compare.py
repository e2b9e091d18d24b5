"""`harness compare`: faster, slower, equivalent or inconclusive; between variants, devices or sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import (
    DEFAULT_RESULTS,
    JsonOption,
    ResultsOption,
    StoreOption,
    emit_json,
    guarded,
    open_store,
    screen,
)

if TYPE_CHECKING:
    from harness.compare import ComparisonTable
    from harness.errors import SpecError
    from harness.records import SessionData
    from harness.store import Store


@guarded
def compare(
    first: Annotated[
        str | None,
        typer.Argument(metavar="[A]", help="Session (id, unique beginning, name or 'latest') or variant of --session."),
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="[B]", help="What A is held against: another session, or another variant.")
    ] = None,
    session: Annotated[str, typer.Option("--session", help="Where variants and --devices are looked for.")] = "latest",
    device: Annotated[str | None, typer.Option("--device", "-d", help="Compare variants on this device only.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Variant to compare the others with (default: the fp32 one).")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Compare only these variants; may be repeated.")
    ] = None,
    devices: Annotated[
        tuple[str, str] | None, typer.Option("--devices", help="Compare two devices of the session: A with B.")
    ] = None,
    across_machines: Annotated[
        bool, typer.Option("--across-machines", help="Compare sessions although their machines are of different kinds.")
    ] = False,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Tell what is faster, by runs, paired as finely as they were made, and how sure that is.

    `compare`: every variant of the latest session against its fp32 one. `compare SESSION`: of that session.
    `compare A B`: session A against session B, or variant A against variant B on every device of --session.
    `compare --devices A B`: device A against device B.
    """
    from harness.compare import comparison_to_dict
    from harness.errors import SpecError

    if json_ and markdown:
        raise SpecError("--json and --markdown exclude each other", remedy="give one of them")
    with open_store(results, store) as opened:
        chosen = [option for option in (device, reference, variant, devices) if option]
        if first is not None and second is not None:
            tables = _two(opened, first, second, session, device, chosen, across_machines=across_machines)
        else:
            data = opened.load(opened.resolve(first or session))
            tables = _devices(data, devices) if devices else _variants(data, device, reference, variant)
    if json_:
        emit_json([comparison_to_dict(table) for table in tables])
        return
    from harness.report.comparison import comparison_markdown, render_comparison

    width, color = screen()
    texts = [
        comparison_markdown(table) if markdown else render_comparison(table, width=width, color=color)
        for table in tables
    ]
    typer.echo("\n".join(texts), nl=False)


def _two(
    store: Store,
    first: str,
    second: str,
    session: str,
    device: str | None,
    options: Sequence[object],
    *,
    across_machines: bool,
) -> list[ComparisonTable]:
    """Two sessions or two variants, whichever both names are."""
    from harness.compare import compare_pair, compare_sessions
    from harness.errors import SpecError

    if first == second:
        raise SpecError(f"{first!r} is compared with itself", remedy="give two sessions, or two variants of one")
    inside = store.load(store.resolve(session))
    names = {item.name for item in inside.variants}
    sessions = [_session_of(store, text) for text in (first, second)]
    ids = [found for found in sessions if isinstance(found, str)]
    variants = [text in names for text in (first, second)]
    if all(variants) and len(ids) == 2:  # noqa: PLR2004 - both names
        raise SpecError(
            f"{first!r} and {second!r} are sessions and also variants of session {inside.session.id}",
            remedy=f"give the sessions' full ids ({', '.join(ids)}), or another --session for the variants",
        )
    if all(variants):
        if list(options) not in ([], [device]):
            raise SpecError("two variants are given already", remedy="leave out --reference, --variant and --devices")
        return [compare_pair(inside, first, second, None if device is None else [device])]
    if len(ids) == 2:  # noqa: PLR2004
        if options:
            raise SpecError(
                "two sessions are compared as a whole",
                remedy="leave out --device, --devices, --variant and --reference",
            )
        one, two = (store.load(identity) for identity in ids)
        return [compare_sessions(one, two, across_machines=across_machines)]
    raise _mismatch((first, second), sessions, variants, inside)


def _session_of(store: Store, text: str) -> str | SpecError:
    """The id of the session meant, or why there is none."""
    from harness.errors import SpecError

    try:
        return store.resolve(text)
    except SpecError as error:
        return error


def _mismatch(
    texts: tuple[str, str], sessions: list[str | SpecError], variants: list[bool], inside: SessionData
) -> SpecError:
    """The error for two names that are neither two sessions nor two variants."""
    import difflib

    from harness.errors import SpecError

    kinds = [
        "a variant" if variant else "a session" if isinstance(found, str) else None
        for variant, found in zip(variants, sessions, strict=True)
    ]
    if None not in kinds:
        return SpecError(
            f"{texts[0]!r} is {kinds[0]} and {texts[1]!r} is {kinds[1]}",
            remedy="give two sessions, or two variants of one session (--session says which)",
        )
    text, found = next((text, found) for text, found, kind in zip(texts, sessions, kinds, strict=True) if kind is None)
    names = [item.name for item in inside.variants]
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.5) or [name for name in names if text in name][:3]
    if near:
        remedy = f"did you mean the variant {', '.join(repr(name) for name in near)}?"
    elif isinstance(found, SpecError) and found.remedy:
        remedy = f"{found.remedy}; the variants are {', '.join(names)}"
    else:
        remedy = f"the variants are {', '.join(names)}"
    why = found.message if isinstance(found, SpecError) else f"{text!r} is unknown"
    return SpecError(f"{why}, and no variant of that name in session {inside.session.id}", remedy=remedy)


def _devices(data: SessionData, devices: tuple[str, str]) -> list[ComparisonTable]:
    from harness.compare import compare_devices

    return [compare_devices(data, *devices)]


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
