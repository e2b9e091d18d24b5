"""A device without a kernel of its own: programs of another architecture under qemu-user, in an almost empty root, over ADB.

It starts in a second and looks like an unrooted phone: user 2000, a toybox-like shell, /data/local/tmp writable and nothing
else, no C library, no Python. What it is not: a machine. Its kernel is the host's, times are those of translated code.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from harness.devices.emulators.answers import answers
from harness.devices.emulators.bundled import place_bundle, wanted_bundle
from harness.devices.emulators.cpus import cpu_of, cpuinfo_text
from harness.devices.emulators.instance import Instance, free_port
from harness.devices.emulators.user_tree import user_tree
from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

log = logging.getLogger(__name__)

INTERPRETER = {"aarch64": "qemu-aarch64-static", "armv7l": "qemu-arm-static"}
_BINFMT_NAME = {"aarch64": "qemu-aarch64", "armv7l": "qemu-arm"}
# ELF header: 64 or 32 bit, little endian, executable or shared, machine; the mask lets the OS ABI and the type vary.
_ELF = {
    "aarch64": bytes.fromhex("7f454c46020101000000000000000000 0200b700"),
    "armv7l": bytes.fromhex("7f454c46010101000000000000000000 02002800"),
}
_ELF_MASK = bytes.fromhex("ffffffffffffff00ffffffffffffffff feffffff")
DATA = "/data/local/tmp"
_START_S = 20.0
_POLL_S = 0.02


class QemuUser:
    """One device. `profile` says how to reach it; see RunningEmulator."""

    def __init__(self, profile: DeviceProfile) -> None:
        if profile.emulator is None or profile.arch not in INTERPRETER or profile.transport != "adb":
            raise DeviceError(
                f"{profile.name}: qemu-user plays {' and '.join(INTERPRETER)} devices over ADB",
                remedy="give 'arch' and transport: adb in the profile",
            )
        if profile.work_folder is not None and not profile.work_folder.startswith(f"{DATA}/"):
            raise DeviceError(
                f"{profile.name}: only {DATA} can be written there, not {profile.work_folder}",
                remedy=f"set 'work_folder' to {DATA}/ondevice-harness",
            )
        self._machine = profile.arch
        self._cpu = cpu_of(self._machine, profile.emulator.cpu)
        self._timeout_s = min(_START_S, profile.emulator.boot_timeout_s)
        self._root = user_tree(self._machine, INTERPRETER[self._machine])
        self.profile = profile
        self._instance = Instance(profile.name)
        try:
            self._prepare()
            self._start()
        except BaseException:
            self._instance.remove()
            raise

    def revive(self) -> DeviceProfile:
        """See RunningEmulator. What was written there is still there."""
        if not self._instance.alive or not answers("adb", self.profile.port or 0, 1.0):
            self._start()
        return self.profile

    def rest(self) -> None:
        """See RunningEmulator. It has no kernel that ticks: what does not run takes no time."""

    def wake(self) -> None:
        """See RunningEmulator. It never rests."""

    def stop(self) -> None:
        """See RunningEmulator."""
        self._instance.remove()

    def kill(self) -> None:
        """End all that runs there, as an accident would; `revive` starts it again."""
        self._instance.end()

    def _prepare(self) -> None:
        """The instance's own files: what can be written there, what the CPU says, the keys."""
        from harness.devices.transport.adb_keys import load_signer

        folder = self._instance.folder
        data = folder / "data"
        data.mkdir(mode=0o700)
        bundle = wanted_bundle(self.profile)
        if bundle is not None and self.profile.work_folder is not None:
            work = data / Path(self.profile.work_folder).relative_to(DATA)
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
            place_bundle(bundle, work)
        cpus = 1 if self.profile.emulator is None else self.profile.emulator.cpus
        (folder / "cpuinfo").write_text(cpuinfo_text(self._machine, self._cpu, cpus), encoding="ascii")
        load_signer(self.profile.name, str(folder / "adbkey"))

    def _start(self) -> None:
        port = free_port()
        script = resources.files("harness.devices.emulators").joinpath("inside/user_root.py")
        self._instance.start([sys.executable, "-I", "-S", str(script), json.dumps(self._options(port))])
        started = time.monotonic()
        deadline = started + self._timeout_s
        while not answers("adb", port, 1.0):
            words = self._instance.tail("emulator.log")
            if not self._instance.alive:
                raise DeviceError(f"{self.profile.name}: it did not start: {words}", remedy=_REMEDY)
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.profile.name}: no answer within {self._timeout_s:g} s: {words}", transient=True
                )
            time.sleep(_POLL_S)
        log.info("%s answered %.1f s after its start", self.profile.name, time.monotonic() - started)
        key = str(self._instance.folder / "adbkey")
        reached = {"host": "127.0.0.1", "port": port, "adb_route": "direct", "adb_key": key}
        self.profile = self.profile.model_copy(update=reached)

    def _options(self, port: int) -> dict[str, object]:
        """What `inside/user_root.py` needs to know."""
        folder = self._instance.folder
        return {
            "daemon": str(resources.files("harness.devices.transport")),
            "port": port,
            "address": "127.0.0.1",
            "key": (folder / "adbkey.pub").read_text(encoding="ascii"),
            "environment": {
                "PATH": "/system/bin:/bin",
                "HOME": DATA,
                "TMPDIR": DATA,
                "QEMU_CPU": self._cpu.name,
            },
            "props": {"ro.product.model": self.profile.name, "ro.product.cpu.abi": self._machine},
            "binfmt": {"name": _BINFMT_NAME[self._machine], "line": self._registration().hex()},
            "root": str(self._root),
            "data": str(folder / "data"),
            "cpuinfo": str(folder / "cpuinfo"),
        }

    def _registration(self) -> bytes:
        """The line for binfmt_misc. P: argv[0] is kept; F: the interpreter is opened now, and not looked for in the root."""
        interpreter = INTERPRETER[self._machine]
        program = shutil.which(interpreter)
        if program is None:
            raise DeviceError(f"{interpreter} is not installed", remedy="apt install qemu-user-static")
        escaped = (b"".join(b"\\x%02x" % byte for byte in raw) for raw in (_ELF[self._machine], _ELF_MASK))
        magic, mask = escaped
        name = _BINFMT_NAME[self._machine].encode()
        return b":" + name + b":M::" + magic + b":" + mask + b":" + str(Path(program).resolve()).encode() + b":PF"


_REMEDY = (
    "it needs user namespaces without privilege (sysctl kernel.unprivileged_userns_clone=1, and on Ubuntu"
    " kernel.apparmor_restrict_unprivileged_userns=0), and Linux 6.7 or newer, or qemu-user registered on the host"
    " (apt install qemu-user-static binfmt-support)"
)
