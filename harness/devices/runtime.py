"""What runs the agent on a device: the device's own Python, or the bundle pushed to it. Decided once, when it is opened.

Used by `harness.devices.device`, which runs everything on the device that is Python through `Runtime.argv`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from harness.devices.transport import Transport

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

# Exits 0 where Python is new enough for the agent, numpy is there, and one of the named modules is.
_USABLE = """
import importlib.util as u, sys
sys.exit(not (sys.version_info >= (3, 10) and u.find_spec("numpy") and any(u.find_spec(m) for m in sys.argv[1:])))
"""
_PROBE_TIMEOUT_S = 30.0
DEFAULT_WORK_FOLDER = "~/.cache/ondevice-harness"
# On an Android that is not rooted the one place where programs may be run from; its `~` is the root folder.
ADB_WORK_FOLDER = "/data/local/tmp/ondevice-harness"


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to start Python on the device: `argv` before the arguments, `env` beside the profile's, and what it is.

    `kind`: "own" or "bundle"; `digest`: the bundle's, or None. The environment applies to the agent and its engines.
    `work`: the work folder's absolute path on the device, where the bundle was looked for and `~` means nothing; else None.
    """

    kind: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    digest: str | None = None
    work: str | None = None

    @property
    def label(self) -> str:
        """For messages."""
        return self.argv[0] if self.kind == "own" else f"the bundle {(self.digest or '')[:12]}"


def work_folder_of(profile: DeviceProfile) -> str:
    """Where files go on the device; a leading `~` is for the device to expand."""
    if profile.work_folder is not None:
        return profile.work_folder
    if profile.transport == "adb":
        return ADB_WORK_FOLDER
    cache = os.environ.get("XDG_CACHE_HOME") if profile.transport == "local" else None
    return f"{cache}/ondevice-harness" if cache else DEFAULT_WORK_FOLDER


def prepare_runtime(profile: DeviceProfile, transport: Transport) -> Runtime:
    """Decide by the profile and by what the device has; push the bundle where that is it. Raises DeviceError."""
    if _wants_bundle(profile, transport):
        from harness.devices.bundle.deploy import deploy_bundle

        return deploy_bundle(profile, transport)
    return Runtime("own", (interpreter_of(profile),))


def _wants_bundle(profile: DeviceProfile, transport: Transport) -> bool:
    if profile.runtime != "auto":
        return profile.runtime == "bundle"
    if profile.transport == "adb" or profile.bundle is not None:
        return True
    # Whoever names an interpreter means it: what is wrong with that one is to be said, not passed over.
    if profile.transport == "local" or profile.python is not None:
        return False
    from harness.devices.facts import ENGINE_MODULES

    modules = [module for engine in profile.engines for module in ENGINE_MODULES[engine]]
    done = transport.run([interpreter_of(profile), "-", *modules], timeout=_PROBE_TIMEOUT_S, stdin=_USABLE.encode())
    return done.returncode != 0


def interpreter_of(profile: DeviceProfile) -> str:
    """The Python that the runtime "own" uses on that device."""
    if profile.python is not None:
        return profile.python
    if profile.transport == "local":
        import sys

        return sys.executable
    return "python3"
