"""An Android virtual device from an installed SDK: made when missing, booted without a window, awaited, saved, ended.

Reached through the SDK's adb server like a phone on USB. After the first boot a snapshot is saved, from which the next starts
take seconds. Tested with an SDK of scripts only: none can be installed where the tests run.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.devices.emulators import android_sdk
from harness.devices.emulators.instance import Instance
from harness.devices.transport import Transport, open_transport
from harness.errors import DeviceError, TransportError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

log = logging.getLogger(__name__)

DEFAULT_AVD = "ondevice-harness"
SNAPSHOT = "ondevice-harness-booted"
# The emulator takes an even port for its console and the next for ADB, in this range.
_PORTS = range(5584, 5682, 2)
_POLL_S = 1.0
_COMMAND_S = 15.0
_ACCELERATION = {"on": "on", "off": "off"}


class AndroidEmulator:
    """One virtual device. `profile` says how to reach it; see RunningEmulator."""

    def __init__(
        self,
        profile: DeviceProfile,
        *,
        opener: Callable[[DeviceProfile], Transport] = open_transport,
        poll_s: float = _POLL_S,
    ) -> None:
        if profile.emulator is None or profile.transport != "adb":
            raise DeviceError(f"{profile.name}: an Android device is reached over ADB", remedy="set transport: adb")
        self._spec, self._opener, self._poll_s = profile.emulator, opener, poll_s
        self._sdk = android_sdk.find_sdk()
        self.profile = profile
        self.avd = self._spec.avd or DEFAULT_AVD
        if self.avd not in self._sdk.avds():
            image = self._spec.system_image or android_sdk.default_image(profile.arch)
            log.info("making the virtual device %s of %s", self.avd, image)
            self._sdk.create(self.avd, image)
        android_sdk.run([str(self._sdk.adb), "start-server"], "start the adb server")
        self._instance = Instance(profile.name)
        try:
            self._boot()
        except BaseException:
            self._instance.remove()
            raise

    def revive(self) -> DeviceProfile:
        """See RunningEmulator. One that is only rebooting is waited for; a dead or hung one is started again."""
        if self._instance.alive:
            try:
                self._wait(self.profile)
            except DeviceError as error:
                log.warning("%s; starting it again", error)
                self._instance.end()
            else:
                return self.profile
        self._boot()
        return self.profile

    def rest(self) -> None:
        """See RunningEmulator. Left running: its own services would take a pause for a hang."""

    def wake(self) -> None:
        """See RunningEmulator. It never rests."""

    def stop(self) -> None:
        """See RunningEmulator. Nothing but the snapshot of the first boot is saved."""
        if self._instance.alive:
            try:
                self._console("kill")
            except DeviceError as error:
                log.warning("%s: %s; it is killed", self.profile.name, error)
        self._instance.remove()

    def _boot(self) -> None:
        """From the snapshot where there is one; without, a snapshot is saved once it has booted."""
        port = _free_pair(self.profile.name)
        # Not a key of the profile: who asked for a serial meant a device that was there already.
        profile = self.profile.model_copy(
            update={"adb_route": "server", "serial": f"emulator-{port}", "host": None, "port": None}
        )
        argv = [
            str(self._sdk.emulator),
            "-avd",
            self.avd,
            "-port",
            str(port),
            "-no-window",
            "-no-audio",
            "-no-boot-anim",
        ]
        argv += ["-no-snapshot-save", "-snapshot", SNAPSHOT, "-cores", str(self._spec.cpus)]
        argv += ["-memory", str(self._spec.memory_mib), "-gpu", "swiftshader_indirect"]
        argv += ["-accel", _ACCELERATION.get(os.environ.get("HARNESS_KVM", ""), "auto")]
        started = time.monotonic()
        self._instance.start(argv)
        try:
            self._wait(profile)
        except BaseException:
            self._instance.end()
            raise
        self.profile = profile
        log.info("%s has booted %.0f s after its start", profile.name, time.monotonic() - started)
        self._save()

    def _save(self) -> None:
        """A snapshot to start from the next time, unless there is one; without it the next start takes as long as this one."""
        try:
            if SNAPSHOT not in self._console("avd", "snapshot", "list"):
                self._console("avd", "snapshot", "save", SNAPSHOT)
        except DeviceError as error:
            log.warning("%s: no snapshot was saved: %s", self.profile.name, error)

    def _wait(self, profile: DeviceProfile) -> None:
        """Until Android says that it has booted. Raises DeviceError."""
        deadline = time.monotonic() + self._spec.boot_timeout_s
        last = "it was not seen by adb"
        while True:
            if not self._instance.alive:
                raise DeviceError(
                    f"{profile.name}: the emulator ended with code {self._instance.exit_code}:"
                    f" {self._instance.tail('emulator.log')}",
                    remedy="start it once by hand to see more: "
                    f"{self._sdk.emulator} -avd {self.avd} -no-window -verbose; without KVM it hardly boots at all",
                )
            try:
                with self._opener(profile) as transport:
                    said = transport.run(["getprop", "sys.boot_completed"], timeout=_COMMAND_S).stdout
                if said.strip() == b"1":
                    return
                last = "Android has not finished booting"
            except TransportError as error:
                last = error.message
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{profile.name}: not booted within {self._spec.boot_timeout_s:g} s: {last}",
                    remedy="raise 'boot_timeout_s' in the profile, and check that this host has KVM",
                    transient=True,
                )
            time.sleep(self._poll_s)

    def _console(self, *words: str) -> str:
        """A command of the emulator's console, through adb, which knows the console's secret."""
        serial = self.profile.serial or ""
        return android_sdk.run(
            [str(self._sdk.adb), "-s", serial, "emu", *words], f"ask the emulator to {' '.join(words)}"
        )


def _free_pair(name: str) -> int:
    """An even port that is free with the one after it. Raises DeviceError."""
    for port in _PORTS:
        try:
            for number in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port
    raise DeviceError(f"{name}: no port for an Android emulator is free", remedy="end some of those that run")
