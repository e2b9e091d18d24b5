"""Builds a bundle: locked packages → layers → compiled and compressed in the toolbox → one file. The same bytes every time.

Joins the other modules of this room; called by `harness bundle build`, by tests, and by emulators that want a bundle.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from harness.devices.bundle import assemble, debian, wheels
from harness.devices.bundle.archive import (
    MANIFEST,
    PARTS,
    SCHEMA,
    STAGE1,
    SUFFIX,
    Bundle,
    encode_manifest,
    open_bundle,
    write_tar,
)
from harness.devices.bundle.elf import read_elf
from harness.devices.bundle.lock import Lock, load_lock, lock_path
from harness.devices.bundle.pack import FIRST_STAGE_MODULES, Packer, entries_of, split_first_stage
from harness.devices.bundle.places import built_folder, layers_folder, one_at_a_time, scratch_folder
from harness.devices.bundle.relock import make_lock
from harness.devices.bundle.spec import LIB, Arch, arch_of, check_engines
from harness.devices.bundle.toolbox import Toolbox, compiler_for, host_arch, open_toolbox
from harness.devices.bundle.tools import sha256_of
from harness.errors import BundleError, PackageGoneError

log = logging.getLogger(__name__)

LEVEL = 19
# The part of a lock that a given Python distribution replaces.
_PYTHON_PACKAGES = "python"

# Modules of this room that have no say in a bundle's bytes.
_NOT_THE_BUILDER = {"deploy", "clean", "store", "relock"}

Tell = Callable[[str], None]
Member = tuple[str, "Path | bytes", bool]


def _quiet(line: str) -> None:
    del line


@dataclass(frozen=True, slots=True)
class Order:
    """What to build. `engines`: None for all that the architecture has; `distribution`: a folder or an archive with a Python;
    `lock`: a lock file; `unlocked`: today's newest packages instead; `sources`: a sources.list instead of the host's;
    `level`: zstd's, 1 to 19."""

    arch: str
    engines: Sequence[str] | None = None
    distribution: Path | None = None
    lock: Path | None = None
    unlocked: bool = False
    sources: Path | None = None
    level: int = LEVEL


def build_bundle(order: Order, out: Path | None = None, tell: Tell = _quiet) -> Bundle:
    """Build a bundle into the store, and copy it to `out`. Raises BundleError, and SpecError for what cannot be had."""
    arch = arch_of(order.arch)
    engines = check_engines(arch, tuple(arch.engines) if order.engines is None else order.engines)
    with one_at_a_time(), tempfile.TemporaryDirectory(dir=scratch_folder()) as folder, _distribution(order) as given:
        scratch = Path(folder)
        lock = _lock(order, arch, given)
        tell(f"{arch.name}: Python {lock.python}, {', '.join(engines)}")
        toolbox = open_toolbox(_toolbox_lock(order, arch, lock), order.sources)
        compiler = compiler_for(lock.python, toolbox)
        layout = _lay_out(arch, lock, engines, order, given, scratch)
        for root in layout.layers.values():
            compiler.ask(do="compile", root=str(root))
        packer = Packer(toolbox, scratch, order.level, tell)
        manifest, members = _pack(arch, lock, layout, packer, compiler)
        path = _store(arch, manifest, members, scratch)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out)
    return open_bundle(out or path)


def ensure_bundle(order: Order, tell: Tell = _quiet) -> Bundle:
    """The stored bundle of a locked order if this very builder made it before, else a new one. Raises as `build_bundle`.

    For emulators and tests, which want a bundle within a second and on any day: where mirrors have dropped a locked version,
    and the lock is not the caller's own, today's versions are taken, and that is said.
    """
    key = _key(order)
    note = layers_folder() / f"order-{key}.txt"
    if note.is_file():
        path = built_folder() / note.read_text(encoding="utf-8")
        if path.is_file():
            return open_bundle(path)
    try:
        bundle = build_bundle(order, tell=tell)
    except PackageGoneError as error:
        if order.unlocked or order.lock is not None:
            raise
        log.warning("%s; today's versions are taken instead of the locked ones", error.message)
        tell(f"{error.message}; today's versions are taken instead of the locked ones")
        return ensure_bundle(replace(order, unlocked=True), tell)
    if _key(order) == key:
        note.write_text(bundle.path.name, encoding="utf-8")
    return bundle


def _key(order: Order) -> str:
    """What decides over the bytes: the order, the locks, and the builder's own files."""
    arch = arch_of(order.arch)
    facts = [arch.name, *check_engines(arch, tuple(arch.engines) if order.engines is None else order.engines)]
    facts += [str(order.distribution), str(order.level), str(order.unlocked)]
    digest = hashlib.sha256("\n".join(facts).encode())
    locks = [lock_path(host_arch()), order.lock or lock_path(arch)]
    folder = Path(str(resources.files("harness.devices.bundle")))
    builder = sorted(path for path in folder.glob("*.py") if path.stem not in _NOT_THE_BUILDER)
    for path in (*locks, *builder):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _lock(order: Order, arch: Arch, given: Path | None) -> Lock:
    """The lock in force, with the given distribution's Python."""
    python = None if given is None else assemble.distribution_version(given)
    if order.unlocked:
        return make_lock(arch, sources=order.sources, python=python)
    lock = load_lock(arch, order.lock)
    if given is None and not any(package.name == f"python{lock.python}-minimal" for package in lock.packages):
        raise BundleError(
            f"the lock's wheels are for Python {lock.python}, which it does not hold",
            remedy="give --python-distribution",
        )
    if python not in {None, lock.python}:
        raise BundleError(
            f"the lock has wheels for Python {lock.python}, the given distribution is Python {python}",
            remedy="build with --unlocked, or with a lock made by `harness bundle lock --python-version` of that version",
        )
    return lock


