"""The toolbox: the locked Python, libzstd and zlib of this host's own architecture, unpacked in the cache and run in place.

What compiles and compresses a bundle is thereby as locked as what goes into it: the same bytes on every host.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from harness.devices.bundle import assemble, debian
from harness.devices.bundle.lock import Lock, load_lock
from harness.devices.bundle.places import scratch_folder, toolbox_folder
from harness.devices.bundle.spec import ARCHES, LIB, Arch, arch_of
from harness.devices.bundle.tools import call
from harness.errors import BundleError


@dataclass(frozen=True, slots=True)
class Toolbox:
    """A Python of this host's architecture. `argv` starts it; `label` names the versions that decide over the bytes."""

    argv: tuple[str, ...]
    env: dict[str, str]
    python: str
    label: str

    def ask(self, **job: Any) -> dict[str, Any]:
        """Run `toolbox_script.py`. Raises BundleError."""
        return self.run("toolbox_script.py", json.dumps(job))

    def run(self, script: str, *arguments: str) -> dict[str, Any]:
        """Run one of this package's scripts; its one JSON line. Raises BundleError."""
        path = resources.files("harness.devices.bundle").joinpath(script)
        said: dict[str, Any] = json.loads(call([*self.argv, str(path), *arguments], env=self.env))
        return said


def open_toolbox(lock: Lock | None = None, sources: Path | None = None) -> Toolbox:
    """Unpack the toolbox of this host's architecture, once. `lock`: of that architecture, if another one than its own.

    Raises BundleError on a host that bundles cannot be built on.
    """
    arch = host_arch()
    lock = lock or load_lock(arch)
    packages = [package for package in lock.of("python") if not package.is_wheel]
    digest = hashlib.sha256("".join(package.sha256 for package in packages).encode()).hexdigest()[:16]
    folder = toolbox_folder() / f"{arch.name}-{digest}"
    if not folder.is_dir():
        files = debian.fetch(packages, arch, sources)
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as scratch:
            layout = assemble.lay_out(
                arch, Lock(arch.name, lock.python, lock.release, tuple(packages)), (), files, Path(scratch)
            )
            assemble.prove_complete(arch, layout)
            base = layout.layers[assemble.BASE]
            for program in (base / LIB / arch.loader, base / "bin" / f"python{lock.python}"):
                program.chmod(0o755)
            shutil.move(base, folder)
    versions = {package.name: package.version for package in packages}
    label = f"python {versions[f'python{lock.python}-minimal']}, zstd {versions['libzstd1']}, zlib {versions['zlib1g']}"
    return Toolbox(
        (
            str(folder / LIB / arch.loader),
            "--library-path",
            str(folder / LIB),
            str(folder / "bin" / f"python{lock.python}"),
            "-S",
            "-s",
            "-B",
            "-P",
        ),
        {"PYTHONHOME": str(folder), "PYTHONPATH": "", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LD_PRELOAD": ""},
        lock.python,
        label,
    )


def host_arch() -> Arch:
    """This host's architecture. Raises BundleError where no bundle can be built."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHES:
        raise BundleError(
            f"bundles are built on Linux on x86_64 or ARM, and this is {sys.platform} on {machine}",
            remedy="build the bundle on such a host, copy the file and name it as 'bundle' in the device profile",
        )
    return arch_of(machine)


def compiler_for(python: str, toolbox: Toolbox) -> Toolbox:
    """What compiles for another Python than the locked one: this process's own, if it is of that version.

    Raises BundleError.
    """
    if python == toolbox.python:
        return toolbox
    if python == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return Toolbox(
            (sys.executable, "-S", "-s", "-B", "-P"),
            {"PYTHONHASHSEED": "0", "PYTHONPATH": ""},
            python,
            platform.python_version(),
        )
    raise BundleError(
        f"a bundle with Python {python} needs Python {python} to compile it",
        remedy=f"run the harness itself with Python {python}, or build from the locked Python {toolbox.python}",
    )


def workers() -> int:
    """How many processors compress at once."""
    return len(os.sched_getaffinity(0))
