"""The Android SDK of this host: where it is, which of its tools are there, the virtual devices it has. Never installs anything.

Used by `android.py`. What is missing becomes a DeviceError with the `sdkmanager` line that brings it.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DeviceError

_DOCS = "https://developer.android.com/studio#command-line-tools-only"
_TOOL_TIMEOUT_S = 120.0
# Images without Google's services: smaller, rootable, and nothing runs in the background that was not asked for.
_IMAGE = "system-images;android-34;default;{abi}"
_ABI = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}


@dataclass(frozen=True, slots=True)
class Sdk:
    """An SDK with the tools that every use needs: `emulator` and `adb`."""

    root: Path
    emulator: Path
    adb: Path

    def avds(self) -> list[str]:
        """Names of the virtual devices. Raises DeviceError."""
        said = run([str(self.emulator), "-list-avds"], "list the virtual devices")
        return [line.strip() for line in said.splitlines() if line.strip() and " " not in line.strip()]

    def create(self, avd: str, image: str) -> None:
        """Make a virtual device of an installed system image. Raises DeviceError."""
        if not self.root.joinpath(*image.split(";")).is_dir():
            raise DeviceError(
                f"the Android SDK in {self.root} has no {image}",
                remedy=f"install it: {self._manager('sdkmanager')} '{image}'; or name an installed one as 'system_image'",
            )
        manager = self.root / self._manager("avdmanager")
        if not manager.is_file():
            raise DeviceError(
                f"there is no virtual device {avd}, and the Android SDK in {self.root} has no avdmanager to make it",
                remedy=f"install the command-line tools ({_DOCS}) as {self.root}/cmdline-tools/latest",
            )
        # It asks whether a hardware profile of one's own is wanted.
        run([str(manager), "create", "avd", "-n", avd, "-k", image], f"make {avd}", answer="no\n")

    def _manager(self, name: str) -> Path:
        """A command-line tool's path below the root: the newest there is, or where it would be."""
        found = sorted(self.root.glob(f"cmdline-tools/*/bin/{name}"))
        latest = self.root / "cmdline-tools" / "latest" / "bin" / name
        return (latest if latest in found or not found else found[-1]).relative_to(self.root)


def find_sdk() -> Sdk:
    """The SDK in ANDROID_HOME, ANDROID_SDK_ROOT or ~/Android/Sdk. Raises DeviceError that says what to install."""
    named = [os.environ.get("ANDROID_HOME"), os.environ.get("ANDROID_SDK_ROOT"), str(Path.home() / "Android" / "Sdk")]
    places = [Path(place) for place in named if place]
    root = next((place for place in places if place.is_dir()), None)
    if root is None:
        raise DeviceError(
            "no Android SDK is installed: looked in ANDROID_HOME, ANDROID_SDK_ROOT and ~/Android/Sdk",
            remedy=f"install the command-line tools ({_DOCS}), then: sdkmanager emulator platform-tools"
            f" '{default_image(None)}', and set ANDROID_HOME",
        )
    sdk = Sdk(root, root / "emulator" / "emulator", root / "platform-tools" / "adb")
    missing = [
        package
        for package, path in (("emulator", sdk.emulator), ("platform-tools", sdk.adb))
        if not os.access(path, os.X_OK)
    ]
    if missing:
        raise DeviceError(
            f"the Android SDK in {root} lacks {' and '.join(missing)}",
            remedy=f"install with: sdkmanager {' '.join(missing)}",
        )
    return sdk


def default_image(arch: str | None) -> str:
    """The system image for an architecture; without one, for this host's, which alone runs fast."""
    return _IMAGE.format(abi=_ABI.get(arch or platform.machine(), "x86_64"))


def run(argv: list[str], what: str, *, answer: str = "") -> str:
    """Run one of the SDK's tools; its stdout. Raises DeviceError with its own words."""
    try:
        done = subprocess.run(
            argv,
            input=answer,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"cannot {what}: {argv[0]}: {error}") from error
    if done.returncode != 0:
        words = " | ".join((done.stderr + done.stdout).split("\n"))[-400:].strip(" |")
        raise DeviceError(f"cannot {what}: {Path(argv[0]).name} said: {words}")
    return done.stdout
