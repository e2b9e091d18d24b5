"""Knobs of Android, through its own commands (`cmd`, `svc`, `settings`, `dumpsys`, `input`), as the shell user may.

A version or vendor that lacks one says so in its own words; these are recorded. What cannot be read back says so too.
"""

from __future__ import annotations

import re

from harness.collectors.android_text import parse_battery
from harness.collectors.unavailable import Unavailable
from harness.devices.preflight.base import Command, Knob, KnobRefusedError, State
from harness.devices.preflight.shell import words_of

_STAYON = ("stay_on_while_plugged_in",)
_KEY_SLEEP, _KEY_WAKE = "223", "224"
_CHARGING = ("charging", "full")
_SETTLES = 6  # readings, one a second, until the charger has let go


class AndroidKnob(Knob):
    """One that needs `cmd` and its like."""

    programs: tuple[str, ...] = ("cmd",)

    def available(self) -> str | None:
        """See Knob."""
        for program in self.programs:
            if not self.shell.has(program):
                return f"this is no Android: there is no '{program}'"
        return None

    def _do(self, *argv: str) -> str:
        """A command's output. Raises KnobRefusedError with its own words when it fails."""
        done = self.shell.run(argv)
        said = done.stdout.decode("utf-8", "replace").strip()
        # Old versions of `cmd` and `svc` answer an unknown subcommand with their usage, some of them with code 0.
        if done.returncode != 0 or re.match(r"(unknown command|usage:|error:|exception)", said, re.IGNORECASE):
            raise KnobRefusedError(f"the device refuses `{' '.join(argv)}`: {words_of(done)}")
        return said


class FixedPerformance(AndroidKnob):
    """Android's fixed performance mode (11 and newer): a point the device can hold, not its maximum."""

    name = "fixed_performance"
    _SET = ("cmd", "power", "set-fixed-performance-mode-enabled")

    def read(self) -> State:
        """See Knob."""
        return State("off, as far as is known: Android does not tell")

    def undo(self, before: State) -> list[Command]:
        """See Knob."""
        del before
        return [(*self._SET, "false")]

    def apply(self, before: State) -> State:
        """See Knob."""
        del before
        said = self._do(*self._SET, "true")
        if "not supported" in said.lower():
            raise KnobRefusedError(f"not supported ({said})")
        return State("on")


class StayAwake(AndroidKnob):
    """The screen does not time out while the device is plugged in."""

    name = "stay_awake"
    programs = ("svc", "settings")

    def read(self) -> State:
        """See Knob."""
        value = self._do("settings", "get", "global", *_STAYON)
        return State(value, {"value": value})

    def undo(self, before: State) -> list[Command]:
        """See Knob."""
        value = before.values["value"]
        if value == "null":
            return [("settings", "delete", "global", *_STAYON)]
        return [("settings", "put", "global", *_STAYON, value)]

    def apply(self, before: State) -> State:
        """See Knob."""
        del before
        self._do("svc", "power", "stayon", "true")
        after = self.read()
        if after.words in ("0", "null"):
            raise KnobRefusedError(f"no effect: stay_on_while_plugged_in reads back as {after.words}")
        return after


class Screen(AndroidKnob):
    """The screen is on: a sleeping phone parks its large cores."""

    name = "screen"
    programs = ("dumpsys", "input")

    def read(self) -> State:
        """See Knob."""
        found = re.search(r"mWakefulness=(\w+)", self._do("dumpsys", "power"))
        if found is None:
            raise KnobRefusedError("dumpsys power does not tell the wakefulness")
        return State(found[1], {"wakefulness": found[1]})

    def undo(self, before: State) -> list[Command]:
        """See Knob."""
        return [] if before.words == "Awake" else [("input", "keyevent", _KEY_SLEEP)]

    def apply(self, before: State) -> State:
        """See Knob."""
        if before.words != "Awake":
            self._do("input", "keyevent", _KEY_WAKE)
        after = self.read()
        if after.words != "Awake":
            raise KnobRefusedError(f"no effect: the device is still {after.words}")
        return after


class AirplaneMode(AndroidKnob):
    """No radio (11 and newer). Never where the way to the device is a radio."""

    name = "airplane_mode"

    def available(self) -> str | None:
        """See Knob."""
        profile = self.profile
        wireless = profile.transport == "adb" and (
            profile.host is not None or re.search(r":\d+$|_adb-tls-connect", profile.serial or "") is not None
        )
        if profile.transport == "ssh" or wireless:
            return "left alone: the device is reached over the network, which it would cut"
        return super().available()

    def read(self) -> State:
        """See Knob."""
        said = self._do("cmd", "connectivity", "airplane-mode")
        if said not in ("enabled", "disabled"):
            raise KnobRefusedError(f"the device does not tell ({said})")
        return State(said)

    def undo(self, before: State) -> list[Command]:
        """See Knob."""
        return [("cmd", "connectivity", "airplane-mode", "enable" if before.words == "enabled" else "disable")]

    def apply(self, before: State) -> State:
        """See Knob."""
        del before
        self._do("cmd", "connectivity", "airplane-mode", "enable")
        after = self.read()
        if after.words != "enabled":
            raise KnobRefusedError(f"no effect: it reads back as {after.words}")
        return after


class SuspendCharging(AndroidKnob):
    """No current from the cable, so that the gauge sees what the work costs. `cmd battery suspend_input` is for debuggable
    builds; the property behind it acts on some vendors only: the battery's own word decides whether it worked."""

    name = "suspend_charging"
    programs = ("cmd", "dumpsys")
    _PROPERTY = "power.battery_input.suspended"

    def read(self) -> State:
        """See Knob."""
        told = parse_battery(self._do("dumpsys", "battery"))
        if isinstance(told, Unavailable) or told.status is None:
            raise KnobRefusedError("`dumpsys battery` does not tell whether it charges")
        if told.updates_stopped:
            raise KnobRefusedError("somebody set the battery's values by hand: run `cmd battery reset`")
        charging = told.status in _CHARGING
        return State("charging" if charging else "not charging", {"charging": str(charging)})

    def undo(self, before: State) -> list[Command]:
        """See Knob."""
        if before.words != "charging":
            return []
        return [("cmd", "battery", "reset"), ("setprop", self._PROPERTY, "false")]

    def apply(self, before: State) -> State:
        """See Knob."""
        if before.words != "charging":
            return before
        reasons = []
        for argv in (("cmd", "battery", "suspend_input"), ("setprop", self._PROPERTY, "true")):
            try:
                self._do(*argv)
            except KnobRefusedError as error:
                reasons.append(error.message)
                continue
            if self._let_go():
                return State("suspended")
            reasons.append(f"`{' '.join(argv)}` has no effect: the battery still charges")
        for command in self.undo(before):
            self.shell.run(command)
        raise KnobRefusedError("; ".join(reasons))

    def _let_go(self) -> bool:
        """Whether the battery says within some seconds that it charges no more."""
        for attempt in range(_SETTLES):
            if attempt:
                self.shell.run(("sleep", "1"))
            if self.read().words != "charging":
                return True
        return False
