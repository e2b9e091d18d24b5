"""`harness explain`: which operators make a variant slower (or faster) than its base, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from converters.variant import Variant
    from harness.profiles import DeviceProfile
    from harness.records import Run, SessionData, VariantRecord
    from harness.store import Store

_METHODS = ("auto", "profiler", "ablation")
_SUFFIXES = (".tflite", ".onnx", ".xml")


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for."""

    variant: str
    against: str | None
    device: str | None
    artifacts: tuple[Path, ...]
    runs: int
    threads: int | None
    method: str
    again: bool
    quiet: bool


@guarded
def explain(
    variant: Annotated[
        str, typer.Argument(help="A variant of a session, or an artifact: .tflite, .onnx, .xml or a variant folder.")
    ],
    against: Annotated[
        str | None, typer.Option(help="What to hold it against (default: the fp32 variant of its format).")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Device (default: the session's only one, or 'local').")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            help="Session: its id, a unique beginning of it, or 'latest' (the default, unless VARIANT is a file)."
        ),
    ] = None,
    artifacts: Annotated[
        list[Path] | None,
        typer.Option("--artifacts", help="Where the session's variants are now, if not where they were; repeatable."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Profile runs (fresh processes) of each.")] = 2,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads of the engine (default: the session's, or 1).")
    ] = None,
    method: Annotated[str, typer.Option(help="auto, profiler, or ablation (LiteRT only).")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Profile anew, although the session has profiles.")] = False,
    results: ResultsOption = DEFAULT_RESULTS,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Say why a variant is slower or faster than its base: the operators to blame, their share, and what to do instead."""
    from harness.errors import SpecError

    if method not in _METHODS:
        raise SpecError(f"there is no method {method!r}", remedy=f"give one of {', '.join(_METHODS)}")
    wish = _Wish(variant, against, device, tuple(artifacts or ()), runs, threads, method, again, json_)
    path = Path(variant)
    none_yet = store is None and not (results / "harness.sqlite").is_file()
    if session is None and (path.exists() or (none_yet and path.suffix in _SUFFIXES)):
        found = _artifacts(wish)
    else:
        with open_store(results, store) as opened:
            found = _session(wish, opened, session or "latest")
    _show(*found, as_json=json_)


def _show(variant: str, base: str | None, device: str, format_: str, runs: Sequence[Run], *, as_json: bool) -> None:
    from harness.agent.protocol import ENGINE_OF_FORMAT
    from harness.explain import explain as explained
    from harness.explain import explanation_to_dict, profiles_in

    mine = profiles_in(runs, variant, device)
    its = [] if base is None else profiles_in(runs, base, device)
    explanation = explained(mine, its, device=device, engine=ENGINE_OF_FORMAT[format_], format_=format_)
    if as_json:
        emit_json(explanation_to_dict(explanation))
        return
    from harness.report.explain import render_explanation

    width, color = screen()
    typer.echo(render_explanation(explanation, width=width, color=color), nl=False)


def _artifacts(wish: _Wish) -> tuple[str, str | None, str, str, Sequence[Run]]:
    """Explain files as they are: profiled now, on the device asked for; nothing is stored."""
    from harness.cli.artifacts import collect
    from harness.errors import SpecError
    from harness.experiment import resolve_devices
    from harness.runner import new_session_id

    variants = collect([Path(text) for text in (wish.variant, wish.against) if text is not None])
    if len(variants) != (1 if wish.against is None else 2):
        raise SpecError(f"{wish.variant}: several variants lie there", remedy="name one variant folder or file")
    mine, base = variants[0], variants[1] if len(variants) > 1 else None
    if base is not None:
        _same_format(mine.manifest.format, base.manifest.format, mine.name, base.name)
    (profile,) = resolve_devices([wish.device or "local"], Path("command line"))
    runs: list[Run] = []
    session_id = new_session_id("explain")
    _profile(wish, variants, profile, runs.append, session_id=session_id)
    _check(runs, [variant.name for variant in variants])
    return mine.name, None if base is None else base.name, profile.name, mine.manifest.format, runs


def _session(wish: _Wish, store: Store, session: str) -> tuple[str, str | None, str, str, Sequence[Run]]:
    """Explain a variant of a stored session; profiles that it lacks are made now and added to it."""
    from harness.explain import profiles_in

    data = store.load(store.resolve(session))
    mine = _record(data, wish.variant)
    base = _base(data, mine, wish.against)
    device = _device(data, wish.device)
    names = [mine.name] + ([base.name] if base is not None else [])
    runs = list(data.runs)
    if wish.again or any(not profiles_in(runs, name, device) for name in names):
        runs = [run for run in runs if not run.profiles]
        variants = [_found(data, record, wish.artifacts) for record in (mine, base) if record is not None]
        last = max((int(n) for n in (run.id.rpartition(".")[2] for run in data.runs) if n.isdigit()), default=0)

        def keep(run: Run) -> None:
            store.add_run(run)
            runs.append(run)

        environment = data.session.environment
        wish = replace(wish, threads=wish.threads or int(environment.get("threads", 1)))
        _profile(
            wish,
            variants,
            _device_profile(data, device),
            keep,
            session_id=data.session.id,
            first_number=last + 1,
            precision=str(environment.get("precision", "f32")),
            options=dict(data.session.experiment.get("engine_options", {})),
        )
        _check([run for run in runs if run.kind == "profile"], names)
    return mine.name, None if base is None else base.name, device, mine.format, runs


def _profile(wish: _Wish, variants: Sequence[Variant], device: DeviceProfile, keep: Any, **more: Any) -> None:
    from harness.cli.progress import measurement_progress
    from harness.session.profiling import ProfileSpec, run_profiles

    options = {**more.pop("options", {}), "profile": wish.method}
    spec = ProfileSpec(
        variants=variants, device=device, threads=wish.threads or 1, repetitions=wish.runs, options=options, **more
    )
    with measurement_progress(quiet=wish.quiet) as on_event:
        run_profiles(spec, keep, on_event)


def _check(runs: Sequence[Run], names: Sequence[str]) -> None:
    """Raise MeasurementError, with the agent's words and remedy, when one of the variants has no profile."""
    from harness.errors import MeasurementError

    for name in names:
        if any(profile.variant == name for run in runs for profile in run.profiles):
            continue
        failures = [run.failed_variants.get(name) for run in runs if name in run.failed_variants]
        failure = failures[-1] if failures else next((run.failure for run in reversed(runs) if run.failure), None)
        words = "the run ended without one" if failure is None else f"{failure.name}: {failure.message}"
        remedy = None if failure is None else failure.remedy
        raise MeasurementError(f"{name} could not be profiled: {words}", remedy=remedy)


def _same_format(mine: str, base: str, name: str, base_name: str) -> None:
    from harness.errors import SpecError

    if mine != base:
        raise SpecError(
            f"{name} is {mine} and {base_name} {base}: different engines have different operators",
            remedy="hold it against a variant of the same format; `harness compare` compares latencies of any two",
        )


def _record(data: SessionData, name: str) -> VariantRecord:
    """The variant of that name. Raises SpecError with suggestions."""
    import difflib

    from harness.errors import SpecError

    found = next((item for item in data.variants if item.name == name), None)
    names = [item.name for item in data.variants]
    if found is None:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        remedy = f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(names)}"
        raise SpecError(f"session {data.session.id} has no variant {name!r}, and there is no such file", remedy=remedy)
    if found.status != "ok":
        words = "" if found.failure is None else f": {found.failure.message}"
        raise SpecError(f"{name} was never made{words}", remedy="there is nothing to profile")
    return found


def _base(data: SessionData, mine: VariantRecord, against: str | None) -> VariantRecord | None:
    """What to hold it against: the variant named, else the session's fp32 variant of its format and base."""
    from harness.errors import SpecError

    if against is not None:
        base = _record(data, against)
        _same_format(mine.format, base.format, mine.name, base.name)
        return base
    alike = [item for item in data.variants if item.format == mine.format and item.status == "ok"]
    plain = [item for item in alike if item.recipe == "fp32" and item.base == mine.base]
    if not plain:
        others = [item.name for item in alike if item.name != mine.name]
        raise SpecError(
            f"session {data.session.id} has no fp32 variant in {mine.format} to hold {mine.name} against",
            remedy=f"name one: --against {others[0]}" if others else "measure one with it, or give two files",
        )
    return None if plain[0].name == mine.name else plain[0]


def _device(data: SessionData, name: str | None) -> str:
    from harness.errors import SpecError

    names = [item.name for item in data.devices]
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        words = "several devices" if name is None else f"no device {name!r}"
        raise SpecError(f"session {data.session.id} has {words}", remedy=f"give --device, one of: {', '.join(names)}")
    return str(name)


def _device_profile(data: SessionData, device: str) -> DeviceProfile:
    """The profile that the session's device had: from its experiment where it was given there, else by its name."""
    from harness.experiment import resolve_devices

    entries = data.session.experiment.get("devices", [])
    given: list[str | dict[str, Any]] = [i for i in entries if isinstance(i, dict) and i.get("name") == device]
    (profile,) = resolve_devices(given[:1] or [device], Path("the session's devices"))
    return profile


def _found(data: SessionData, record: VariantRecord, folders: Sequence[Path]) -> Variant:
    """The variant's files: where they were or where the user says, and still the same. Raises SpecError."""
    from converters.variant import sha256_file
    from harness.cli.artifacts import collect
    from harness.errors import SpecError

    places = [*folders]
    if record.folder is not None and Path(record.folder).is_dir():
        manifest = Path(record.folder) / "variant.json"
        artifact = Path(record.folder) / str(record.manifest.get("artifact"))
        places += [manifest.parent] if manifest.is_file() else [artifact] if artifact.is_file() else []
    for variant in collect(places) if places else []:
        if sha256_file(variant.artifact) == record.artifact_sha256:
            return replace(variant, manifest=replace(variant.manifest, name=record.name))
    where = f"they lay in {record.folder}" if record.folder else "the session does not say where they lay"
    raise SpecError(
        f"the files of {record.name} in session {data.session.id} are gone or changed: {where}",
        remedy="say where they are now: --artifacts FOLDER",
    )
