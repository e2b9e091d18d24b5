"""Takes everything off a device that the harness put there: bundles, uploads, sessions. The backend of `harness devices clean`.

Only folders that are the harness's own are removed; the work folder itself goes when nothing else is in it. Works without
Python on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.devices.bundle.archive import RUNTIMES, SCRATCH
from harness.devices.bundle.deploy import UNPACK_TIMEOUT_S, WHERE
from harness.devices.preflight import restore_leftovers
from harness.devices.preflight.journal import entries
from harness.devices.runtime import work_folder_of
from harness.devices.transport import Transport, open_transport
from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

# What the harness makes in a work folder.
OWN = ("sessions", "blobs", RUNTIMES, SCRATCH)
_CLEAN = (
    WHERE
    + """
while [ "${w%/}" != "$w" ]; do w=${w%/}; done
case $w in
  ''|/tmp|/var/tmp|/home|/root|/data|/data/local|/data/local/tmp|/sdcard|/mnt|/opt|/usr|/var|"${HOME:-/}"|*/..|*/../*)
    echo "shared=${w:-/}"; exit 0 ;;
esac
echo "work=$w"
for name; do
  if [ -e "$w/$name" ]; then
    rm -rf "$w/$name" || exit 1
    echo "removed=$name"
  fi
done
rmdir "$w" 2>/dev/null && echo "removed=."
exit 0
"""
)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was removed: `work` is the work folder on the device, `removed` the names in it ("." for itself)."""

    work: str
    removed: tuple[str, ...]


def clean(profile: DeviceProfile, *, opener: Callable[[DeviceProfile], Transport] = open_transport) -> Cleaned:
    """Remove all that sessions left on a device; nothing else there is touched. Raises DeviceError."""
    with opener(profile) as transport:
        return clean_over(profile, transport)


def clean_over(profile: DeviceProfile, transport: Transport) -> Cleaned:
    """The same over an open connection. Settings that a dead session left changed are put back first.

    Refused while a session of this host is measuring there: its files would go too.
    """
    busy = [entry for entry in entries(profile) if entry.alive]
    if busy:
        raise DeviceError(
            f"{profile.name}: session {busy[0].session} is measuring there (process {busy[0].pid} of this host)",
            remedy="wait until it has ended, or end it with Ctrl-C",
        )
    restore_leftovers(profile, transport)
    done = transport.run(
        ["sh", "-c", _CLEAN, "sh", work_folder_of(profile), *OWN], timeout=UNPACK_TIMEOUT_S, env=profile.environment
    )
    lines = [line.partition("=") for line in done.stdout.decode("utf-8", "replace").splitlines()]
    work = next((value for key, _, value in lines if key == "work"), None)
    shared = next((value for key, _, value in lines if key == "shared"), None)
    if shared is not None:
        raise DeviceError(
            f"{profile.name}: {shared} is not the harness's alone: what is called {', '.join(OWN)} there may be somebody's",
            remedy="remove it by hand, and give a 'work_folder' of its own",
        )
    if work is None or done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip()[-300:] or "it has no home folder"
        raise DeviceError(
            f"{profile.name}: cannot remove what the harness left: {words}", remedy="check 'work_folder' and its rights"
        )
    return Cleaned(work, tuple(value for key, _, value in lines if key == "removed"))
