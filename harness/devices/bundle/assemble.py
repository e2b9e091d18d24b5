"""Lays a bundle's files out from unpacked packages: one folder per layer, trimmed, every library's needs proved to be met.

    LAYER/lib/            loader, C library, other libraries by their sonames, pythonX.Y/
    LAYER/bin/pythonX.Y   LAYER/site/ wheels   LAYER/licenses/PACKAGE/

The layer "base" is Python and numpy, and each engine is a layer of its own, so that an engine added later is all that is sent.
Called by `build`, which then has the Python sources compiled.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.devices.bundle import debian, licenses, wheels
from harness.devices.bundle.elf import Elf, is_elf, read_elf
from harness.devices.bundle.lock import Lock, Package
from harness.devices.bundle.spec import LIB, SITE, Arch
from harness.devices.bundle.tools import sha256_of
from harness.devices.bundle.trim import LIBRARIES, STDLIB, left_out, patterns_of
from harness.errors import BundleError

BASE = "base"


@dataclass(slots=True)
class Layout:
    """What was laid out. `layers`: name → folder; `packages`: for the manifest; `left_out`: modules whose libraries are not there."""

    python: str
    layers: dict[str, Path] = field(default_factory=dict)
    packages: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    page_bytes: int = 0


def lay_out(arch: Arch, lock: Lock, engines: Iterable[str], files: Mapping[str, Path], folder: Path) -> Layout:
    """Unpack and trim everything below `folder`; `files`: package → file. Raises BundleError."""
    layout = Layout(lock.python, {BASE: folder / BASE})
    base = layout.layers[BASE]
    for package in [package for package in lock.of("python", "numpy") if not package.is_wheel]:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            debian.unpack(files[package.name], Path(scratch))
            _debian(arch, package, Path(scratch), layout)
    for part in ("numpy", *engines):
        root = base if part == "numpy" else folder / part
        layout.layers.setdefault(part if part != "numpy" else BASE, root)
        for package in [package for package in lock.of(part) if package.is_wheel]:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                wheels.unpack(files[package.name], Path(scratch))
                said, kept = licenses.of_wheel(Path(scratch), package.name, root)
                _copy(Path(scratch), root / SITE, patterns_of(package.name))
                layout.packages.append(_entry(package, said, kept))
    return layout


def _entry(package: Package, said: str, kept: list[str]) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "kind": "wheel" if package.is_wheel else "debian",
        "part": package.part,
        "sha256": package.sha256,
        "license": said,
        "license_files": kept,
    }


def _debian(arch: Arch, package: Package, unpacked: Path, layout: Layout) -> None:
    base = layout.layers[BASE]
    said, kept = licenses.of_debian(unpacked, package.name, base)
    layout.packages.append(_entry(package, said, kept))
    if package.name == "base-files":
        licenses.common(unpacked, base)
        return
    for top in ("lib", "usr/lib"):
        _libraries(unpacked / top / arch.triplet, base / LIB)
    python = f"python{layout.python}"
    _copy(unpacked / "usr" / "lib" / python, base / LIB / python, STDLIB)
    program = unpacked / "usr" / "bin" / python
    if program.is_file():
        (base / "bin").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(program, base / "bin" / python)
    _copy(unpacked / "usr" / "lib" / "python3" / "dist-packages", base / SITE, patterns_of(package.name))


def _libraries(source: Path, target: Path) -> None:
    """Shared libraries under their sonames: what links point to elsewhere, and no other name."""
    for path in sorted(source.rglob("*.so*")) if source.is_dir() else []:
        inside = path.relative_to(source)
        if (
            path.is_symlink()
            or not path.is_file()
            or not is_elf(path)
            or "gconv" in inside.parts
            or LIBRARIES.match(path.name)
        ):
            continue
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / (read_elf(path).soname or path.name))


def _copy(source: Path, target: Path, patterns: Iterable[str]) -> None:
    """A tree without what the patterns leave out; links become files, those that lead out of the tree are dropped."""
    patterns = tuple(patterns)
    for path in sorted(source.rglob("*")) if source.is_dir() else []:
        inside = path.relative_to(source)
        if path.is_dir() or left_out(inside.as_posix(), patterns):
            continue
        if path.is_symlink() and (not path.exists() or not path.resolve().is_relative_to(source.resolve())):
            continue
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / inside)


def take_distribution(arch: Arch, source: Path, layout: Layout) -> None:
    """Put a given Python distribution (a folder with bin/ and lib/pythonX.Y) into the base layer instead of the locked one.

    Raises BundleError when it is none, or of another architecture.
    """
    base, python = layout.layers[BASE], f"python{layout.python}"
    program = next((path for path in (source / "bin" / python, source / "bin" / "python3") if path.is_file()), None)
    if program is None or not (source / "lib" / python / "os.py").is_file():
        raise BundleError(
            f"{source} is no distribution of Python {layout.python}: it lacks bin/{python} or lib/{python}/os.py"
        )
    if read_elf(program.resolve()).machine != arch.elf:
        raise BundleError(f"{source} holds a Python for another architecture than {arch.name}")
    (base / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(program, base / "bin" / python)
    for path in sorted((source / "lib").glob("*.so*")):
        if path.is_file() and is_elf(path):
            soname = read_elf(path).soname or path.name
            if not path.is_symlink() or path.name == soname:
                (base / LIB).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, base / LIB / soname)
    _copy(source / "lib" / python, base / LIB / python, STDLIB)
    said, kept = "see the licence file", []
    for path in sorted([*source.glob("LICENSE*"), *source.glob(f"lib/{python}/LICENSE*"), *source.glob("licenses/*")]):
        target = base / "licenses" / "python-distribution" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        kept.append(str(target.relative_to(base)))
    entry = {"name": "python-distribution", "version": layout.python, "kind": "given", "part": "python"}
    layout.packages.append({**entry, "sha256": _digest_of(base), "license": said, "license_files": kept})


def _digest_of(folder: Path) -> str:
    """SHA-256 of the names and contents of all files: what a given distribution and its companions come to."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def distribution_version(source: Path) -> str:
    """Of a folder with lib/python3.11/os.py: "3.11". Raises BundleError."""
    found = sorted(path.parent.name for path in source.glob("lib/python3.*/os.py"))
    if len(found) != 1:
        raise BundleError(
            f"{source} is no Python distribution: it has {len(found)} folders lib/python3.*",
            remedy="give the folder that holds bin/ and lib/",
        )
    return found[0].removeprefix("python")


