"""The root of a device under qemu-user: busybox of its architecture under its applets' names, and empty folders; nothing else.

No /usr, no C library, no Python, no /tmp: what runs there runs from the bundle, as on a phone. Built once per architecture.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from harness.devices.emulators.cache import built
from harness.devices.emulators.debian import fetch, members
from harness.errors import DeviceError

_LAYOUT = 1
_FOLDERS = ("bin", "data/local/tmp", "dev", "proc", "sys", "system", "vendor")
_NODES = ("null", "zero", "full", "random", "urandom")
_BUSYBOX = "bin/busybox"


def user_tree(machine: str, interpreter: str) -> Path:
    """The folder with the root for a machine, whose programs `interpreter` (qemu-user) runs. Raises DeviceError."""
    deb = fetch(machine, ["busybox-static"])["busybox-static"]

    def build(folder: Path) -> None:
        root = folder / "root"
        for name in _FOLDERS:
            (root / name).mkdir(parents=True)
        for name in _NODES:
            (root / "dev" / name).touch()  # the host's node is mounted over it
        (root / "system" / "bin").symlink_to("../bin")  # where phones have their shell
        for member in members(deb, lambda name: name == _BUSYBOX):
            (root / _BUSYBOX).write_bytes(member.data)
            (root / _BUSYBOX).chmod(0o755)
        for applet in _applets(root / _BUSYBOX, interpreter):
            place = root / "bin" / applet
            if not place.exists():
                place.symlink_to("busybox")

    inputs = {"layout": _LAYOUT, "machine": machine, "busybox": deb.name}
    return built("roots", inputs, build, what=f"an empty {machine} root") / "root"


def _applets(busybox: Path, interpreter: str) -> list[str]:
    """The names it answers to."""
    program = shutil.which(interpreter)
    if program is None:
        raise DeviceError(f"{interpreter} is not installed", remedy="apt install qemu-user-static")
    done = subprocess.run([program, str(busybox), "--list"], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise DeviceError(f"{program} cannot run busybox: {done.stderr.strip()[-300:]}")
    return done.stdout.split()
