"""How long until every verdict is settled: the demo's variants stopped one by one, against as many runs of all as the last one needs.

    python scripts/decision_time.py [--repeats 1] [--max-runs 60]

Both are real sessions on this host over all of the demo's variants, a tenth of a second of each per run. Adaptive: `stop_on: verdict`, three
to --max-runs runs, looked at after each, so that its intervals are widened for the looks. Fixed: --max-runs runs of everything, judged once at
the end by plain 95 % intervals. Both keep false verdicts of the whole table at 5 % by Holm's correction. Time is device time of the
latency runs (probes are the same in both).

How long a fixed plan must be has to be known beforehand: `_decision_plan.py` finds the length at which nine sessions in ten settle everything,
and the time that adaptive sessions take until as many do, both drawn from the runs of the fixed session. Their ratio is the result. Beside
it stand the two live sessions, and the smallest number of runs at which the live fixed one would have been settled ("hindsight"): a length
chosen by looking, so at a larger error than it says, and of no use to anybody who has to plan. Writes results/fidelity/DATE-decision-time.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "_fidelity"))

from _decision_plan import Ratios, Seconds, fitted, planned
from machine import busy, machine

from converters.variant import Variant
from harness.cli.artifacts import collect, record
from harness.cli.conversion import read_data
from harness.cli.run import _converted
from harness.experiment import load_experiment
from harness.plan import PRESETS, MeasurementProtocol, Plan, make_plan
from harness.profiles import DeviceProfile
from harness.records import LATENCY, Run, SessionData
from harness.runner import SessionSpec, run_session
from harness.session.events import STOPPED, Event
from harness.session.resume import Progress, progress_of, run_blocks
from harness.session.standing import Standing
from harness.stats.compare import MINIMUM_RUNS, run_log_ratio
from harness.store import Store

DEVICE = "local"
# Runs short enough for a whole matrix, long enough that a process is not mostly its own start.
PROTOCOL = dataclasses.replace(PRESETS["quick"], runs=MINIMUM_RUNS, run_s=0.1, warmup_s=0.05, rounds=10)
# An adaptive session is to be at least that many times faster.
BOUND = 2.0


def demo_variants(out: Path) -> list[Variant]:
    """All of the demo's variants, out of the cache where they are there already."""
    loaded = load_experiment(Path(str(resources.files("harness.demo"))) / "experiment.yaml")
    spec = loaded.experiment
    if spec.data is None:
        raise ValueError("the demo has lost its data")
    dataset = read_data(spec.data, loaded.resolve(spec.data.path), seed=spec.seed)
    folders, _, _ = _converted(loaded, dataset, out, use_cache=True, quiet=True)
    return collect(folders)


def measured(variants: Sequence[Variant], protocol: MeasurementProtocol, seed: int) -> tuple[SessionData, list[str]]:
    """One session over them, out of a store on disk; and what it said when it stopped."""
    told: list[str] = []

    def listen(event: Event) -> None:
        if event.kind == STOPPED:
            told.append(event.text)

    with tempfile.TemporaryDirectory(prefix="decision-") as folder, Store.open(Path(folder) / "s.sqlite") as store:
        spec = SessionSpec(
            name="decision",
            variants=[record(variant) for variant in variants],
            artifacts={variant.name: variant for variant in variants},
            devices=[DeviceProfile(name=DEVICE, transport="local")],
            protocol=protocol,
            seed=seed,
        )
        return store.load(run_session(spec, store, listen)), told


def plan_of(data: SessionData, protocol: MeasurementProtocol) -> Plan:
    """The plan that such a session follows."""
    engines = sorted({run.engine for run in data.runs})
    return make_plan(
        {item.name: item.format for item in data.variants},
        {DEVICE: engines},
        protocol,
        seed=data.session.seed,
        evaluate=False,
        recipes={item.name: item.recipe for item in data.variants},
    )


def open_after(data: SessionData, protocol: MeasurementProtocol, runs: int | None = None) -> dict[str, str]:
    """Variants whose verdict is not settled, by the rule that stops sessions; after the first `runs` runs, seen once, where given."""
    progress = progress_of(data)
    if runs is not None:
        protocol = dataclasses.replace(protocol, runs=runs, max_runs=runs, stop_on="verdict")
        cut = {key: made[:runs] for key, made in progress.blocks.items()}
        progress = dataclasses.replace(Progress(), blocks=cut, failed=progress.failed)
    standing = Standing(plan_of(data, protocol), {DEVICE: protocol}, progress)
    return {name: words for key in standing.targets for name, words in standing.unsettled(key).items()}


