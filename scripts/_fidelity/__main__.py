"""Show what the harness is worth: `scripts/fidelity [G1 G2 …]` runs the goals of docs/methodology and writes down what came of them.

Each goal's answer goes into results/fidelity/DATE.json as soon as it is there, beside those of the same day; a goal run again replaces
its own. The table in docs/methodology.md is made from the newest such file of each goal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import table
from goals import MODULES, goal
from machine import busy, machine

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "results" / "fidelity"


def answer(name: str, seed: int) -> dict[str, Any]:
    """Run one goal. A goal that breaks is a goal not reached, with the error as its note."""
    before, started = busy(), time.monotonic()
    entry: dict[str, Any] = {"title": None, "pass": False, "figure": None, "bound": None, "n": 0}
    try:
        asked = goal(name)
        entry["title"] = asked.title
        found = asked.measure(seed)
    except Exception as error:  # noqa: BLE001 - the other goals are still worth running, and the table says what broke
        traceback.print_exc()
        entry["note"] = f"broke: {type(error).__name__}: {error}"
    else:
        entry |= {"pass": bool(found.passed), "figure": found.figure, "bound": found.bound, "n": found.n}
        entry |= {"note": found.note, "details": found.details}
    entry["seconds"] = round(time.monotonic() - started, 1)
    entry |= {"command": f"scripts/fidelity {name} --seed {seed}", "before": before, "after": busy()}
    entry["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    return entry


def save(name: str, entry: dict[str, Any], out: Path) -> Path:
    """Put one answer into the day's file."""
    path = out / f"{datetime.now(UTC).date().isoformat()}.json"
    out.mkdir(parents=True, exist_ok=True)
    day = json.loads(path.read_text()) if path.is_file() else {"goals": {}}
    goals = day["goals"] | {name: entry}
    ordered = {key: goals[key] for key in sorted(goals, key=lambda key: int(key[1:]))}
    path.write_text(json.dumps({"machine": machine(), "goals": ordered}, indent=1) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fidelity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("goals", nargs="*", metavar="G", help=f"goals to run, of {', '.join(MODULES)}; all without any")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only make the table in docs/methodology.md again")
    args = parser.parse_args()
    unknown = [name for name in args.goals if name not in MODULES]
    if unknown:
        parser.error(f"no goal {', '.join(unknown)}; there are {', '.join(MODULES)}")
    failed = 0
    for name in [] if args.table else args.goals or list(MODULES):
        print(f"{name} …", flush=True)
        entry = answer(name, args.seed)
        path = save(name, entry, args.out)
        failed += not entry["pass"]
        verdict = "pass" if entry["pass"] else "FAIL"
        print(
            f"{name} {verdict} {json.dumps(entry['figure'])} (n={entry['n']}, {entry['seconds']} s) {entry['note']}",
            flush=True,
        )
        print(f"  in {path}", flush=True)
    table.write(args.out, ROOT / "docs" / "methodology.md")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
