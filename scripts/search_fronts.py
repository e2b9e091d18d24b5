"""Two searches over one space: by latency measured on this host, and by instructions counted on an arm64 guest; the fronts side by side.

    python scripts/search_fronts.py --data DIR [--work DIR] [--trials 16] [--guest qemu-arm64-icount]

DIR holds fashion_mnist_dev.npz. The base is the demo's model; one epoch of training on 4,000 rows at most. In three parts, each of which
goes on where a killed one was:

1. `harness search` on `local`, killed with SIGKILL after a third of its trials, and resumed: what had ended is not touched, and no
   recipe is tried twice.
2. `harness search` on the guest, with the same space, sampler and seed; what both try is converted once.
3. `harness run` of both fronts on each of the devices, accuracy on the test rows: each front seen by the other clock.

Rows go to results/reference/search_fronts.json, the picture to search_fronts.svg and search_fronts.html beside it. About fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _fronts_picture import LOCAL, page, picture
from _reference_models import ROOT, prepare
from _wall_time import command, note

from harness.errors import SpecError
from harness.store import Store
from harness.store.studies import SqlMemory, resolve_study

TIME = {LOCAL: "latency_ns", "guest": "virtual_time_ns"}
# Answers of an emulated guest take a tenth of a second each, and the host has all test rows.
TRAINING_ROWS, GUEST_ROWS = 4000, 100
# Instructions repeat, so that one short run counts them; latency does not.
PROTOCOL: dict[str, dict[str, Any]] = {
    LOCAL: {"preset": "quick"},
    "guest": {"preset": "quick", "runs": 1, "run_samples": 4, "rounds": 2},
}
_POLL_S = 0.2


def experiment(name: str, device: str, model: Path, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A search as a user would write it."""
    metric = TIME[name]
    return {
        "name": f"fronts-{name}",
        "base": str(model),
        "base_name": "fashion",
        "data": {"path": str(data), "training_limit": TRAINING_ROWS},
        "devices": [device],
        "protocol": {"preset": "quick"},
        "seed": arguments.seed,
        "search": {
            "protocol": PROTOCOL[name],
            "recipes": [
                "{precision} @ tflite",
                "prune_structured({ratio}, by=l2, epochs=1) > {precision} @ tflite",
                "factorize({share}, epochs=1) > {precision} @ tflite",
            ],
            "parameters": {
                "precision": {"choice": ["fp32", "static_wi8_ai8", "dynamic_wi8_afp32"]},
                "ratio": {"float": [0.1, 0.6], "step": 0.1},
                "share": {"float": [0.4, 0.9], "step": 0.1},
            },
            "objectives": ["accuracy", metric],
            "constraints": ["accuracy_drop_pp <= 15"],
            "sampler": arguments.sampler,
            "trials": arguments.trials,
            "keep": 0,
        },
    }


def write(path: Path, content: dict[str, Any]) -> Path:
    # JSON is YAML too.
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def harness(*words: str | Path) -> list[str]:
    return [str(Path(sys.executable).with_name("harness")), *map(str, words)]