def prove_complete(arch: Arch, layout: Layout) -> None:
    """Every library that something needs is there. Drops standard modules that cannot be loaded, and names them.

    Raises BundleError for an engine that would not load, and for files of another architecture.
    """
    found: dict[Path, Elf] = {}
    for folder in layout.layers.values():
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and is_elf(path)):
            found[path] = read_elf(path)
            if found[path].machine != arch.elf:
                raise BundleError(f"{path.relative_to(folder)} is not for {arch.name}")
    base = layout.layers[BASE]
    kept = [str(path) for package in layout.packages for path in package["license_files"]]
    lost = [path for path in kept if not any((folder / path).is_file() for folder in layout.layers.values())]
    if lost:
        raise BundleError(f"the licence {lost[0]} is in no package of the bundle")
    layout.page_bytes = min(elf.align_bytes for elf in found.values() if elf.align_bytes)
    common = {path.name for path in found if path.parent == base / LIB}
    if arch.loader not in common:
        raise BundleError(f"the C library has no {arch.loader}")
    for path, elf in found.items():
        beside = {name.name for place in _search(path, elf) if place.is_dir() for name in place.iterdir()}
        missing = [name for name in elf.needed if name not in common and name not in beside]
        if missing and path.parent.name == "lib-dynload":
            path.unlink()
            layout.left_out.append(path.name.partition(".")[0])
        elif missing:
            raise BundleError(f"{path.name} needs {', '.join(missing)}, which no package of the bundle has")


def _search(path: Path, elf: Elf) -> Iterable[Path]:
    for place in elf.paths:
        if "$ORIGIN" in place or "${ORIGIN}" in place:
            yield Path(place.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(path.parent))).resolve()
