"""Wheels of another architecture: resolved, fetched and unpacked by pip's own rules, from the user's package index.

The counterpart of `debian` for the engines; `build` calls it with what the lock names.
"""

from __future__ import annotations

import re
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from harness.devices.bundle.lock import Package
from harness.devices.bundle.places import downloads_folder, scratch_folder
from harness.devices.bundle.spec import Arch
from harness.devices.bundle.tools import call, sha256_of
from harness.errors import BundleError

_WHEEL = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl")


def resolve(arch: Arch, python: str, pins: Mapping[str, str]) -> list[Package]:
    """The newest wheels for an architecture and a Python, one for each engine, and numpy. `pins`: name → version.

    Raises BundleError.
    """
    wanted = dict(arch.engines) | ({"numpy": "numpy"} if arch.numpy_wheel else {})
    packages = []
    for part, name in wanted.items():
        requirement = f"{name}=={pins[name]}" if name in pins else name
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
            _pip(arch, python, Path(folder), requirement)
            (wheel,) = Path(folder).glob("*.whl")
            package = _package(wheel, part)
            wheel.replace(_cached(package))
        packages.append(package)
    return packages


def _package(wheel: Path, part: str) -> Package:
    found = _WHEEL.fullmatch(wheel.name)
    if found is None:
        raise BundleError(f"{wheel.name} is not named like a wheel")
    name = found["name"].replace("_", "-").lower()
    return Package(name, found["version"], wheel.name, sha256_of(wheel), wheel.stat().st_size, part)


def _cached(package: Package) -> Path:
    return downloads_folder() / f"{package.sha256[:16]}-{package.file_name}"


def fetch(packages: Sequence[Package], arch: Arch, python: str) -> dict[str, Path]:
    """Name → file of each wheel, downloaded where it is not in the cache, always of the locked bytes. Raises BundleError."""
    found = {package.name: _cached(package) for package in packages}
    for package in packages:
        if found[package.name].is_file():
            continue
        with tempfile.TemporaryDirectory(dir=scratch_folder()) as name:
            folder = Path(name)
            requirements = folder / "requirements.txt"
            requirements.write_text(
                f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8"
            )
            _pip(arch, python, folder, "--require-hashes", "-r", str(requirements))
            (wheel,) = folder.glob("*.whl")
            wheel.replace(found[package.name])
    return found


def _pip(arch: Arch, python: str, folder: Path, *what: str) -> None:
    platforms = [word for tag in arch.wheel_platforms for word in ("--platform", tag)]
    abi = f"cp{python.replace('.', '')}"
    call(
        [
            *(sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "download", "--quiet"),
            *("--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
            *("--abi", abi, "--abi", "abi3", "--abi", "none", *platforms, "--dest", str(folder), *what),
        ],
        remedy=f"`harness bundle lock --arch {arch.name}` locks what your package index has today; pip must be installed",
    )


def unpack(wheel: Path, folder: Path) -> None:
    """Lay a wheel's files out below a folder, none outside it. Raises BundleError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                name = PurePosixPath(entry.filename)
                if name.is_absolute() or ".." in name.parts:
                    raise BundleError(f"{wheel.name} has a file outside itself: {entry.filename!r}")
                if entry.is_dir():
                    continue
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(entry))
    except zipfile.BadZipFile as error:
        raise BundleError(f"{wheel.name} is no wheel: {error}") from error
