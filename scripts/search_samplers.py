"""Six samplers at an equal budget: the best value found against the trials, over ten seeds, and one live search of each beside it.

    python scripts/search_samplers.py record --data DIR [--work DIR]         # a table of every candidate, 15 to 20 minutes
    python scripts/search_samplers.py simulate                               # six samplers × ten seeds on the table, a few minutes
    python scripts/search_samplers.py live [NAME …] --data DIR [--work DIR]  # one `harness search` each, about 3 minutes each

DIR holds fashion_mnist_dev.npz. The base is the demo's model. `record` really converts every candidate of SPACE, trains where it trains, and
asks the artifact itself for its answers to the validation rows: results/reference/search_trials.json, which a killed call goes on with.
`simulate` lets every sampler search by looking its candidates up there: that is what can be afforded ten times over. `live` is the
product, with conversions out of the cache where `record` has made them. What is sought: the most accuracy in at most SIZE_QUANTILE of
the sizes there are. Both write to results/reference/search_samplers.json, with the plot beside it. `--small --out DIR` tries all three on
six candidates that do not train.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from _evaluate import outputs
from _reference_models import ROOT, prepare
from _sampler_curves import best_of, drawn, size_limit, summary
from _wall_time import command, note

from converters.pipeline import convert
from converters.recipe_words import parse_recipes
from converters.search.front import best_so_far
from converters.search.plain import InMemory
from converters.search.samplers import SAMPLERS, Task, make_sampler
from converters.search.space import Space, read_space
from converters.search.study import Study
from converters.search.trial import Candidate, Objective, Outcome, Trial
from converters.variant import load_variant
from harness.experiment import load_experiment
from harness.session.variants import base_inputs
from harness.tune.search import Planned, plan, section_of

REFERENCE = ROOT / "results" / "reference"
TABLE, CURVES, PLOT = "search_trials.json", "search_samplers.json", "search_samplers.svg"
TRIALS, SEEDS = 60, 10
TRAINING_ROWS = 6000
# How many recipes are converted by one call of the pipeline, whose workers take their time to start.
BATCH = 60
SPACE: dict[str, Any] = {
    "recipes": [
        "prune_structured({ratio}, by={by}, epochs={epochs}) > {precision} @ tflite",
        "factorize({share}, epochs={epochs}) > {precision} @ tflite",
    ],
    "parameters": {
        "ratio": {"float": [0.1, 0.8], "step": 0.1},
        "by": {"choice": ["l2", "taylor"]},
        "share": {"float": [0.2, 0.9], "step": 0.1},
        "epochs": {"int": [0, 1]},
        "precision": {
            "choice": ["fp32", "fp16", "dynamic_wi8_afp32", "static_wi8_ai8", "weight_only_wi4_afp32"],
        },
    },
}
SMALL: dict[str, Any] = {
    "recipes": ["prune_structured({ratio}, by=l2, epochs=0) > {precision} @ tflite"],
    "parameters": {"ratio": {"float": [0.2, 0.6], "step": 0.2}, "precision": {"choice": ["fp32", "static_wi8_ai8"]}},
}
SMALL_TRIALS, SMALL_SEEDS = 4, 2
ACCURACY = Objective("accuracy", "maximise")


def experiment(arguments: argparse.Namespace, **search: Any) -> Path:
    """The experiment as a user would write it."""
    work: Path = arguments.work
    model, data = prepare("fashion", arguments.data, work / "bases", arguments.seed)
    content = {
        "name": "samplers",
        "base": str(model),
        "base_name": "fashion",
        "data": {"path": str(data), "training_limit": TRAINING_ROWS},
        "devices": ["local"],
        "seed": arguments.seed,
        "search": arguments.space | {"objectives": ["accuracy"], "trials": arguments.trials, "keep": 0} | search,
    }
    path = work / "samplers.yaml"
    # JSON is YAML too.
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def planned_of(arguments: argparse.Namespace) -> Planned:
    """What `harness search` would work with, so that the cache serves both."""
    from harness.cli.conversion import read_data

    path = experiment(arguments)
    loaded = load_experiment(path)
    spec = section_of(loaded, path, {})
    found = loaded.experiment
    if found.data is None:
        raise SystemExit("the experiment has no data")
    dataset = read_data(
        found.data,
        loaded.resolve(found.data.path),
        seed=found.seed,
        training=True,
        training_limit=loaded.training_limit,
    )
    return plan(loaded, path, spec, dataset, arguments.work / "variants")


# The table


def record(arguments: argparse.Namespace) -> None:
    """Convert and judge every candidate that the table lacks; written after every batch."""
    began = time.monotonic()
    planned = planned_of(arguments)
    space = planned.task.space
    table = arguments.out / TABLE
    rows = {row["key"]: row for row in read(table)}
    wanted = candidates(space)
    left = [each for key, each in wanted.items() if key not in rows][: arguments.limit]
    # Neighbours share their steps, so that one call of the pipeline makes a step for all of its precisions.
    left.sort(key=lambda each: (each.key.rpartition(">")[0], each.key))
    print(f"{len(wanted)} candidates, {len(left)} to make", flush=True)
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        rows |= {row["key"]: row for row in made(batch, planned)}
        write(table, [rows[key] for key in sorted(rows)])
        print(f"{min(start + BATCH, len(left))} of {len(left)}, {time.monotonic() - began:.0f} s", flush=True)


def candidates(space: Space) -> dict[str, Candidate]:
    """All that can be made, by key; values that mean the same recipe are one."""
    return {each.key: each for each in space.everything() if space.refusal(each) is None}


def made(batch: Sequence[Candidate], planned: Planned) -> Iterator[dict[str, Any]]:
    """Rows of these candidates."""
    data = planned.setup.data
    if data is None or data.dataset.labels is None:
        raise SystemExit("there are no labelled validation rows")
    recipes = [parse_recipes([each.recipe])[0] for each in batch]
    request = dataclasses.replace(planned.setup.request, recipes=recipes, dataset=data.dataset, ledger=True)
    report = convert(request, lambda event: print(f"  {event.text}", flush=True) if event.row is None else None)
    for each, row in zip(batch, report.rows, strict=True):
        base = {
            "key": each.key,
            "recipe": each.recipe,
            "values": dict(each.values),
            "command": command(),
            "date": today(),
            "seed": planned.setup.seed,
        }
        if row.status != "ok" or row.folder is None:
            yield base | {
                "state": "failed",
                "error": f"{row.error_class}: {row.message}",
                "accuracy": None,
                "size_bytes": None,
            }
            continue
        variant = load_variant(row.folder)
        dataset = data.dataset.matched_to(base_inputs([variant]))
        answers = outputs(variant, dict(dataset.inputs)).argmax(axis=-1)
        ledger = variant.manifest.ledger or {}
        yield base | {
            "state": "complete",
            "accuracy": float(np.mean(answers == data.dataset.labels)),
            "rows": len(data.dataset.labels),
            "size_bytes": variant.manifest.size_bytes,
            "macs": ledger.get("macs"),
        }


# The searches


class LookedUp:
    """An `Evaluate` that knows the table."""

    def __init__(self, table: Sequence[Mapping[str, Any]]) -> None:
        self._rows = {row["key"]: row for row in table}

    def __call__(self, candidate: Candidate, *, number: int, fidelity: float) -> Outcome:
        """What the candidate came to when it was recorded."""
        del number, fidelity
        row = self._rows[candidate.key]
        if row["state"] != "complete":
            return Outcome("failed", error=row["error"])
        return Outcome("complete", {"accuracy": row["accuracy"], "size_bytes": row["size_bytes"]})


def simulate(arguments: argparse.Namespace) -> None:
    """Every sampler with every seed on the table; written after each sampler."""
    table = read(arguments.out / TABLE)
    space: Space = read_space(arguments.space)
    missing = sorted(candidates(space).keys() - {row["key"] for row in table})
    if missing:
        raise SystemExit(f"the table lacks {len(missing)} candidates, for example {missing[0]}: record them first")
    limit, evaluate = size_limit(table), LookedUp(table)
    best = best_of(table, limit)
    for name in arguments.names or SAMPLERS:
        began = time.monotonic()
        curves = []
        for seed in range(arguments.seeds):
            task = Task(space, (ACCURACY,), (limit,), seed)
            memory = InMemory()
            Study(task, make_sampler(name, task), evaluate, memory).run(arguments.trials)
            curves.append(best_so_far(memory.trials(), ACCURACY, (limit,)))
        seconds = round(time.monotonic() - began, 1)
        extra = {"seconds": seconds, "command": command(), "date": today()}
        rows = [row | extra for row in summary(name, curves, arguments.trials, best, limit)]
        keep(rows, "table", name, arguments.out)
        print(f"{name}: {rows[-1]['mean']} of {best:.4f} after {arguments.trials} trials ({seconds} s)", flush=True)


def live(arguments: argparse.Namespace) -> None:
    """One search of each sampler by the product; one that was killed is resumed."""
    table = read(arguments.out / TABLE)
    limit, expected = size_limit(table), {row["key"]: row for row in table if row["state"] == "complete"}
    for name in arguments.names or SAMPLERS:
        began = time.monotonic()
        path = experiment(arguments, sampler=name, constraints=[f"size_bytes <= {limit.bound:g}"])
        results = arguments.work / ("live-small" if arguments.small else "live") / name
        trials = searched(path, results)
        curve = best_so_far(trials, ACCURACY, (limit,))
        known = [trial for trial in trials if trial.outcome.state == "complete" and trial.candidate.key in expected]
        off = [abs((t.outcome.metrics["accuracy"] or 0.0) - expected[t.candidate.key]["accuracy"]) for t in known]
        common = {
            "source": "live",
            "sampler": name,
            "size_limit_bytes": limit.bound,
            "trials_as_recorded": sum(each < 1e-9 for each in off),
            "trials_in_the_table": len(off),
            "largest_difference": max(off, default=None),
            "seconds": round(time.monotonic() - began, 1),
            "command": command(),
            "date": today(),
        }
        rows = [common | {"trial": number + 1, "value": value} for number, value in enumerate(curve)]
        keep(rows, "live", name, arguments.out)
        print(f"{name}: {curve[-1]} after {len(curve)} trials ({common['seconds']} s)", flush=True)


def begun(store: Path) -> bool:
    """Whether a study is there to go on with."""
    from harness.errors import SpecError
    from harness.store import Store
    from harness.store.studies import resolve_study

    if not store.is_file():
        return False
    with Store.open(store) as opened:
        try:
            resolve_study(opened, "latest")
        except SpecError:  # killed before it had begun
            return False
    return True


def searched(path: Path, results: Path) -> list[Trial]:
    """The trials of `harness search`."""
    from harness.store import Store
    from harness.store.studies import SqlMemory, resolve_study

    store = results / "harness.sqlite"
    command = [str(Path(sys.executable).with_name("harness")), "search", str(path), "--results", str(results), "--json"]
    resume = ["--resume", "latest"] if begun(store) else []
    done = subprocess.run([*command, *resume], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1, 4):
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-4000:]}")
    with Store.open(store) as opened:
        return SqlMemory(opened, resolve_study(opened, "latest")).trials()


# Files


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def keep(rows: Sequence[Mapping[str, Any]], source: str, sampler: str, folder: Path) -> None:
    """Put the rows in place of those of the same source and sampler, and draw the plot anew."""
    old = [row for row in read(folder / CURVES) if (row["source"], row["sampler"]) != (source, sampler)]
    order = {name: place for place, name in enumerate(SAMPLERS)}
    merged = sorted([*old, *rows], key=lambda row: (row["source"], order[row["sampler"]], row["trial"]))
    write(folder / CURVES, merged)
    (folder / PLOT).write_text(drawn(merged, list(SAMPLERS)), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("part", choices=["record", "simulate", "live"])
    parser.add_argument("names", nargs="*", help="simulate, live: samplers (default: all)")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--work", type=Path, default=Path("search-work"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--trials", type=int, default=None)
    parser.add_argument("--limit", type=int, default=None, help="record: at most so many candidates in this call")
    parser.add_argument("--small", action="store_true", help="six candidates, to try it")
    parser.add_argument("--out", type=Path, default=REFERENCE)
    arguments = parser.parse_intermixed_args()
    arguments.work = arguments.work.resolve()
    if arguments.part != "simulate" and arguments.data is None:
        parser.error("--data is needed")
    if arguments.small and arguments.out == REFERENCE:
        parser.error("--small is to try the script: give --out as well")
    if unknown := sorted(set(arguments.names) - set(SAMPLERS)):
        parser.error(f"no sampler is called {unknown[0]}: {', '.join(SAMPLERS)}")
    arguments.space = SMALL if arguments.small else SPACE
    arguments.trials = arguments.trials or (SMALL_TRIALS if arguments.small else TRIALS)
    arguments.seeds = arguments.seeds or (SMALL_SEEDS if arguments.small else SEEDS)
    began = time.monotonic()
    {"record": record, "simulate": simulate, "live": live}[arguments.part](arguments)
    note(arguments.out, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
