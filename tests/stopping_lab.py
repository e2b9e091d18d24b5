"""Pairs of variants that are only numbers, stopped by the real rule: how often it says what is not so.

python tests/stopping_lab.py TRIALS [RULE …] prints the table of docs/decisions/0007.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np

from harness.stats import compare, stopping
from harness.stats.stopping import StoppingRule

ROUNDS = 10
# True ratios: the same; exactly at the bound of a difference; exactly at the bound of equivalence. At the last two
# a claim of "slower" or of "equivalent" is just not true, and hardest to tell from one that is.
SAME, AT_DIFFERENCE, AT_EQUIVALENCE = 1.0, 1.01, 1.02
FALSE = {SAME: {"faster", "slower"}, AT_DIFFERENCE: {"faster", "slower"}, AT_EQUIVALENCE: {"faster", "equivalent"}}
NOISES = ("normal", "lognormal", "AR(1)", "run effect 1 %", "run effect 3 %")
RULES = {
    "verdict 6–12": StoppingRule(6, 12, 0.03, "verdict"),
    "verdict 6–48": StoppingRule(6, 48, 0.03, "verdict"),
    "verdict 3–60": StoppingRule(3, 60, 0.03, "verdict"),
    "both 12–24": StoppingRule(12, 24, 0.01, "both"),
    "estimate 6–12": StoppingRule(6, 12, 0.03, "estimate"),
}


@dataclass(frozen=True)
class Pair:
    """Block medians, float [runs, rounds] each, of a candidate and its base."""

    candidate: np.ndarray
    base: np.ndarray


def pair(noise: str, ratio: float, runs: int, rng: np.random.Generator) -> Pair:
    """Two variants visited in random order in each of ten rounds of each run; blocks scatter by 2 %."""
    slots = (runs, 2 * ROUNDS)
    if noise == "lognormal":
        raw = np.exp(rng.normal(0.0, 0.5, slots))
        scatter = 0.02 * (raw - math.exp(0.125)) / (math.exp(0.125) * math.sqrt(math.exp(0.25) - 1.0))
    else:
        scatter = rng.normal(0.0, 0.02, slots)
    if noise == "AR(1)":
        # The machine's state, seen by whichever is measured next; it goes on from one run to the next.
        flat, state = scatter.reshape(-1), 0.0
        for index, value in enumerate(flat):
            state = 0.8 * state + 0.6 * value
            flat[index] = state
    times = 1.0 + scatter.reshape(runs, ROUNDS, 2)
    first = rng.integers(0, 2, (runs, ROUNDS))
    candidate = np.where(first == 0, times[:, :, 0], times[:, :, 1]) * ratio
    base = np.where(first == 0, times[:, :, 1], times[:, :, 0])
    if noise.startswith("run effect"):
        size = 0.01 * float(noise.split()[2])
        # Each variant its own in each process: what cancels out would not be worth simulating.
        candidate = candidate * np.exp(rng.normal(0.0, size, (runs, 1)))
        base = base * np.exp(rng.normal(0.0, size, (runs, 1)))
    return Pair(candidate, base)


def verdict(rule: StoppingRule, made: Pair, *, honest: bool = True) -> tuple[str, int]:
    """What is said when the rule stops, and after how many runs. Not `honest`: every look with a plain 95 % interval."""
    ratios = np.median(np.log(made.candidate / made.base), axis=1)
    medians = np.median(made.candidate, axis=1)
    looks = rule.looks if honest else None
    for runs in range(rule.min_runs, rule.max_runs + 1):
        found = compare.paired(list(ratios[:runs]), looks)
        if stopping.stand(rule, list(medians[:runs]), found).done:
            return found.verdict, runs
    raise AssertionError("the last look ends it")


def rates(rule: StoppingRule, noise: str, ratio: float, trials: int, seed: int, *, honest: bool = True) -> Counter[str]:
    """Verdicts over `trials` pairs; "runs" counts the runs of all."""
    rng = np.random.default_rng([seed, NOISES.index(noise), int(1000 * ratio)])
    found: Counter[str] = Counter()
    for _ in range(trials):
        said, runs = verdict(rule, pair(noise, ratio, rule.max_runs, rng), honest=honest)
        found[said] += 1
        found["runs"] += runs
        found["false"] += said in FALSE.get(ratio, set())
    return found


def main() -> None:
    trials = int(sys.argv[1])
    print("| rule | noise | false, A/A | false at 1.01 | false at 1.02 | plain intervals at 1.01 | runs, A/A |")  # noqa: T201
    for name, rule in RULES.items():
        if name not in (sys.argv[2:] or RULES):
            continue
        for noise in NOISES:
            cells = [rates(rule, noise, ratio, trials, 1) for ratio in (SAME, AT_DIFFERENCE, AT_EQUIVALENCE)]
            plain = rates(rule, noise, AT_DIFFERENCE, trials, 1, honest=False)
            shares = " | ".join(f"{100 * cell['false'] / trials:.1f} %" for cell in [*cells, plain])
            print(f"| {name} | {noise} | {shares} | {cells[0]['runs'] / trials:.1f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
