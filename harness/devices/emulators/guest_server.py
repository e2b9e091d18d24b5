"""What answers in a QEMU guest: dropbear for SSH, or the ADB daemon under the bundle's Python, as an unprivileged shell user.

A server is a line of sh that becomes it, lines for boot, and files for the instance's part of the first file system.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.devices.emulators.bundled import wanted_bundle
from harness.devices.emulators.keys import GuestKeys
from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

Files = Mapping[str, tuple[bytes, int]]
GUEST_PORT = {"ssh": 22, "adb": 5555}
# Where phones let their shell write; the guest's disk is mounted at /data.
ADB_DATA = "/data/local/tmp"
_DAEMON = "etc/guest/adbd"


class GuestServer(Protocol):
    """See the module."""

    @property
    def line(self) -> str:
        """Becomes the server; started again when it ends."""

    @property
    def at_boot(self) -> Sequence[str]:
        """Run before it, as root."""

    @property
    def files(self) -> Files:
        """Path → contents, mode."""


@dataclass(frozen=True, slots=True)
class SshServer:
    """Dropbear: no daemon, log to the console, no passwords, no forwarding, a window that lets a push run at full speed."""

    keys: GuestKeys
    line: str = "exec dropbear -F -E -s -j -k -W 4194304 -r /etc/dropbear/host_key -p 22"
    at_boot: Sequence[str] = ()

    @property
    def files(self) -> Files:
        """The guest's key, and who may come in."""
        return {
            "etc/dropbear/host_key": (self.keys.host_key, 0o600),
            "root/.ssh/authorized_keys": (f"{self.keys.authorized}\n".encode(), 0o600),
        }


@dataclass(frozen=True, slots=True)
class AdbServer:
    """The ADB daemon, run by the Python of the bundle that is in the work folder; the device's shell sees none of it."""

    line: str
    options: Mapping[str, object]
    at_boot: Sequence[str] = field(default=(f"chown -R shell:shell {ADB_DATA}", "chmod 711 /data /data/local"))

    @classmethod
    def make(cls, profile: DeviceProfile, key: Path) -> AdbServer:
        """With a new key, whose private part is written to `key`. Raises DeviceError, for want of a bundle above all."""
        from harness.devices.bundle.deploy import runtime_of
        from harness.devices.transport.adb_keys import load_signer

        bundle = wanted_bundle(profile)
        if bundle is None:
            raise DeviceError(
                f"{profile.name}: the ADB daemon in the guest runs from the bundle", remedy="runtime: bundle"
            )
        if profile.work_folder is None or not profile.work_folder.startswith(f"{ADB_DATA}/"):
            raise DeviceError(f"{profile.name}: give a 'work_folder' in {ADB_DATA}")
        load_signer(profile.name, str(key))
        runtime = runtime_of(bundle, profile.work_folder)
        words = ["env", *(f"{name}={value}" for name, value in runtime.env.items())]
        words += [*runtime.argv, f"/{_DAEMON}/serve_adb.py"]
        # su wants the command as one word; the options stay in a file, for they hold a key and quotes.
        command = f'cd / && exec {shlex.join(words)} "$(cat /{_DAEMON}/options)"'
        return cls(
            f"exec su -s /bin/sh shell -c {shlex.quote(command)}",
            {
                "daemon": f"/{_DAEMON}",
                "port": GUEST_PORT["adb"],
                "address": "0.0.0.0",  # noqa: S104 - the guest's only network is QEMU's, which lets nobody in but us
                "key": key.with_name(f"{key.name}.pub").read_text(encoding="ascii"),
                "environment": {"PATH": "/bin", "HOME": ADB_DATA, "TMPDIR": ADB_DATA},
                "props": {"ro.product.model": profile.name, "ro.product.cpu.abi": profile.arch},
            },
        )

    @property
    def files(self) -> Files:
        """The daemon's package, the script that runs it, and its options."""
        package = resources.files("harness.devices.transport.testing")
        script = resources.files("harness.devices.emulators").joinpath("inside/serve_adb.py")
        found = {f"{_DAEMON}/testing/{item.name}": item for item in package.iterdir() if item.name.endswith(".py")}
        files = {
            name: (item.read_bytes(), 0o644) for name, item in [*found.items(), (f"{_DAEMON}/serve_adb.py", script)]
        }
        return {**files, f"{_DAEMON}/options": (json.dumps(self.options).encode(), 0o644)}
