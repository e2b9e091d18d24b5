"""Makes a new lock from what the user's mirrors and package index have today. Used by `harness bundle lock`, and unlocked builds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.devices.bundle import debian, wheels
from harness.devices.bundle.lock import Lock
from harness.devices.bundle.places import scratch_folder
from harness.devices.bundle.spec import Arch


def make_lock(
    arch: Arch,
    *,
    sources: Path | None = None,
    pins: Mapping[str, str] | None = None,
    python: str | None = None,
    with_wheels: bool = True,
) -> Lock:
    """Resolve every package of an architecture. Raises BundleError.

    `sources`: a sources.list instead of the host's; `pins`: wheel → version; `python`: what the wheels are for, where it is
    not the distribution's own Python.
    """
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        apt = debian.Apt.make(Path(folder), arch, sources)
        apt.update()
        found, packages = debian.resolve(apt)
        release = apt.release()
    python = python or found
    return Lock(
        arch.name, python, release, (*packages, *(wheels.resolve(arch, python, pins or {}) if with_wheels else ()))
    )