def _toolbox_lock(order: Order, arch: Arch, lock: Lock) -> Lock | None:
    """None for the lock in force of the host's own architecture."""
    host = host_arch()
    if not order.unlocked:
        return lock if order.lock is not None and host == arch else None
    return (
        lock
        if host == arch and order.distribution is None
        else make_lock(host, sources=order.sources, with_wheels=False)
    )


@contextmanager
def _distribution(order: Order) -> Iterator[Path | None]:
    """The folder of the given Python distribution, unpacked where it is an archive."""
    path = order.distribution
    if path is None or path.is_dir():
        yield None if path is None else _home_in(path)
        return
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as folder:
        try:
            if zipfile.is_zipfile(path):
                wheels.unpack(path, Path(folder))
            else:
                with tarfile.open(path) as tar:
                    tar.extractall(folder, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise BundleError(f"cannot unpack the Python distribution {path}: {error}") from error
        yield _home_in(Path(folder))


def _home_in(folder: Path) -> Path:
    """The folder with lib/pythonX.Y: itself, or one or two below, as archives have it."""
    for depth in ("", "*/", "*/*/"):
        for found in sorted(folder.glob(f"{depth}lib/python3.*/os.py")):
            return found.parent.parent.parent
    raise BundleError(
        f"{folder} holds no Python distribution", remedy="give a folder with bin/python3.X and lib/python3.X"
    )


def _lay_out(
    arch: Arch, lock: Lock, engines: Sequence[str], order: Order, given: Path | None, scratch: Path
) -> assemble.Layout:
    if given is not None:
        kept = [p for p in lock.packages if not (p.part == _PYTHON_PACKAGES and "python" in p.name)]
        lock = replace(lock, packages=tuple(kept))
    parts = lock.of("python", "numpy", *engines)
    files = debian.fetch([package for package in parts if not package.is_wheel], arch, order.sources)
    files |= wheels.fetch([package for package in parts if package.is_wheel], arch, lock.python)
    layout = assemble.lay_out(arch, lock, engines, files, scratch)
    if given is not None:
        assemble.take_distribution(arch, given, layout)
    assemble.prove_complete(arch, layout)
    return layout


def _pack(
    arch: Arch, lock: Lock, layout: assemble.Layout, packer: Packer, compiler: Toolbox
) -> tuple[dict[str, Any], list[Member]]:
    """The manifest, and the archive's members after it."""
    runs = (f"{LIB}/{arch.loader}", f"bin/python{lock.python}")
    layers: list[dict[str, Any]] = []
    members: list[Member] = []
    seen: set[str] = set()
    base = layout.layers[assemble.BASE]
    modules = compiler.ask(do="modules", names=FIRST_STAGE_MODULES)["modules"]
    first, rest = split_first_stage(
        arch, lock.python, entries_of(base, runs), modules, lambda path: read_elf(base / path).needed
    )
    stage1 = packer.first_stage(base, first)
    for name, root in layout.layers.items():
        entries = rest if name == assemble.BASE else entries_of(root, runs)
        _check_apart(name, entries, seen)
        parts = packer.layer(name, root, entries)
        layers.append({"name": name, "files": entries, "parts": [part.name for part in parts]})
        members += [(f"{PARTS}/{part.name}", part, False) for part in parts]
    wheel_of = {package.part: package for package in lock.packages if package.is_wheel}
    manifest = {
        "schema": SCHEMA,
        "arch": arch.name,
        "python": lock.python,
        "release": lock.release,
        "engines": {name: wheel_of[name].version for name in layout.layers if name != assemble.BASE},
        "packages": layout.packages,
        "left_out": sorted(layout.left_out),
        "page_bytes": layout.page_bytes,
        "made_with": {"toolbox": packer.toolbox.label, "compiler": compiler.label, "level": packer.level},
        "stage1": {"sha256": sha256_of(stage1), "size_bytes": stage1.stat().st_size, "files": first},
        "layers": layers,
    }
    return manifest, [(STAGE1, stage1, False), *dict.fromkeys(members)]


def _check_apart(name: str, entries: list[list[Any]], seen: set[str]) -> None:
    """No file in two layers: one would hide the other. Raises BundleError."""
    for path, *_ in entries:
        if path in seen:
            raise BundleError(f"two packages of the bundle bring {path}; the second is in {name}")
        seen.add(path)


def _store(arch: Arch, manifest: dict[str, Any], members: list[Member], scratch: Path) -> Path:
    """Write the archive into the store; the time of its file says which was built last."""
    data = encode_manifest(manifest)
    digest = hashlib.sha256(data).hexdigest()
    path = built_folder() / f"{arch.name}-{digest[:16]}{SUFFIX}"
    if path.is_file():
        os.utime(path)
        return path
    write_tar(scratch / "archive", [(MANIFEST, data, False), *members])
    (scratch / "archive").rename(path)
    return path
