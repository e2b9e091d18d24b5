"""The knobs of one session on one device: read, written down, guarded, turned, and put back.

The order is what makes it safe: first everything is read, then the way back is on the host's disk (journal) and in the hands
of a process on the device (guardian), and only then is the first knob turned. What the device forbids is kept in words.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.devices.preflight.base import Knob, KnobRefusedError, State
from harness.devices.preflight.guardian import Guardian
from harness.devices.preflight.journal import Entry, entries, new_entry, run_undo
from harness.devices.preflight.knobs import KNOBS
from harness.devices.preflight.shell import Shell
from harness.devices.transport import Transport
from harness.errors import DeviceError

if TYPE_CHECKING:
    from harness.profiles import DeviceProfile

log = logging.getLogger(__name__)

# A sysfs other than the device's own, for tests; recorded in the device's facts.
SYSFS_VARIABLE = "HARNESS_SYSFS"


@dataclass(slots=True)
class _Turned:
    knob: Knob
    before: State
    after: State | None = None


def shell_of(profile: DeviceProfile, transport: Transport) -> Shell:
    """How the knobs and the thermal gate ask this device."""
    return Shell(transport, profile.environment, profile.environment.get(SYSFS_VARIABLE, "/sys"))


class Preflight:
    """`begin`, `resume` after a lost connection, `restore`, `end`. `outcomes`: knob → what it stands at, or why it was left
    alone. Also without knobs there is an entry in the journal: it knows the session's `folder` on the device."""

    def __init__(self, profile: DeviceProfile, work: str, session: str | None, folder: str | None = None) -> None:
        self._folder = folder
        self.profile = profile
        self.outcomes: dict[str, str] = {}
        self._work = work
        self._session = session
        self._turned: list[_Turned] = []
        self._guardian: Guardian | None = None
        self._entry: Entry | None = None

    def begin(self, transport: Transport) -> None:
        """Turn what the profile allows. Raises TransportError; what was turned until then is for `end`."""
        shell = shell_of(self.profile, transport)
        readable = self._readable(shell)
        undo = [command for turned in reversed(readable) for command in turned.knob.undo(turned.before)]
        token = secrets.token_hex(6)
        entry = new_entry(
            self.profile,
            token=token,
            session=self._session,
            undo=undo,
            knobs={turned.knob.name: turned.before.words for turned in readable},
            sign=self._new_sign(token) if readable else None,
            folder=self._folder,
        )
        try:
            entry.write()
        except OSError as error:
            words = f"left alone: the way back cannot be written down ({error})"
            self.outcomes |= {turned.knob.name: words for turned in readable}
            log.warning("%s: what this session leaves if it dies cannot be written down: %s", self.profile.name, error)
            return
        self._entry = entry
        if readable:
            self._guardian, self._turned = Guardian(undo), readable
            self._guardian.watch(shell, str(entry.sign))
            self._turn(shell)

    def _readable(self, shell: Shell) -> list[_Turned]:
        """The knobs that may and can be turned, with what they stand at."""
        if not self.profile.may_change:
            return []
        others = [entry for entry in entries(self.profile) if entry.knobs and entry.alive]
        if others:
            words = f"left alone: session {others[0].session} of this host is measuring on the device"
            self.outcomes = dict.fromkeys(self.profile.may_change, words)
            return []
        found = (self._look(name, shell) for name in self.profile.may_change)
        return [turned for turned in found if turned is not None]

    def _look(self, name: str, shell: Shell) -> _Turned | None:
        knob = KNOBS[name](shell, self.profile)
        try:
            reason = knob.available()
            if reason is None:
                return _Turned(knob, knob.read())
        except KnobRefusedError as error:
            reason = error.message
        self.outcomes[name] = reason
        log.info("%s: %s: %s", self.profile.name, name, reason)
        return None

    def _turn(self, shell: Shell) -> None:
        for turned in self._turned:
            name = turned.knob.name
            turned.knob.shell = shell
            try:
                turned.after = turned.knob.apply(turned.before)
            except KnobRefusedError as error:
                self.outcomes[name] = error.message
                log.info("%s: %s: %s", self.profile.name, name, error.message)
            else:
                self.outcomes[name] = f"{turned.after.words} (was {turned.before.words})"

    def _new_sign(self, token: str) -> str:
        return f"{self._work}/guardian-{token}"

    def resume(self, transport: Transport) -> None:
        """After a lost connection: the old guardian has put all back, or is about to. Raises TransportError."""
        if self._guardian is None:
            return
        shell = shell_of(self.profile, transport)
        self._guardian.watch(shell, self._new_sign(secrets.token_hex(6)))
        self._turn(shell)

    def end(self) -> None:
        """Nothing is left on the device."""
        if self._entry is not None:
            self._entry.remove()
            self._entry = None

    def abandon(self) -> None:
        """The device is gone: what may be left there is for the next to open it, be it this process."""
        if self._entry is not None:
            replace(self._entry, pid=-1, started="abandoned").write()
            self._entry = None

    def restore(self, transport: Transport) -> list[str]:
        """Put everything back, and check; what could not be, in words. Harmless twice. Raises TransportError: then the
        guardian and the journal do it."""
        if self._guardian is None or self._entry is None:
            return []
        shell = shell_of(self.profile, transport)
        wrong = run_undo(shell, self._entry.undo)
        for turned in self._turned:
            turned.knob.shell = shell
            try:
                now = turned.knob.read()
            except DeviceError as error:
                wrong.append(f"{turned.knob.name}: {error.message}")
                continue
            if now.values != turned.before.values:
                wrong.append(f"{turned.knob.name} was {turned.before.words} and is now {now.words}")
        self._guardian.dismiss(shell)
        self._guardian = None
        for words in wrong:
            log.warning("%s: %s", self.profile.name, words)
        return wrong
