"""Which exact packages a bundle is made of: names, versions and sha256, one JSON file per architecture.

The shipped files stand in `locks/`; `harness bundle lock` makes new ones, in the user's configuration folder, where they win.
Read by `build`; written from what `debian.resolve` and `wheels.resolve` found.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from harness.devices.bundle.places import user_locks_folder
from harness.devices.bundle.spec import Arch
from harness.errors import BundleError, SpecError

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package or a wheel. `path`: a package's place below the root of a mirror; a wheel's file name.

    `part`: "python", "numpy", or the engine it belongs to.
    """

    name: str
    version: str
    path: str
    sha256: str
    size_bytes: int
    part: str

    @property
    def is_wheel(self) -> bool:
        """Wheels come from the package index, everything else from a Debian mirror."""
        return self.path.endswith(".whl")

    @property
    def file_name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Lock:
    """All packages of one architecture. `python`: "3.11"; `release`: the distribution's release they were taken from."""

    arch: str
    python: str
    release: str
    packages: tuple[Package, ...]

    def of(self, *parts: str) -> list[Package]:
        """The packages of these parts."""
        return [package for package in self.packages if package.part in parts]


def encode_lock(lock: Lock) -> str:
    """The lock as the text of a file, always the same for the same lock."""
    return json.dumps({"schema": SCHEMA, **asdict(lock)}, indent=1) + "\n"


def decode_lock(text: str, where: str) -> Lock:
    """Parse a lock file. Raises SpecError."""
    try:
        data: dict[str, Any] = json.loads(text)
        if data["schema"] != SCHEMA:
            raise SpecError(f"{where}: schema {data['schema']!r}, this harness reads {SCHEMA}")
        packages = tuple(Package(**package) for package in data["packages"])
        return Lock(str(data["arch"]), str(data["python"]), str(data["release"]), packages)
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{where} is no lock file of bundles: {error!r}", remedy="harness bundle lock") from error


def lock_path(arch: Arch) -> Path:
    """The user's own lock file if there is one, else the shipped one."""
    own = user_locks_folder() / f"{arch.name}.json"
    return (
        own if own.is_file() else Path(str(resources.files("harness.devices.bundle"))) / "locks" / f"{arch.name}.json"
    )


def load_lock(arch: Arch, path: Path | None = None) -> Lock:
    """Read a lock file, by default the one in force. Raises SpecError, BundleError."""
    path = path or lock_path(arch)
    try:
        lock = decode_lock(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise BundleError(
            f"cannot read the lock file {path}: {error.strerror}", remedy=f"harness bundle lock --arch {arch.name}"
        ) from error
    if lock.arch != arch.name:
        raise SpecError(f"{path} locks {lock.arch}, not {arch.name}")
    return lock
