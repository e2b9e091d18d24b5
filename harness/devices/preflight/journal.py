"""What was changed and left on devices, on the host's disk before it is changed: if the host dies, its next run puts it back.

One file for each session on a device, in $XDG_STATE_HOME/ondevice-harness/journal (~/.local/state/…), on disk (fsync)
before the first change and removed after the last restoration. A file whose host process is gone is a leftover; it is
replayed when its device is next opened, and by the commands that look after devices. The guardian (guardian.py) has then
usually been there first: every command is harmless twice.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.devices.preflight.shell import Shell
from harness.devices.transport import Transport

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

log = logging.getLogger(__name__)

_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One session's changes on one device. `device`: its name; `key`: where it is reached, to tell devices of one name
    apart. `undo`: commands, in order. `knobs`: name → what it stood at, in words. `pid`, `started`: the host process.
    `folder`: the session's own on the device."""

    device: str
    key: str
    token: str
    session: str | None
    created_at: str
    pid: int
    started: str
    undo: tuple[tuple[str, ...], ...]
    knobs: Mapping[str, str]
    env: Mapping[str, str] = field(default_factory=dict)
    sign: str | None = None
    folder: str | None = None

    @property
    def path(self) -> Path:
        """Its file."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.device)
        return journal_folder() / f"{name}-{self.token}{_SUFFIX}"

    @property
    def alive(self) -> bool:
        """Whether the process that wrote it still runs."""
        return process_started(self.pid) == self.started

    def write(self) -> None:
        """Bring it to the disk, whole or not at all. Raises OSError."""
        folder = journal_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self.path)
        _sync(folder)

    def remove(self) -> None:
        """What it tells of is put back."""
        self.path.unlink(missing_ok=True)


def journal_folder() -> Path:
    """Where the journal is."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ondevice-harness" / "journal"


def key_of(profile: DeviceProfile) -> str:
    """Where a device is reached; an emulator has another address each time, and its name is enough."""
    if profile.emulator is not None:
        return "emulator"
    return f"{profile.transport}:{profile.user or ''}@{profile.host or ''}:{profile.port or ''}:{profile.serial or ''}"


def new_entry(
    profile: DeviceProfile,
    *,
    token: str,
    session: str | None,
    undo: Sequence[Sequence[str]],
    knobs: Mapping[str, str],
    sign: str | None,
    folder: str | None = None,
) -> Entry:
    """An entry of this process; not written yet."""
    return Entry(
        device=profile.name,
        key=key_of(profile),
        token=token,
        session=session,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        pid=os.getpid(),
        started=process_started(os.getpid()),
        undo=tuple(tuple(command) for command in undo),
        knobs=dict(knobs),
        env=dict(profile.environment),
        sign=sign,
        folder=folder,
    )


def entries(profile: DeviceProfile | None = None) -> list[Entry]:
    """All entries, or those of one device. A file that cannot be read is said in the log and left alone."""
    found = []
    folder = journal_folder()
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []:
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            data["undo"] = tuple(tuple(str(word) for word in command) for command in data["undo"])
            entry = Entry(**data)
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s is no entry of the journal: %s", path, error)
            continue
        if profile is None or (entry.device == profile.name and entry.key == key_of(profile)):
            found.append(entry)
    return found


def leftovers(profile: DeviceProfile | None = None) -> list[Entry]:
    """Entries whose process is gone: what they tell of may still be changed."""
    return [entry for entry in entries(profile) if not entry.alive]


def restore_leftovers(profile: DeviceProfile, transport: Transport, *, session: str | None = None) -> list[str]:
    """Put back what dead sessions left changed on this device, and remove their files; in words, what was.

    `session`: the one that begins now, or goes on: its folder stays. Raises TransportError.
    """
    told = []
    for entry in leftovers(profile):
        shell = Shell(transport, entry.env)
        refused = run_undo(shell, entry.undo)
        if entry.sign is not None:
            shell.script('rm -f -- "$1"', entry.sign)
        if (
            entry.folder is not None
            and entry.session not in (None, session)
            and entry.folder.endswith(f"/sessions/{entry.session}")
        ):
            transport.remove(entry.folder)
        entry.remove()
        what = ", ".join(f"{name} to {words}" for name, words in entry.knobs.items())
        told.append(
            f"after session {entry.session}, which died: " + (f"put back {what}" if what else "removed its files")
        )
        told += refused
    return told


def run_undo(shell: Shell, undo: Sequence[Sequence[str]]) -> list[str]:
    """Run the commands, all of them; the words of those that failed. Raises TransportError."""
    if not undo:
        return []
    # One script: with slow login scripts each command of its own costs a good part of a second.
    lines = [
        f"said=$({shlex.join(command)} 2>&1) || echo {shlex.quote(f'`{shlex.join(command)}` failed')}: $said"
        for command in undo
    ]
    done = shell.script("\n".join(lines))
    return done.stdout.decode("utf-8", "replace").splitlines()


def _sync(folder: Path) -> None:
    """Bring a folder's list of files to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def process_started(pid: int) -> str:
    """When a process started: with its number, that names it for good. Empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "" if Path("/proc/self").exists() else _started_elsewhere(pid)
    except OSError:
        return ""
    state, fields = stat.rpartition(")")[2].split()[0], stat.rpartition(")")[2].split()
    return "" if state == "Z" else fields[19]


def _started_elsewhere(pid: int) -> str:
    """On a host without /proc the number alone must do."""
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ""
