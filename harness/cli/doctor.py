"""`harness doctor`: everything a device needs to be measured, checked one by one, with what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.common import EXIT_DEVICE, JsonOption, emit_json, guarded, say, screen


@guarded
def doctor(
    device: Annotated[
        str,
        typer.Argument(metavar="DEVICE", help="Profile name, .yaml file, ssh://[user@]host[:port], or adb://SERIAL."),
    ] = "local",
    json_: JsonOption = False,
) -> None:
    """Check that a device can be measured on: reachable, space, clock, sensors, runtime, engines. Exit code 3 if not."""
    import dataclasses

    from harness.devices.doctor_visit import visit
    from harness.profiles import load_profile
    from harness.report.devices import render_checks

    width, color = screen()
    found = visit(load_profile(device), tell=say if width is not None and not json_ else lambda _: None)
    if json_:
        checks = [dataclasses.asdict(check) for check in found.checks]
        emit_json({"device": device, "healthy": found.healthy, "seconds": round(found.seconds, 2), "checks": checks})
    else:
        typer.echo(render_checks(device, found.checks, width=width, color=color), nl=False)
    if not found.healthy:
        raise typer.Exit(EXIT_DEVICE)
