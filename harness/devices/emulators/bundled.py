"""Which bundle an emulator has in its work folder from the start, and how it gets there: as if it had been pushed before.

Unpacked once per bundle, in the cache; disks are made from that copy, and roots get links to its files.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness.devices.emulators.cache import built

if TYPE_CHECKING:
    from harness.devices.bundle.archive import Bundle
    from harness.profiles import DeviceProfile

log = logging.getLogger(__name__)


def wanted_bundle(profile: DeviceProfile) -> Bundle | None:
    """The bundle that would be pushed to the device, built when there is none; None with `runtime: own`.

    An emulator is meant to run on a fresh machine by one command; for a real device the user builds it. Raises BundleError.
    """
    from harness.devices.bundle.build import Order, ensure_bundle
    from harness.devices.bundle.spec import arch_of
    from harness.devices.bundle.store import bundle_for

    if profile.runtime == "own" or profile.arch is None:
        return None
    bundle = bundle_for(profile)
    if bundle is None:
        arch = arch_of(profile.arch)
        engines = [engine for engine in profile.engines if engine in arch.engines]
        log.info("building the runtime bundle for %s with %s (once; minutes)", arch.name, ", ".join(engines))
        bundle = ensure_bundle(Order(arch.name, engines), tell=log.info)
    return bundle


def place_bundle(bundle: Bundle, work: Path) -> None:
    """Put the unpacked bundle into a work folder here; its files are linked, not copied, and nobody writes into them."""
    from harness.devices.bundle.archive import unpack_bundle

    def build(folder: Path) -> None:
        unpack_bundle(bundle.path, folder)

    what = f"the unpacked bundle for {bundle.arch}"
    unpacked = built("bundles", {"digest": bundle.digest}, build, what=what)
    shutil.copytree(unpacked, work, symlinks=True, dirs_exist_ok=True, copy_function=os.link)
