"""KVM or plain emulation? KVM where architecture and device file allow it and it has not been seen to fail here.

Some hosts offer /dev/kvm and then stall every guest (nested virtualisation). So the first boot with KVM is its own probe: a guest
that does not answer soon is started again without, and that is remembered for this host's kernel. HARNESS_KVM=off|on overrides.
"""

from __future__ import annotations

import os
import platform

from harness.devices.emulators.cache import cache_root
from harness.errors import SpecError

KVM = "kvm"
TCG = "tcg"
# A guest under KVM answers in two or three seconds.
KVM_TIMEOUT_S = 20.0


def choose(machine: str, *, counting: bool) -> str:
    """KVM or TCG for a guest of that machine; counting instructions needs TCG. Raises SpecError for a bad HARNESS_KVM."""
    wanted = os.environ.get("HARNESS_KVM", "auto")
    if wanted not in ("auto", "on", "off"):
        raise SpecError(f"HARNESS_KVM is {wanted!r}", remedy="set it to on, off or auto")
    if counting or wanted == "off" or platform.machine() != machine:
        return TCG
    if wanted == "on":
        return KVM
    return KVM if os.access("/dev/kvm", os.R_OK | os.W_OK) and not _failed_here() else TCG


def insisted() -> bool:
    """Whether the user wants KVM and no replacement."""
    return os.environ.get("HARNESS_KVM") == "on"


def remember_failure() -> None:
    """From now on `choose` says TCG on this host, until its kernel changes."""
    (cache_root() / "kvm-failed").write_text(platform.release(), encoding="utf-8")


def _failed_here() -> bool:
    path = cache_root() / "kvm-failed"
    return path.exists() and path.read_text(encoding="utf-8") == platform.release()
