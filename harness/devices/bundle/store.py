"""The bundles built on this host: which there are, which one a device gets, and removing them. Used by `deploy` and the commands."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness.devices.bundle.archive import SUFFIX, Bundle, open_bundle
from harness.devices.bundle.places import (
    built_folder,
    downloads_folder,
    layers_folder,
    one_at_a_time,
    scratch_folder,
    toolbox_folder,
)
from harness.devices.bundle.spec import Arch, arch_of
from harness.errors import BundleError, SpecError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile


def all_bundles() -> list[Bundle]:
    """The finished bundles, the last built first. Raises BundleError for a damaged one."""
    paths = sorted(built_folder().glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [open_bundle(path) for path in paths]


def latest(arch: Arch, engines: tuple[str, ...] = ()) -> Bundle | None:
    """The last built bundle of an architecture that has at least these engines."""
    for path in sorted(
        built_folder().glob(f"{arch.name}-*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    ):
        bundle = open_bundle(path)
        if set(engines) <= bundle.engines.keys():
            return bundle
    return None


def find(name: str) -> Bundle:
    """A bundle by its file, or by the beginning of its digest, alone or as in its file's name. Raises SpecError."""
    if "/" in name or Path(name).is_file():
        return open_bundle(Path(name))
    word = name.removesuffix(SUFFIX)
    found = [b for b in all_bundles() if b.digest.startswith(word) or b.path.name.removesuffix(SUFFIX).startswith(word)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(bundle.path.name.removesuffix(SUFFIX) for bundle in found or all_bundles()) or "none is built"
    raise SpecError(f"{name!r} is {'more than one bundle' if found else 'no bundle'}", remedy=f"bundles: {known}")


def bundle_for(profile: DeviceProfile, arch: str | None = None) -> Bundle | None:
    """The bundle a device gets; None when there is none: its profile's own, else the last built for its architecture that
    has all engines of the profile, else the last built.

    `arch`: what the device itself says, where the profile does not. Raises BundleError, and SpecError for a bundle of another
    architecture.
    """
    name = profile.arch or arch
    if profile.bundle is not None:
        bundle = open_bundle(Path(profile.bundle))
        if name is not None and arch_of(name).name != bundle.arch:
            raise SpecError(f"{profile.name} is {name}, and its bundle {profile.bundle} is for {bundle.arch}")
        return bundle
    if name is None:
        return None
    found = arch_of(name)
    wanted = tuple(engine for engine in profile.engines if engine in found.engines)
    return latest(found, wanted) or latest(found)


def how_to_build(profile: DeviceProfile, arch: Arch) -> BundleError:
    """The error for a device that no bundle is built for, with the command that builds it."""
    engines = [engine for engine in profile.engines if engine in arch.engines]
    return BundleError(
        f"{profile.name} needs a runtime bundle for {arch.name}, and none is built",
        remedy=f"harness bundle build --arch {arch.name} --engines {','.join(engines or arch.engines)}",
    )


def empty_cache() -> int:
    """Remove downloads, compressed layers and toolboxes; the bytes freed. Finished bundles stay."""
    freed = 0
    with one_at_a_time():
        for folder in (downloads_folder(), layers_folder(), toolbox_folder(), scratch_folder()):
            freed += sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder)
    return freed
