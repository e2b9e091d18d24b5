"""Our verdict against other rules on the same pairs of models and the same time budget: false verdicts on A/A, power at 3 %.

    python scripts/rival_rules.py --same 48 --slower 32

Each trial is a pair of names for one file, equal or the second 3 % slower by a spin of the CPU inside the engine. Every rule
gets the wall time that our own session of that trial took, half of it for each model; what comes first is chance.

- ours: one session, interleaved runs, the harness's verdict;
- Mann-Whitney: one process per model, one after the other; different when p < 0.05 on all raw samples;
- fixed 50: as LiteRT's benchmark_model does: a process per model, 0.5 s of warm-up, 50 inferences; it has no rule of its own for
  telling two apart, so two that people use: averages more than 1 % apart; Welch's t test on the 50 at p < 0.05;
- all averages: averages more than 1 % apart, over every inference that the budget allows instead of 50;
- pyperf: pyperf's own runner, as many worker processes as fit with three values of 0.1 s each, its own `is_significant`.

"Different" in the wrong direction counts as false too. A trial is kept as soon as it is made; a run that was cut off goes on.
Mann-Whitney and both averages read the same two processes; "fixed 50" reads their first 50 samples.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIDELITY = Path(__file__).resolve().parent / "_fidelity"
sys.path.insert(0, str(FIDELITY))

import live  # noqa: E402 - helpers of scripts/fidelity
import single  # noqa: E402
from machine import busy, machine  # noqa: E402
from result import rate  # noqa: E402
from trials import ROOT, path, series  # noqa: E402

from harness.agent.protocol import Data, Job, LatencyPlan, Model, encode_job  # noqa: E402

SLOWDOWN = 0.03
ALPHA, AVERAGE, FIXED, WARMUP_S = 0.05, 0.01, 50, 0.5
PYPERF_VALUES, PYPERF_VALUE_S = 3, 0.1
RULES = ("ours", "Mann-Whitney", "fixed 50, 1 %", "fixed 50, t test", "all averages, 1 %", "pyperf")
BEGIN, END = "<!-- rival rules: begin, made by scripts/rival_rules.py -->", "<!-- rival rules: end -->"

Floats = NDArray[np.float64]


def job_of(name: str, slowdown: float, measured_s: float) -> Job:
    """One model alone: warm-up, then one block of that length and at least 50 inferences."""
    plan = LatencyPlan(
        order=((name,),),
        warmup_s=WARMUP_S,
        settle=0,
        block_samples=FIXED,
        block_s=measured_s,
        block_max_s=measured_s + 5.0,
    )
    options = {"inject": {"slowdown": {live.CANDIDATE: slowdown}}}
    return Job("litert", (Model(name, str(live.demo().artifact)),), Data(), latency=plan, options=options)


def alone(name: str, slowdown: float, measured_s: float) -> Floats:
    """The samples of one process, ns."""
    (block,) = single.blocks(job_of(name, slowdown, measured_s))[name]
    return block.astype(np.float64)


def pyperf_values(name: str, slowdown: float, processes: int, loops: int) -> list[float]:
    """The values of one run of pyperf, s."""
    import pyperf

    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder:
        out = Path(folder) / "out.json"
        argv = [sys.executable, str(FIDELITY / "pyperf_worker.py"), "-q", "-o", str(out), "-p", str(processes)]
        argv += ["-n", str(PYPERF_VALUES), "-w", "1", "-l", str(loops), "--inherit-environ", "RIVAL_JOB,PYTHONPATH"]
        env = {**os.environ, "RIVAL_JOB": encode_job(job_of(name, slowdown, 0.0))}
        done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=300, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"pyperf ended with {done.returncode}: {done.stderr[-500:]}")
        return [float(value) for value in pyperf.Benchmark.load(str(out)).get_values()]


def called(different: bool, candidate: float, base: float) -> str:
    """A rule's answer in our words."""
    if not different:
        return "not different"
    return "slower" if candidate > base else "faster"


def by_samples(candidate: Floats, base: Floats) -> dict[str, str]:
    """What the rules make of one process each."""
    from scipy import stats

    first, second = candidate[:FIXED], base[:FIXED]
    rank = float(stats.mannwhitneyu(candidate, base).pvalue) < ALPHA
    welch = float(stats.ttest_ind(first, second, equal_var=False).pvalue) < ALPHA
    apart = {
        key: abs(float(a.mean() / b.mean()) - 1.0) > AVERAGE
        for key, a, b in ((FIXED, first, second), (0, candidate, base))
    }
    return {
        "Mann-Whitney": called(rank, float(np.median(candidate)), float(np.median(base))),
        "fixed 50, 1 %": called(apart[FIXED], float(first.mean()), float(second.mean())),
        "fixed 50, t test": called(welch, float(first.mean()), float(second.mean())),
        "all averages, 1 %": called(apart[0], float(candidate.mean()), float(base.mean())),
    }


