"""`harness doctor`: everything a device needs to be measured, checked one by one, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import EXIT_DEVICE, JsonOption, emit_json, guarded, say, screen

if TYPE_CHECKING:
    from harness.devices.device import Device
    from harness.devices.doctor import Check


def _energy(device: Device) -> Check:
    """Whether energy could be measured now: the meters are read for two seconds and judged as before an energy run."""
    from harness.devices.doctor import Check
    from harness.session.metering import choose_meter

    choice = choose_meter(device)
    if choice.meter is not None:
        return Check("energy", "ok", f"can be measured with {choice.meter.label}")
    quiet = device.profile.emulated or device.profile.power.source == "none"
    reason = choice.reason or "no meter can be believed"
    for meter, why in choice.rejected:
        reason += f"; {meter}: {why}"
    if quiet:
        return Check("energy", "skipped", reason)
    return Check("energy", "warning", reason, choice.remedy or "an external meter")


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
    tell = say if width is not None and not json_ else lambda _: None
    found = visit(load_profile(device), tell=tell, more=(_energy,))
    if json_:
        checks = [dataclasses.asdict(check) for check in found.checks]
        emit_json({"device": device, "healthy": found.healthy, "seconds": round(found.seconds, 2), "checks": checks})
    else:
        typer.echo(render_checks(device, found.checks, width=width, color=color), nl=False)
    if not found.healthy:
        raise typer.Exit(EXIT_DEVICE)