def called(command: Sequence[str]) -> dict[str, Any] | list[Any]:
    """What a command prints as JSON. Ends the script where the command failed for good."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1, 4):
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    found: dict[str, Any] | list[Any] = json.loads(done.stdout)
    return found


def stored(results: Path) -> dict[int, dict[str, Any]]:
    """The trials of the newest study, by number; none where there is no study yet."""
    path = results / "harness.sqlite"
    if not path.is_file():
        return {}
    with Store.open(path) as store:
        try:
            study = resolve_study(store, "latest")
        except SpecError:  # it has not begun
            return {}
        return {
            trial.number: {
                "key": trial.candidate.key,
                "state": trial.outcome.state,
                "metrics": dict(trial.outcome.metrics),
            }
            for trial in SqlMemory(store, study).trials()
        }


def ended(trials: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {number: trial for number, trial in trials.items() if trial["state"] != "running"}


def killed(path: Path, results: Path, after: int) -> dict[int, dict[str, Any]]:
    """Begin the search, kill it and all it started once so many trials have ended; what the store has then."""
    process = subprocess.Popen(
        harness("search", path, "--results", results, "--json"), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while process.poll() is None:
            now = stored(results)
            if len(ended(now)) >= after and len(now) > len(ended(now)):
                break
            time.sleep(_POLL_S)
        else:
            raise SystemExit("the search ended before it could be killed")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return stored(results)


def local_search(path: Path, results: Path, trials: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The search on this host, killed and resumed; its document, and what the kill did."""
    note = results / "killed.json"
    if not note.is_file():
        results.mkdir(parents=True, exist_ok=True)
        before = stored(results) or killed(path, results, trials // 3)
        note.write_text(json.dumps(before), encoding="utf-8")
    before = {int(number): trial for number, trial in json.loads(note.read_text(encoding="utf-8")).items()}
    document = called(harness("search", path, "--results", results, "--resume", "latest", "--json"))
    after = stored(results)
    keys = [trial["key"] for trial in after.values()]
    finished = ended(before)
    return dict(document), {
        "ended_before_the_kill": len(finished),
        "at_work_when_killed": len(before) - len(finished),
        "trials_in_the_end": len(after),
        "unchanged": sum(after[number] == trial for number, trial in finished.items()),
        "recipes_tried_twice": len(keys) - len(set(keys)),
        "taken_up_again": sum(
            after[number]["key"] == trial["key"] and after[number]["state"] != "running"
            for number, trial in before.items()
            if number not in finished
        ),
    }


def guest_search(path: Path, results: Path) -> dict[str, Any]:
    resume = ["--resume", "latest"] if stored(results) else []
    return dict(called(harness("search", path, "--results", results, "--json", *resume)))


def on_front(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [trial for trial in document["trials"] if trial["on_front"]]


def crossed(
    fronts: dict[str, dict[str, Any]], model: Path, data: Path, work: Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rows of the recipes of both fronts on both devices, a session each; what was measured of the same recipes is not again."""
    recipes = list(dict.fromkeys(trial["recipe"] for document in fronts.values() for trial in on_front(document)))
    found: list[dict[str, Any]] = []
    for name, device, limit in ((LOCAL, LOCAL, None), ("guest", arguments.guest, GUEST_ROWS)):
        kept = work / f"crossed-{name}.json"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {"recipes": None}
        if known["recipes"] != recipes:
            content = {
                "name": f"fronts-crossed-{name}",
                "base": str(model),
                "base_name": "fashion",
                "recipes": ["fp32 @ tflite", *recipes],
                "data": {"path": str(data), "training_limit": TRAINING_ROWS} | ({"limit": limit} if limit else {}),
                "devices": [device],
                "protocol": PROTOCOL[name],
                "seed": arguments.seed,
            }
            path = write(work / f"crossed-{name}.yaml", content)
            rows = called(harness("run", path, "--results", work / "crossed", "--json"))
            known = {"recipes": recipes, "rows": rows if isinstance(rows, list) else rows["rows"]}
            kept.write_text(json.dumps(known), encoding="utf-8")
        found += known["rows"]
    return found


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, ties shared."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values
    ]


def correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None for fewer than three."""
    if len(one) < 3:
        return None
    a, b = ranks(one), ranks(other)
    middle = (len(a) - 1) / 2
    top = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    below = (sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)) ** 0.5
    return top / below if below else None


def compared(rows: list[dict[str, Any]], fronts: dict[str, dict[str, Any]], guest: str) -> list[dict[str, Any]]:
    """One flat row per recipe of the fronts: both times over the base's, and by how much the clocks disagree."""
    by = {(row["variant"], row["device"]): row for row in rows if row["status"] == "ok"}
    base = {
        device: next((row for (_, d), row in by.items() if d == device and row["recipe"] == "fp32"), None)
        for device in (LOCAL, guest)
    }
    members = {name: {trial["variant"]: trial for trial in on_front(document)} for name, document in fronts.items()}
    found = []
    for variant in dict.fromkeys(name for name, _ in by):
        here, there = by.get((variant, LOCAL)), by.get((variant, guest))
        if here is None or there is None or base[LOCAL] is None or base[guest] is None:
            continue
        latency = here["latency_median_ns"] / base[LOCAL]["latency_median_ns"]
        counted = there["virtual_time_ns"] / base[guest]["virtual_time_ns"]
        trial = members[LOCAL].get(variant) or members["guest"].get(variant) or {}
        found.append(
            {
                "variant": variant,
                "recipe": trial.get("recipe", "fp32 @ tflite"),
                "on_local_front": variant in members[LOCAL],
                "on_guest_front": variant in members["guest"],
                "accuracy_validation": trial.get("metrics", {}).get("accuracy"),
                "accuracy_test": here["accuracy"],
                "accuracy_test_guest": there["accuracy"],
                "guest_rows": GUEST_ROWS,
                "latency_median_ns": here["latency_median_ns"],
                "latency_low_ns": here["latency_median_low_ns"],
                "latency_high_ns": here["latency_median_high_ns"],
                "virtual_time_ns": there["virtual_time_ns"],
                "latency_ratio": latency,
                "virtual_time_ratio": counted,
                "clocks_disagree": latency / counted,
                "size_bytes": here["size_bytes"],
            }
        )
    return sorted(found, key=lambda row: row["latency_ratio"])


def reasons(rows: list[dict[str, Any]]) -> list[str]:
    """What differs between the fronts, from the figures alone; why, as far as the two clocks' nature explains it."""
    if not rows:
        return ["no recipe was measured on both devices"]
    both = [row for row in rows if row["on_local_front"] and row["on_guest_front"]]
    rho = correlation([row["latency_ratio"] for row in rows], [row["virtual_time_ratio"] for row in rows])
    words = [
        f"{len(both)} of {len(rows)} recipes are on both fronts; the two clocks order the {len(rows)} with a rank correlation of "
        + ("n/a" if rho is None else f"{rho:.2f}")
    ]
    for kind, mark in (("integer (static)", "static"), ("integer weights (dynamic)", "dynamic"), ("float", "fp32")):
        own = [row for row in rows if re.split(r"[+.]", row["variant"])[-1].startswith(mark)]
        if own:
            here = sum(row["latency_ratio"] for row in own) / len(own)
            there = sum(row["virtual_time_ratio"] for row in own) / len(own)
            words.append(
                f"{kind}: {here:.2f} of the base's time on this host, {there:.2f} of its instructions on the guest ({len(own)} recipes)"
            )
    words.append(
        "The guest counts every instruction as 2 ns and knows no cache, pipeline or vector width: what saves instructions saves virtual time in "
        "full, what waits for memory costs nothing. The host has other vector instructions than the guest's Cortex-A72, whose kernels "
        "have no dot-product instruction, so integer kernels gain differently on either."
    )
    return words


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("search-work"))
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--sampler", default="nsga2")
    parser.add_argument("--guest", default="qemu-arm64-icount")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    model, data = prepare("fashion", arguments.data, work / "bases", arguments.seed)
    paths = {
        name: write(work / f"{name}.yaml", experiment(name, device, model, data, arguments))
        for name, device in ((LOCAL, LOCAL), ("guest", arguments.guest))
    }
    fronts = {}
    fronts[LOCAL], kill = local_search(paths[LOCAL], work / LOCAL, arguments.trials)
    print(json.dumps({"kill": kill, "seconds": round(time.monotonic() - began)}), flush=True)
    fronts["guest"] = guest_search(paths["guest"], work / "guest")
    print(json.dumps({"guest_front": fronts["guest"]["front"], "seconds": round(time.monotonic() - began)}), flush=True)
    rows = compared(crossed(fronts, model, data, work, arguments), fronts, arguments.guest)
    stamp = {"command": command(), "date": datetime.now(UTC).date().isoformat()}
    document = {
        "kill": kill | stamp,
        "differences": reasons(rows),
        "rows": [row | stamp for row in rows],
        "trials": [
            {
                "search": name,
                **{key: trial[key] for key in ("number", "recipe", "state", "on_front", "seconds")},
                **trial["metrics"],
                **stamp,
            }
            for name, found in fronts.items()
            for trial in found["trials"]
        ],
        "seconds": round(time.monotonic() - began),
        "host_cpus": os.cpu_count(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    svg = picture(rows) if rows else ""
    (arguments.out / "search_fronts.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "search_fronts.svg").write_text(svg, encoding="utf-8")
    (arguments.out / "search_fronts.html").write_text(page(svg, document), encoding="utf-8")
    note(arguments.out, time.monotonic() - began)
    print("\n".join(document["differences"]))
    print(f"{len(rows)} rows in {arguments.out / 'search_fronts.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
