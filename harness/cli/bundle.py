"""`harness bundle`: builds the runtime bundles that are pushed to devices without Python, and looks after them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import JsonOption, emit_json, guarded, say

if TYPE_CHECKING:
    from harness.devices.bundle.archive import Bundle

app = typer.Typer(
    no_args_is_help=True, help="Build and look after the runtime pushed to devices that have no Python of their own."
)

ArchOption = Annotated[str, typer.Option("--arch", help="Architecture: aarch64, armv7l or x86_64.")]
SourcesOption = Annotated[
    Path | None,
    typer.Option("--apt-sources", help="A sources.list to use instead of this host's apt sources.", exists=True),
]
NameArgument = Annotated[str, typer.Argument(help="A bundle's file, or the beginning of its digest.")]


@app.command("build")
@guarded
def build(
    arch: ArchOption = "aarch64",
    engines: Annotated[
        str | None,
        typer.Option("--engines", help="Engines, separated by commas; without it, all the architecture has."),
    ] = None,
    python_distribution: Annotated[
        Path | None,
        typer.Option(
            "--python-distribution", help="Folder or archive with a Python, instead of Debian's.", exists=True
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the bundle to this file.")] = None,
    lock: Annotated[Path | None, typer.Option("--lock", help="Lock file to build from.", exists=True)] = None,
    unlocked: Annotated[
        bool, typer.Option("--unlocked", help="Take the newest packages instead of the locked ones.")
    ] = False,
    apt_sources: SourcesOption = None,
    level: Annotated[int, typer.Option("--level", min=1, max=19, help="How hard to compress.")] = 19,
    json_: JsonOption = False,
) -> None:
    """Build a bundle from locked Debian packages and wheels; the same bytes every time."""
    from harness.devices.bundle.build import Order, build_bundle

    order = Order(
        arch=arch,
        engines=None if engines is None else tuple(name.strip() for name in engines.split(",") if name.strip()),
        distribution=python_distribution,
        lock=lock,
        unlocked=unlocked,
        sources=apt_sources,
        level=level,
    )
    bundle = build_bundle(order, out, tell=say)
    if json_:
        emit_json(_facts(bundle))
    else:
        typer.echo(_line(bundle))
        typer.echo(str(bundle.path))


@app.command("lock")
@guarded
def lock(
    arch: ArchOption = "aarch64",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; without it, the one in your configuration that builds use."),
    ] = None,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", help="WHEEL==VERSION instead of the newest; may be repeated.")
    ] = None,
    python_version: Annotated[
        str | None, typer.Option("--python-version", help="Python of the wheels, for a given distribution, e.g. 3.12.")
    ] = None,
    apt_sources: SourcesOption = None,
) -> None:
    """Lock today's versions of all packages of an architecture, with their sha256."""
    from harness.devices.bundle.lock import encode_lock
    from harness.devices.bundle.places import user_locks_folder
    from harness.devices.bundle.relock import make_lock
    from harness.devices.bundle.spec import arch_of
    from harness.errors import SpecError

    wanted = arch_of(arch)
    pins = {}
    for word in pin or []:
        name, equals, version = word.partition("==")
        if not equals or not version:
            raise SpecError(f"--pin {word!r} is not of the form WHEEL==VERSION")
        pins[name.strip().lower().replace("_", "-")] = version.strip()
    made = make_lock(wanted, sources=apt_sources, pins=pins, python=python_version)
    path = out or user_locks_folder() / f"{wanted.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(encode_lock(made), encoding="utf-8")
    for package in made.packages:
        typer.echo(f"{package.name:24} {package.version}")
    typer.echo(str(path))


@app.command("list")
@guarded
def list_(json_: JsonOption = False) -> None:
    """List the bundles built here, the last built first."""
    from harness.devices.bundle.store import all_bundles

    bundles = all_bundles()
    if json_:
        emit_json([_facts(bundle) for bundle in bundles])
        return
    for bundle in bundles:
        typer.echo(_line(bundle))
    if not bundles:
        say("no bundle is built yet: harness bundle build --arch aarch64")


@app.command("show")
@guarded
def show(name: NameArgument, json_: JsonOption = False) -> None:
    """Show what is in a bundle: packages with versions, sha256 and licences, and where their licence files are."""
    from harness.devices.bundle.store import find

    bundle = find(name)
    if json_:
        emit_json(_facts(bundle) | {"packages": bundle.manifest["packages"], "left_out": bundle.manifest["left_out"]})
        return
    typer.echo(_line(bundle))
    typer.echo(f"digest {bundle.digest}")
    made = bundle.manifest["made_with"]
    typer.echo(f"made with {made['toolbox']}, compiled by {made['compiler']}, level {made['level']}")
    for layer in bundle.manifest["layers"]:
        size = sum(entry[1] for entry in layer["files"])
        typer.echo(f"layer {layer['name']:12} {len(layer['files']):5} files {size / 1e6:7.1f} MB")
    for package in bundle.manifest["packages"]:
        typer.echo(f"{package['name']:24} {package['version']:28} {package['license']}")
        for path in package["license_files"]:
            typer.echo(f"    {path}")


@app.command("remove")
@guarded
def remove(
    name: Annotated[str | None, typer.Argument(help="A bundle's file, or the beginning of its digest.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All bundles built here.")] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Downloads and intermediate products too.")] = False,
) -> None:
    """Remove bundles from this host; `harness devices clean` removes them from a device."""
    from harness.devices.bundle.store import all_bundles, empty_cache, find
    from harness.errors import SpecError

    if (name is None) == (not all_) and not (cache and name is None):
        raise SpecError("nothing to remove", remedy="give a bundle or --all, or --cache")
    for bundle in all_bundles() if all_ else [find(name)] if name is not None else []:
        bundle.path.unlink()
        typer.echo(f"removed {bundle.path}")
    if cache:
        typer.echo(f"removed {empty_cache() / 1e6:.0f} MB of downloads and intermediate products")


def _facts(bundle: Bundle) -> dict[str, Any]:
    return {
        "path": str(bundle.path),
        "digest": bundle.digest,
        "arch": bundle.arch,
        "python": bundle.manifest["python"],
        "engines": bundle.engines,
        "size_bytes": bundle.path.stat().st_size,
        "unpacked_bytes": bundle.unpacked_bytes,
        "page_bytes": bundle.manifest["page_bytes"],
    }


def _line(bundle: Bundle) -> str:
    engines = ", ".join(f"{name} {version}" for name, version in bundle.engines.items())
    size = f"{bundle.path.stat().st_size / 1e6:.1f} MB, unpacked {bundle.unpacked_bytes / 1e6:.0f} MB"
    return f"{bundle.digest[:12]}  {bundle.arch:8} Python {bundle.manifest['python']}, {engines} ({size})"
