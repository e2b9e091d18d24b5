"""The disk of a QEMU guest: an ext4 image with the work folder, and in it the bundle as if it had been pushed already.

Built once per bundle, without mounting anything (`mke2fs -d`); guests write to a private layer above it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from harness.devices.emulators.bundled import place_bundle, wanted_bundle
from harness.devices.emulators.cache import built
from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

MOUNT = "/data"
_LAYOUT = 1
# Room for models and data sets beside the bundle. The image is sparse: what is free takes no space here.
_FREE_BYTES = 2 << 30
# Without lazy initialisation the kernel has nothing left to do in the background while models are measured.
_OPTIONS = ["-q", "-t", "ext4", "-O", "^metadata_csum", "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"]


def disk_image(profile: DeviceProfile) -> str:
    """The path of the image for a guest with this profile. Raises DeviceError."""
    work = PurePosixPath(profile.work_folder or "/")
    if not work.is_relative_to(MOUNT) or work == PurePosixPath(MOUNT):
        raise DeviceError(
            f"{profile.name}: 'work_folder' of a QEMU guest is a folder in {MOUNT}, not {profile.work_folder}",
            remedy=f"set it to {MOUNT}/ondevice-harness",
        )
    bundle = wanted_bundle(profile)
    inputs = {
        "layout": _LAYOUT,
        "work": str(work),
        "bundle": None if bundle is None else bundle.digest,
        "free": _FREE_BYTES,
    }

    def build(folder: Path) -> None:
        tree = folder / "tree"
        inside = tree / work.relative_to(MOUNT)
        inside.mkdir(mode=0o700, parents=True)
        if bundle is not None:
            place_bundle(bundle, inside)
        _make_file_system(tree, folder / "disk.img")
        shutil.rmtree(tree)

    what = "a guest's disk" if bundle is None else f"a guest's disk with the bundle {bundle.path.name}"
    return str(built("disks", inputs, build, what=what) / "disk.img")


def _make_file_system(tree: Path, image: Path) -> None:
    size = sum(path.lstat().st_size + 4096 for path in tree.rglob("*"))
    with image.open("wb") as stream:
        stream.truncate(_FREE_BYTES + size + size // 4)
    program = shutil.which("mke2fs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise DeviceError("mke2fs is not installed", remedy="apt install e2fsprogs")
    done = subprocess.run(
        [program, *_OPTIONS, "-d", str(tree), str(image)], capture_output=True, check=False, timeout=600
    )
    if done.returncode != 0:
        raise DeviceError(f"mke2fs failed: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
