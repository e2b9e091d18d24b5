"""`harness devices`: what is connected; one device in full; removing what sessions left on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import EXIT_DEVICE, JsonOption, emit_json, guarded, say, screen

if TYPE_CHECKING:
    from harness.devices.discovery import Found

app = typer.Typer(help="What can be measured on: this machine, your own device profiles, phones over ADB, emulators.")

DeviceArgument = Annotated[
    str,
    typer.Argument(metavar="DEVICE", help="Profile name, .yaml file, ssh://[user@]host[:port], or adb://SERIAL."),
]


@app.callback(invoke_without_command=True)
@guarded
def devices(context: typer.Context, json_: JsonOption = False) -> None:
    """List what is connected: this machine, your own device profiles, phones over ADB, emulators. Changes nothing."""
    if context.invoked_subcommand is not None:
        return
    from harness.devices.discovery import discover
    from harness.report.devices import render_devices

    found, remarks = discover()
    if json_:
        emit_json({"devices": [_flat(device) for device in found], "remarks": remarks})
        return
    width, color = screen()
    typer.echo(render_devices(found, remarks, width=width, color=color), nl=False)


@app.command("show")
@guarded
def show(
    device: DeviceArgument,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write what the device said to this file, without identifiers.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show everything that can be read of one device. An emulator is started for it."""
    from harness.devices.discovery import probe
    from harness.devices.emulators.running import running
    from harness.profiles import load_profile
    from harness.report.devices import render_device

    with running(load_profile(device)) as profile:
        found = probe(profile, name=device)
        if save is not None and found.state == "ready":
            _save(profile, save)
    if json_:
        emit_json(_flat(found))
    else:
        width, color = screen()
        typer.echo(render_device(found, width=width, color=color), nl=False)
    if found.state != "ready":
        raise typer.Exit(EXIT_DEVICE)


def _save(profile: Any, path: Path) -> None:
    """Look once more, and keep the texts."""
    import json

    from harness.devices.capture import golden_case
    from harness.devices.look import look
    from harness.devices.runtime import work_folder_of
    from harness.devices.transport import open_transport

    with open_transport(profile) as transport:
        case = golden_case(look(transport, work_folder_of(profile), full=True), profile.description)
    path.write_text(json.dumps(case, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"written to {path}; read it before you send it to anybody")


@app.command("clean")
@guarded
def clean(device: DeviceArgument, json_: JsonOption = False) -> None:
    """Remove everything the harness put on a device: uploads, bundles, sessions. Nothing else is touched."""
    from harness.devices.bundle.clean import clean as clean_device
    from harness.devices.discovery import within_limit
    from harness.errors import SpecError
    from harness.profiles import load_profile

    profile = load_profile(device)
    if profile.emulator is not None:
        raise SpecError(f"{device} is an emulator: it is started fresh each time and keeps nothing to be cleaned")
    cleaned = clean_device(within_limit(profile))
    if json_:
        emit_json({"device": device, "work_folder": cleaned.work, "removed": list(cleaned.removed)})
        return
    what = ", ".join("the folder itself" if name == "." else name for name in cleaned.removed)
    typer.echo(f"{device}: {cleaned.work}: " + (f"removed {what}" if what else "nothing to remove"))


def _flat(found: Found) -> dict[str, Any]:
    """JSON-compatible."""
    import dataclasses

    data = dataclasses.asdict(found)
    data["engines"] = None if found.engines is None else dict(found.engines)
    return data
