"""Knobs of the CPU's clock: the governor, and one fixed frequency. Root's to set on most devices; an unrooted phone forbids both.

A fixed frequency is one that the device can hold: the base frequency where the kernel tells it, else the highest step at or
below three quarters of the maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.devices.preflight.base import Command, Knob, KnobRefusedError, State
from harness.devices.preflight.shell import WRITE, words_of

_PLACES = ("devices/system/cpu/cpufreq/policy*", "devices/system/cpu/cpu[0-9]*/cpufreq")
_SUSTAINED = 0.75
_WRITE_ALL = 'while [ $# -gt 0 ]; do printf %s "$2" > "$1" || exit 1; shift 2; done'
GOVERNOR = "performance"


def write(path: str, value: str) -> Command:
    """The command that writes a value to a file of the device."""
    return ("sh", "-c", WRITE, "sh", path, value)


class CpufreqKnob(Knob):
    """What governor and frequency share: the policies, their files, writing and reading back."""

    needs: str

    def _texts(self, name: str) -> dict[str, str]:
        """Policy folder → first line of its file of that name."""
        for place in _PLACES:
            files = self.shell.files(f"{place}/{name}")
            if files:
                return {file.path.rpartition("/")[0]: file.text for file in files}
        return {}

    def available(self) -> str | None:
        """See Knob."""
        for place in _PLACES:
            files = self.shell.files(f"{place}/{self.needs}")
            if files:
                denied = [file.path for file in files if not file.writable]
                return f"not permitted ({denied[0]} is not writable for this user)" if denied else None
        return "the kernel offers no cpufreq here"

    def _write(self, values: Sequence[tuple[str, str]]) -> None:
        """Write values to files, in order, until one is refused."""
        done = self.shell.script(_WRITE_ALL, *(word for pair in values for word in pair))
        if done.returncode != 0:
            raise KnobRefusedError(f"not permitted ({words_of(done)})")


class Governor(CpufreqKnob):
    """scaling_governor of every policy, to "performance"."""

    name = "governor"
    needs = "scaling_governor"

    def available(self) -> str | None:
        """See Knob."""
        reason = super().available()
        if reason is not None:
            return reason
        for offered in self._texts("scaling_available_governors").values():
            if GOVERNOR not in offered.split():
                return f"the kernel offers no governor '{GOVERNOR}', only {offered}"
        return None

    def read(self) -> State:
        """See Knob."""
        found = {f"{folder}/scaling_governor": text for folder, text in self._texts("scaling_governor").items()}
        return State(", ".join(sorted(set(found.values()))), found)

    def undo(self, before: State) -> list[Command]:
        """See Knob."""
        return [write(path, value) for path, value in before.values.items()]

    def apply(self, before: State) -> State:
        """See Knob."""
        self._write([(path, GOVERNOR) for path in before.values])
        after = self.read()
        if set(after.values.values()) != {GOVERNOR}:
            raise KnobRefusedError(f"no effect: it reads back as {after.words}")
        return after


class Frequency(CpufreqKnob):
    """Lowest and highest frequency of every policy, to one and the same."""

    name = "frequency"
    needs = "scaling_max_freq"

    def read(self) -> State:
        """See Knob."""
        values: dict[str, str] = {}
        for name in ("scaling_min_freq", "scaling_max_freq"):
            values |= {f"{folder}/{name}": text for folder, text in self._texts(name).items()}
        highest = sorted({value for path, value in values.items() if path.endswith("max_freq")})
        lowest = sorted({value for path, value in values.items() if path.endswith("min_freq")})
        return State(f"{', '.join(lowest)} to {', '.join(highest)} kHz", values)

    def undo(self, before: State) -> list[Command]:
        """See Knob. A lower end above the upper end is refused by the kernel: the lower end goes down first."""
        commands = []
        floors = self._texts("cpuinfo_min_freq")
        for path, value in before.values.items():
            folder, _, name = path.rpartition("/")
            if name == "scaling_max_freq":
                low = f"{folder}/scaling_min_freq"
                lowest = before.values.get(low, value)
                commands += [write(low, floors.get(folder, lowest)), write(path, value), write(low, lowest)]
        return commands

    def apply(self, before: State) -> State:
        """See Knob."""
        floors, tops = self._texts("cpuinfo_min_freq"), self._texts("cpuinfo_max_freq")
        bases, steps = self._texts("base_frequency"), self._texts("scaling_available_frequencies")
        writes: list[tuple[str, str]] = []
        goal: dict[str, str] = {}
        for path, highest in before.values.items():
            folder, _, name = path.rpartition("/")
            if name != "scaling_max_freq":
                continue
            wanted = choose_khz(tops.get(folder, highest), bases.get(folder), steps.get(folder))
            low = f"{folder}/scaling_min_freq"
            writes += [(low, floors.get(folder, before.values.get(low, wanted))), (path, wanted), (low, wanted)]
            goal |= {low: wanted, path: wanted}
        self._write(writes)
        after = self.read()
        wrong = [f"{path} reads back as {value}" for path, value in after.values.items() if goal.get(path) != value]
        if wrong:
            raise KnobRefusedError(f"no effect: {wrong[0]}")
        return State(f"fixed at {after.words.rpartition(' to ')[2]}", after.values)


def choose_khz(top: str, base: str | None, steps: str | None) -> str:
    """The frequency to fix, in kHz: what the CPU can hold. `steps`: the kernel's list, where it has one."""
    if base and base.isdigit() and int(base) > 0:
        return base
    limit = int(top) * _SUSTAINED
    offered = sorted(int(step) for step in (steps or "").split() if step.isdigit())
    below = [step for step in offered if step <= limit]
    if below:
        return str(below[-1])
    return str(offered[0]) if offered else str(int(limit) // 1000 * 1000)