def rounds_of(runs: Sequence[Run]) -> list[tuple[int, float]]:
    """Each round of latency runs: how many variants were measured in it, and its device time; runs made in turns took theirs together."""
    circles: dict[int, dict[object, float]] = {}
    variants: dict[int, int] = defaultdict(int)
    for run in runs:
        if run.kind == LATENCY:
            mine = circles.setdefault(run.round, {})
            label = run.environment.get("turns", run.id)
            mine[label] = max(mine.get(label, 0.0), run.duration_s)
            variants[run.round] += len(run_blocks(run))
    return [(variants[round_], sum(circles[round_].values())) for round_ in sorted(circles)]


def log_ratios(data: SessionData, protocol: MeasurementProtocol) -> Ratios:
    """Engine → variant → log ratio to the base of its format in each run that had both."""
    found: Ratios = {}
    for target in plan_of(data, protocol).targets:
        runs = [run_blocks(run) for run in data.runs if run.kind == LATENCY and run.engine == target.engine]
        own = found.setdefault(target.engine, {})
        for name in (name for name in target.variants if name != target.base):
            pairs = [(run[name][1], run[target.base][1]) for run in runs if name in run and target.base in run]
            common = [(mine, base, sorted(mine.keys() & base.keys())) for mine, base in pairs]
            own[name] = [run_log_ratio([a[i] for i in both], [b[i] for i in both]) for a, b, both in common if both]
    return found


def one(variants: Sequence[Variant], most: int, seed: int, sessions: int) -> dict[str, Any]:
    """An adaptive and a fixed session, in an order that the seed decides, and what follows from them."""
    adaptive = dataclasses.replace(PROTOCOL, max_runs=most, stop_on="verdict")
    fixed = dataclasses.replace(PROTOCOL, runs=most, max_runs=most, stop_on="estimate")
    both: dict[str, tuple[SessionData, list[str]]] = {}
    for name, protocol in sorted({"adaptive": adaptive, "fixed": fixed}.items(), reverse=bool(seed % 2)):
        both[name] = measured(variants, protocol, seed)
    data, told = both["adaptive"]
    whole = both["fixed"][0]
    rounds, others = rounds_of(whole.runs), rounds_of(data.runs)
    length = next((n for n in range(PROTOCOL.runs, most + 1) if not open_after(whole, fixed, n)), None)
    took, all_s = sum(s for _, s in others), sum(s for _, s in rounds)
    pool = log_ratios(whole, fixed)
    time_of = fitted([*rounds, *others])
    # One process per engine: the start of a round is theirs together.
    seconds = {engine: Seconds(time_of.start / len(pool), time_of.each) for engine in pool}
    runs = {
        item.name: sum(any(b.variant == item.name for b in run.blocks) for run in data.runs if run.kind == LATENCY)
        for item in data.variants
    }
    return {
        "seed": seed,
        "planned": planned(pool, seconds, sessions=sessions, seed=seed),
        "adaptive": {"seconds": round(took, 1), "runs": runs, "open": open_after(data, adaptive), "told": told},
        "fixed": {"seconds": round(all_s, 1), "runs": most, "open": open_after(whole, fixed, most)},
        "live_ratio": round(all_s / took, 3),
        "hindsight": {
            "runs": length,
            "seconds": None if length is None else round(sum(s for _, s in rounds[:length]), 1),
        },
        "log_ratios": {e: {name: [round(v, 5) for v in own] for name, own in mine.items()} for e, mine in pool.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--max-runs", type=int, default=60)
    parser.add_argument("--sessions", type=int, default=200, help="sessions drawn for each plan")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    before, begun = busy(), time.monotonic()
    trials = []
    with tempfile.TemporaryDirectory(prefix="decision-variants-") as folder:
        variants = demo_variants(Path(folder))
        for repeat in range(args.repeats):
            trials.append(one(variants, args.max_runs, args.seed + repeat, args.sessions))
            shown = {key: value for key, value in trials[-1].items() if key != "log_ratios"}
            print(json.dumps(shown, indent=1), flush=True)
    ratios = [trial["planned"]["ratio"] for trial in trials]
    ratio = None if None in ratios else statistics.median(ratios)
    left = sum(len(trial["adaptive"]["open"]) for trial in trials)
    found = {
        "what": "device time until every verdict against the base of its format is settled in nine sessions of ten, fixed / adaptive",
        "machine": machine(),
        "before": before,
        "after": busy(),
        "seconds": round(time.monotonic() - begun, 1),
        "command": f"python scripts/decision_time.py --repeats {args.repeats} --max-runs {args.max_runs} --seed {args.seed}",
        "bound": f"ratio ≥ {BOUND:g}",
        "ratio": ratio,
        "pass": ratio is not None and ratio >= BOUND,
        "unsettled_by_adaptive": left,
        "trials": trials,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{datetime.now(UTC).date().isoformat()}-decision-time.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"ratio {found['ratio']}, {found['bound']}: {'pass' if found['pass'] else 'FAIL'}; {path}")
    return 0 if found["pass"] else 1


if __name__ == "__main__":
    sys.exit(main())
