"""Trials that survive: each is a line of results/fidelity/DATE-trials.jsonl as soon as it is made, so that a goal that was cut off goes on.

A trial is known by its `key` and by `setting`, what it was made with: another protocol or version makes it another trial. What one
goal has made another may read (G5 judges the sizes of effects in G4's trials).

Environment: FIDELITY_TRIALS, so many trials where a goal would make more, for trying out; FIDELITY_WORK, the folder of the file.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
_STARTED_ON = datetime.now(UTC).date().isoformat()


def count(wanted: int) -> int:
    """How many trials to make."""
    return min(wanted, int(os.environ.get("FIDELITY_TRIALS", wanted)))


def path() -> Path:
    """The file of the day on which this process began."""
    folder = Path(os.environ.get("FIDELITY_WORK", ROOT / "results" / "fidelity"))
    return folder / f"{_STARTED_ON}-trials.jsonl"


def made(setting: str) -> dict[str, dict[str, Any]]:
    """Key → trial, of the day's trials that were made with that setting. A line cut off in the middle was no trial."""
    found = {}
    if path().is_file():
        for line in path().read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["setting"] == setting:
                found[entry["key"]] = entry
    return found


def keep(entry: dict[str, Any]) -> None:
    """Append a trial."""
    path().parent.mkdir(parents=True, exist_ok=True)
    with path().open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry, separators=(",", ":")) + "\n")


def seed_of(seed: int, key: str) -> int:
    """A seed of its own for each trial, the same on every machine."""
    return random.Random(f"{seed}/{key}").randrange(1 << 31)  # noqa: S311 - no secret


def series(
    keys: Sequence[str],
    make: Callable[[str, int], dict[str, Any]],
    *,
    setting: str,
    seed: int,
    shown: Callable[[dict[str, Any]], str] = lambda entry: str(entry.get("verdict")),
) -> list[dict[str, Any]]:
    """Make the trials that are not there yet, in random order (what changes with time must not fall on one kind), and
    give all, in the order of `keys`. `make(key, seed)` gives what to keep. One that breaks is raised: the goal breaks with it.
    """
    done = made(setting)
    todo = [key for key in keys if key not in done]
    random.Random(seed).shuffle(todo)  # noqa: S311
    begun = time.monotonic()
    for number, key in enumerate(todo, 1):
        entry: dict[str, Any] = {"key": key, "setting": setting, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        entry |= {"load": round(os.getloadavg()[0], 2), **make(key, seed_of(seed, key))}
        keep(entry)
        done[key] = entry
        left_s = (time.monotonic() - begun) / number * (len(todo) - number)
        print(f"  {number}/{len(todo)} {key}: {shown(entry)}; {left_s / 60:.1f} min left", flush=True)
    return [done[key] for key in keys]
