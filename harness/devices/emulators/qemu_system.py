"""A whole machine in QEMU: Debian's kernel, busybox, a server; booted, awaited, started again when it died, ended.

Made of the parts beside it: `initrd` (kernel and first file system), `disk` (work folder with the bundle), `keys`, `instance`.
What a guest needs beyond that (kernel modules with their parameters, packages, commands at boot) stands in its profile:
`emulator: {kernel_modules: ["i2c-stub chip_addr=0x40"], packages: [i2c-tools, libi2c0], at_boot: ["i2cset -y 0 …"]}`.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from harness.devices.emulators import acceleration, initrd
from harness.devices.emulators.answers import answers
from harness.devices.emulators.disk import disk_image
from harness.devices.emulators.guest_server import GUEST_PORT, AdbServer, GuestServer, SshServer
from harness.devices.emulators.instance import Instance, free_port
from harness.devices.emulators.keys import known_hosts_line, make_keys
from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

log = logging.getLogger(__name__)

PROGRAM = {"aarch64": "qemu-system-aarch64", "x86_64": "qemu-system-x86_64"}
PACKAGE = {"aarch64": "qemu-system-arm", "x86_64": "qemu-system-x86"}

_CPU = {"aarch64": "cortex-a72", "x86_64": "max"}
_CONSOLE = {"aarch64": "ttyAMA0", "x86_64": "ttyS0"}
# Several starts may find their port taken meanwhile by someone else.
_PORT_TRIES = 3
_POLL_S = 0.05
CONSOLE_LOG = "console.log"


class QemuSystem:
    """One guest. `profile` says how to reach it; see RunningEmulator."""

    def __init__(self, profile: DeviceProfile) -> None:
        if profile.emulator is None or profile.arch not in PROGRAM:
            raise DeviceError(
                f"{profile.name}: no QEMU guest is made for the architecture {profile.arch}",
                remedy=f"give 'arch' in the profile: {' or '.join(PROGRAM)}",
            )
        self._spec, self._machine = profile.emulator, profile.arch
        self.profile = profile
        self._base = initrd.base(
            self._machine,
            serve=self._spec.serve,
            modules=self._spec.kernel_modules,
            packages=self._spec.packages,
        )
        disk = disk_image(profile)
        self._instance = Instance(profile.name)
        try:
            self._server = self._make_server()
            _overlay(disk, self._instance)
            self._boot()
        except BaseException:
            self._instance.remove()
            raise

    def _make_server(self) -> GuestServer:
        """What answers in the guest, with new keys."""
        folder = self._instance.folder
        if self._spec.serve == "ssh":
            return SshServer(make_keys(folder / "id_ed25519"))
        return AdbServer.make(self.profile, folder / "adbkey")

    def revive(self) -> DeviceProfile:
        """See RunningEmulator. A guest that is only rebooting is waited for; a dead or hung one is started again."""
        if self._instance.alive:
            try:
                self._wait(self.profile.port or 0)
            except DeviceError as error:
                log.warning("%s; starting it again", error)
            else:
                return self.profile
        self._boot()
        return self.profile

    def rest(self) -> None:
        """See RunningEmulator. A guest that counts instructions never idles: its clock runs ahead as fast as the host can."""
        self._instance.signal(signal.SIGSTOP)

    def wake(self) -> None:
        """See RunningEmulator."""
        self._instance.signal(signal.SIGCONT)

    def stop(self) -> None:
        """See RunningEmulator."""
        self._instance.remove()

    def console(self) -> str:
        """What the guest's kernel and its server have said on the serial console so far."""
        path = self._instance.folder / CONSOLE_LOG
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """Take its power away, as an accident would; `revive` starts it again with what was on its disk."""
        self._instance.end()

    def _boot(self) -> None:
        """Start it with the accelerator that works here, and wait. Raises DeviceError."""
        accelerator = acceleration.choose(self._machine, counting=self._spec.icount_shift is not None)
        try:
            self._boot_with(accelerator)
        except DeviceError as error:
            if accelerator != acceleration.KVM or acceleration.insisted():
                raise
            log.warning("%s: KVM does not work here, emulating from now on: %s", self.profile.name, error.message)
            acceleration.remember_failure()
            self._boot_with(acceleration.TCG)

    def _boot_with(self, accelerator: str) -> None:
        timeout_s = self._spec.boot_timeout_s
        if accelerator == acceleration.KVM:
            timeout_s = min(timeout_s, acceleration.KVM_TIMEOUT_S)
        for left in reversed(range(_PORT_TRIES)):
            port = free_port()
            self._write_initrd(port)
            started = time.monotonic()
            log.info("booting %s (%s)", self.profile.name, accelerator)
            self._instance.start(self._argv(accelerator, port))
            try:
                self._wait(port, timeout_s)
            except DeviceError:
                self._instance.end()
                if left and "Could not set up host forwarding" in self._instance.tail("emulator.log"):
                    continue
                raise
            log.info(
                "%s answered %.1f s after its start (%s)", self.profile.name, time.monotonic() - started, accelerator
            )
            self.profile = self._reached_at(port)
            return

    def _write_initrd(self, port: int) -> None:
        """The base and, behind it, what is this boot's own."""
        server, folder = self._server, self._instance.folder
        if isinstance(server, SshServer):
            (folder / "known_hosts").write_text(known_hosts_line(port, server.keys), encoding="ascii")
        own = initrd.instance(
            name=self.profile.name,
            serve=server.line,
            at_boot=[*server.at_boot, *self._spec.at_boot],
            files=server.files,
        )
        (folder / "initrd").write_bytes((self._base / "initrd").read_bytes() + own)

    def _reached_at(self, port: int) -> DeviceProfile:
        folder = self._instance.folder
        reached: dict[str, object] = {"host": "127.0.0.1", "port": port}
        if self._spec.serve == "ssh":
            reached |= {"user": "root", "identity_file": str(folder / "id_ed25519")}
            reached["known_hosts"] = str(folder / "known_hosts")
        else:
            reached |= {"adb_route": "direct", "adb_key": str(folder / "adbkey")}
        return self.profile.model_copy(update=reached)

    def _argv(self, accelerator: str, port: int) -> list[str]:
        spec, folder = self._spec, self._instance.folder
        cpu = "host" if accelerator == acceleration.KVM else spec.cpu or _CPU[self._machine]
        accel = "kvm" if accelerator == acceleration.KVM else "tcg"
        bus = "device" if self._machine == "aarch64" else "pci"
        rom = "" if self._machine == "aarch64" else ",romfile="
        argv = [PROGRAM[self._machine], "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-M", "virt" if self._machine == "aarch64" else "q35", "-cpu", cpu, "-accel", accel]
        argv += ["-smp", str(spec.cpus), "-m", str(spec.memory_mib)]
        if spec.icount_shift is not None:
            argv += ["-icount", f"shift={spec.icount_shift},sleep=off", "-rtc", "clock=vm"]
        argv += ["-kernel", str(self._base / "kernel"), "-initrd", str(folder / "initrd")]
        argv += ["-append", f"console={_CONSOLE[self._machine]} loglevel=4 panic=1 rdinit=/init"]
        argv += ["-serial", f"file:{folder / CONSOLE_LOG}"]
        argv += ["-drive", f"file={folder / 'overlay.qcow2'},format=qcow2,if=none,id=disk,cache=unsafe"]
        argv += ["-device", f"virtio-blk-{bus},drive=disk"]
        guest = GUEST_PORT[spec.serve]
        argv += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{guest}"]
        argv += ["-device", f"virtio-net-{bus},netdev=net{rom}"]
        return argv

    def _wait(self, port: int, timeout_s: float | None = None) -> None:
        """Until the guest's server answers. Raises DeviceError with the console's end when it dies, panics or never does."""
        limit_s = self._spec.boot_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while not answers(self._spec.serve, port, min(5.0, limit_s)):
            said = self._instance.tail(CONSOLE_LOG)
            if not self._instance.alive:
                words = self._instance.tail("emulator.log") or said
                raise DeviceError(
                    f"{self.profile.name}: QEMU ended with code {self._instance.exit_code}: {words}",
                    remedy=f"check the installation of {PACKAGE[self._machine]}, and 'emulator' in the profile",
                )
            if "Kernel panic" in said:
                raise DeviceError(f"{self.profile.name}: the guest's kernel panicked: {said}")
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.profile.name}: the guest did not answer within {limit_s:g} s; its console ends: {said}",
                    remedy="raise 'boot_timeout_s' if this host is that slow",
                    transient=True,
                )
            time.sleep(_POLL_S)


def _overlay(disk: str, instance: Instance) -> None:
    """A private layer over the disk image, which all guests of its kind share and none changes."""
    overlay = instance.folder / "overlay.qcow2"
    try:
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", str(overlay)],
            check=True,
            capture_output=True,
            timeout=60,
        )
    except FileNotFoundError as error:
        raise DeviceError("qemu-img is not installed", remedy="apt install qemu-utils") from error
    except subprocess.CalledProcessError as error:
        raise DeviceError(f"qemu-img failed: {error.stderr.decode('utf-8', 'replace').strip()}") from error
