"""Looks which power meters the device has, and reads each a few times: `python -m agent.survey '{"sysfs": "/sys", …}'`.

Answers with one JSON line on stdout. Nothing is judged here: names, texts and the kernel's refusals go home, where
`harness.collectors.power` finds the meters in them. Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .sensors import read_file, run_command, words_of

# Class of device → attributes to read once, attributes that live, and names to try where the folder cannot be listed.
CLASSES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "power_supply": (
        r"type|scope|present|technology|model_name|manufacturer",
        r"status|online|current_now|voltage_now|power_now|charge_counter|charge_now|energy_now|capacity",
        ("battery", "bms", "BAT0", "BAT1", "usb", "ac", "main", "dc", "wireless"),
    ),
    "hwmon": (
        r"name|update_interval|(in|curr|power)\d+_label",
        r"(in|curr)\d+_input|power\d+_(input|average)",
        (),
    ),
    "iio": (
        r"name|label|in_(power|voltage|current)\d*_(scale|offset|label)|(in_)?(\w+_)?sampling_frequency",
        r"in_(power|voltage|current)\d*_(raw|input)",
        (),
    ),
    "powercap": (r"name|max_energy_range_uj", r"energy_uj", ()),
}
_FOLDERS = {
    "power_supply": "class/power_supply",
    "hwmon": "class/hwmon",
    "iio": "bus/iio/devices",
    "powercap": "class/powercap",
}
_DUMPSYS = "/system/bin/dumpsys"


@dataclass(slots=True)
class Node:
    """One device of a class. `texts`: read once; `series`: attribute → text of each reading (None: refused, with the words
    in `errors`); `cost_ns`: longest reading of each attribute that lives."""

    kind: str
    name: str
    folder: str
    real: str
    texts: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[str | None]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    cost_ns: dict[str, int] = field(default_factory=dict)

    def read_once(self, attributes: list[str], fixed: str) -> None:
        """Read what does not change, and note what lives."""
        for attribute in attributes:
            if re.fullmatch(fixed, attribute):
                try:
                    self.texts[attribute] = read_file(f"{self.folder}/{attribute}")
                except OSError as error:
                    self.errors[attribute] = words_of(error)
            else:
                self.series[attribute] = []

    def read(self) -> None:
        """Read what lives."""
        for attribute, texts in self.series.items():
            started = time.monotonic_ns()
            try:
                texts.append(read_file(f"{self.folder}/{attribute}"))
            except OSError as error:
                texts.append(None)
                self.errors[attribute] = words_of(error)
            self.cost_ns[attribute] = max(self.cost_ns.get(attribute, 0), time.monotonic_ns() - started)


def _nodes(root: Path, kind: str, refusals: dict[str, str]) -> list[Node]:
    fixed, lives, guesses = CLASSES[kind]
    place = root / _FOLDERS[kind]
    try:
        names = sorted(path.name for path in place.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        refusals[kind] = words_of(error)
        names = [name for name in guesses if (place / name).is_dir()]
    found = []
    for name in names:
        node = Node(kind, name, str(place / name), os.path.realpath(place / name))
        try:
            attributes = sorted(path.name for path in Path(node.folder).iterdir())
        except OSError as error:
            node.errors["."] = words_of(error)
            attributes = re.findall(r"\w+", lives) if guesses else []
        wanted = [name for name in attributes if re.fullmatch(f"{fixed}|{lives}", name)]
        node.read_once(wanted, fixed)
        if node.series or node.errors:
            found.append(node)
    return found


def survey(sysfs: str = "/sys", readings: int = 20, period_s: float = 0.1) -> dict[str, Any]:
    """Everything at once; takes `readings` × `period_s` seconds where there is anything to read."""
    refusals: dict[str, str] = {}
    nodes = [node for kind in CLASSES for node in _nodes(Path(sysfs), kind, refusals)]
    times: list[int] = []
    living = [node for node in nodes if node.series]
    for _ in range(readings if living else 0):
        times.append(time.monotonic_ns())
        for node in living:
            node.read()
        time.sleep(max(0.0, period_s - (time.monotonic_ns() - times[-1]) / 1e9))
    answer: dict[str, Any] = {"sysfs": sysfs, "t_ns": times, "refusals": refusals, "uid": os.getuid()}
    answer["nodes"] = [{name: getattr(node, name) for name in Node.__slots__} for node in nodes]
    if sysfs == "/sys" and Path(_DUMPSYS).exists():
        try:
            answer["dumpsys_battery"] = run_command((_DUMPSYS, "battery"))
        except OSError as error:
            refusals["dumpsys"] = words_of(error)
    return answer


def main() -> None:
    """Survey as the one argument asks."""
    sys.stdout.write(json.dumps(survey(**json.loads(sys.argv[1]))) + "\n")


if __name__ == "__main__":
    main()
