"""Which bundle an emulator has in its work folder from the start, and how it gets there: as if it had been pushed before.

Unpacked once per bundle, in the cache; disks are made from that copy, and roots get links to its files.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness.devices.emulators.cache import built

if TYPE_CHECKING:
    from harness.devices.bundle.archive import Bundle
    from harness.profiles import DeviceProfile


def wanted_bundle(profile: DeviceProfile) -> Bundle | None:
    """The bundle that would be pushed to the device; None with `runtime: own`.

    Raises BundleError when none is built: before anything is booted, which takes longer than to say so.
    """
    from harness.devices.bundle.spec import arch_of
    from harness.devices.bundle.store import bundle_for, how_to_build

    if profile.runtime == "own" or profile.arch is None:
        return None
    bundle = bundle_for(profile)
    if bundle is None:
        raise how_to_build(profile, arch_of(profile.arch))
    return bundle


def place_bundle(bundle: Bundle, work: Path) -> None:
    """Put the unpacked bundle into a work folder here; its files are linked, not copied, and nobody writes into them."""
    from harness.devices.bundle.archive import unpack_bundle

    def build(folder: Path) -> None:
        unpack_bundle(bundle.path, folder)

    what = f"the unpacked bundle for {bundle.arch}"
    unpacked = built("bundles", {"digest": bundle.digest}, build, what=what)
    shutil.copytree(unpacked, work, symlinks=True, dirs_exist_ok=True, copy_function=os.link)
