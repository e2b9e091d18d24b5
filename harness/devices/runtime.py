"""What runs the agent on a device: the device's own Python, or the bundle pushed to it. Decided once, when it is opened.

Used by `harness.devices.device`, which runs everything on the device that is Python through `Runtime.argv`.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to start Python on the device: `argv` before the arguments, `env` beside the profile's, and what it is.

    `kind`: "own" or "bundle"; `digest`: the bundle's, or None. The environment applies to the agent and its engines.
    """

    kind: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    digest: str | None = None

    @property
    def label(self) -> str:
        """For messages."""
        return self.argv[0] if self.kind == "own" else f"the bundle {(self.digest or '')[:12]}"


def prepare_runtime(profile: DeviceProfile, transport: Transport) -> Runtime:
    """Decide by the profile and by what the device has; push the bundle where that is it. Raises DeviceError."""
    if _wants_bundle(profile, transport):
        from harness.devices.bundle.deploy import deploy_bundle

        return deploy_bundle(profile, transport)
    return Runtime("own", (_interpreter(profile),))


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
    done = transport.run([_interpreter(profile), "-", *modules], timeout=_PROBE_TIMEOUT_S, stdin=_USABLE.encode())
    return done.returncode != 0


def _interpreter(profile: DeviceProfile) -> str:
    if profile.python is not None:
        return profile.python
    if profile.transport == "local":
        import sys

        return sys.executable
    return "python3"
