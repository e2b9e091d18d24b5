"""Which bundle an emulator has in its work folder from the start, and how it gets there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on this host; `key` names its contents."""

    path: Path
    key: str


def wanted_bundle(profile: DeviceProfile) -> Bundle | None:
    """The bundle that the profile asks for, where it is built."""
    del profile
    return None


def place_bundle(bundle: Bundle, work: Path) -> None:
    """Unpack a bundle into a work folder as if it had been pushed there."""
    del bundle, work