class Trial:
    """Makes trials. `starts_s`: what a process of ours costs before its warm-up; `pyperf_s`: one of pyperf's, with its share of
    the process that looks after them."""

    def __init__(self) -> None:
        begun = time.monotonic()
        samples = alone(live.BASE, 0.0, 0.5)
        self.starts_s = time.monotonic() - begun - WARMUP_S - 0.5
        typical_s = float(np.median(samples)) / 1e9
        self.loops = 1 << math.ceil(math.log2(PYPERF_VALUE_S / typical_s))
        begun = time.monotonic()
        pyperf_values(live.BASE, 0.0, 2, self.loops)
        self.pyperf_s = (time.monotonic() - begun) / 2.0

    def make(self, key: str, seed: int) -> dict[str, Any]:
        """One trial of all rules."""
        slowdown = float(key.split()[1])
        chance = random.Random(seed)  # noqa: S311
        ours = live.trial(seed, slowdown)
        half_s = ours["seconds"] / 2.0
        verdicts, seconds = {"ours": str(ours["verdict"])}, {"ours": ours["seconds"]}
        processes = max(2, round(half_s / self.pyperf_s))
        for method in chance.sample(("samples", "pyperf"), 2):
            names, begun = chance.sample((live.BASE, live.CANDIDATE), 2), time.monotonic()
            if method == "samples":
                measured_s = max(0.1, half_s - self.starts_s - WARMUP_S)
                arrays = {name: alone(name, slowdown, measured_s) for name in names}
                verdicts |= by_samples(arrays[live.CANDIDATE], arrays[live.BASE])
            else:
                values = {name: pyperf_values(name, slowdown, processes, self.loops) for name in names}
                verdicts["pyperf"] = by_pyperf(values[live.CANDIDATE], values[live.BASE])
            seconds[method] = round(time.monotonic() - begun, 2)
        return {
            "slowdown": slowdown,
            "verdicts": verdicts,
            "seconds": seconds,
            "ratio": ours["ratio"],
            "processes": processes,
        }


def by_pyperf(candidate: list[float], base: list[float]) -> str:
    """Pyperf's own test; it is not public, but it is what `pyperf compare_to` says."""
    from pyperf._utils import is_significant

    different, _ = is_significant(candidate, base)
    return called(bool(different), statistics.fmean(candidate), statistics.fmean(base))


def table(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rule → false verdicts on equal pairs; found, and called faster, on slower ones."""
    same = [entry["verdicts"] for entry in entries if entry["slowdown"] == 0.0]
    slower = [entry["verdicts"] for entry in entries if entry["slowdown"] > 0.0]
    return {
        rule: {
            "false": rate(sum(v[rule] in {"faster", "slower"} for v in same), len(same)),
            "found": rate(sum(v[rule] == "slower" for v in slower), len(slower)),
            "wrong way": sum(v[rule] == "faster" for v in slower),
        }
        for rule in RULES
    }


def better(rules: dict[str, dict[str, Any]]) -> bool:
    """Whether ours has no more false verdicts and no less power than any rule, and is strictly better in one of them at least."""
    ours = rules["ours"]
    return all(
        ours["false"]["rate"] <= other["false"]["rate"]
        and ours["found"]["rate"] >= other["found"]["rate"]
        and (ours["false"]["rate"], ours["found"]["rate"]) != (other["false"]["rate"], other["found"]["rate"])
        for rule, other in rules.items()
        if rule != "ours"
    )


def lines(found: dict[str, Any]) -> list[str]:
    """The table in Markdown."""

    def cell(figure: dict[str, Any]) -> str:
        return f"{figure['hits']} of {figure['n']}: {figure['rate']:.0%} [{figure['low']:.0%}–{figure['high']:.0%}]"

    rows = [
        "| rule | called different though equal | found, 3 % slower | called faster, though slower |",
        "| --- | --- | --- | --- |",
    ]
    rows += [
        f"| {rule} | {cell(item['false'])} | {cell(item['found'])} | {item['wrong way']} |"
        for rule, item in found["rules"].items()
    ]
    return [
        "",
        *rows,
        "",
        f"{found['date']}, {found['note']} ([figures](../results/fidelity/{found['date']}-rival-rules.json)).",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--same", type=int, default=48)
    parser.add_argument("--slower", type=int, default=32)
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "fidelity")
    args = parser.parse_args()
    live.quiet()
    before, trial = busy(), Trial()
    keys = [
        f"rivals {size:g} #{n}" for size, wanted in ((0.0, args.same), (SLOWDOWN, args.slower)) for n in range(wanted)
    ]
    entries = series(
        keys,
        trial.make,
        setting=live.setting() + " rivals",
        seed=args.seed,
        shown=lambda e: f"{e['verdicts']} {e['seconds']}",
    )
    rules = table(entries)
    budget_s = statistics.median(entry["seconds"]["ours"] for entry in entries)
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "before": before,
        "after": busy(),
        "command": f"python scripts/rival_rules.py --same {args.same} --slower {args.slower} --seed {args.seed}",
        "pass": better(rules),
        "rules": rules,
        "seconds": {name: statistics.median(e["seconds"][name] for e in entries) for name in entries[0]["seconds"]},
        "processes_of_pyperf": statistics.median(entry["processes"] for entry in entries),
        "note": f"demo {live.RECIPE}, {budget_s:.1f} s a pair for every rule; in brackets the 95 % interval of the share",
        "trials": path().name,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out / f"{found['date']}-rival-rules.json"
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "methodology.md"
    text = page.read_text(encoding="utf-8")
    if BEGIN in text and END in text:
        body = "\n".join(lines(found))
        page.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{body}\n{END}{text.split(END)[1]}", encoding="utf-8")
    print("\n".join(lines(found)))
    print(f"{'better on both' if found['pass'] else 'NOT better on both'}: {out}")


if __name__ == "__main__":
    main()
