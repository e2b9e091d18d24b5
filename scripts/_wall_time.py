"""Writes down how long a script of figures took: results/reference/wall_time.json. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAME = "wall_time.json"
# What follows these says where, not what.
PLACES = ("--data", "--work", "--out")


def command(argv: list[str] | None = None) -> str:
    """The call without the folders of one machine."""
    words = list(sys.argv if argv is None else argv)
    kept, skip = [f"python scripts/{Path(words[0]).name}"], False
    for word in words[1:]:
        if skip or word in PLACES:
            skip = not skip
        elif not word.startswith(tuple(f"{place}=" for place in PLACES)):
            kept.append(word)
    return " ".join(kept)


def note(folder: Path, seconds: float, argv: list[str] | None = None) -> None:
    """Keep the seconds of this call, unless an earlier one of the same words took longer: what was made before is not made again."""
    path = folder / NAME
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    row = {
        "command": command(argv),
        "seconds": round(seconds, 1),
        "cpus": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).date().isoformat(),
    }
    by = {old["command"]: old for old in rows}
    if by.get(row["command"], {"seconds": 0.0})["seconds"] < seconds:
        by[row["command"]] = row
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([by[key] for key in sorted(by)], indent=1) + "\n", encoding="utf-8")
