"""When to stop adding runs: on the width of the interval, never on a p-value.

Read by `harness.runner` after each round of runs, and by `harness.table` to say whether a row converged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.stats.quantiles import median


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """At least `min_runs`, at most `max_runs`, until the relative half-width is ≤ `target` or `budget_s` is spent."""

    min_runs: int
    max_runs: int
    target: float
    budget_s: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`half_width`: the widest relative half-width among the variants, None while one has no interval."""

    stop: bool
    converged: bool
    half_width: float | None
    reason: str


def relative_half_width(run_medians: Sequence[float]) -> float | None:
    """Half the width of the median's 95 % interval over runs, relative to the median; None below six runs."""
    if not run_medians:
        return None
    estimate = median(run_medians)
    if estimate.low is None or estimate.high is None or not estimate.value:
        return None
    return (estimate.high - estimate.low) / 2.0 / estimate.value


def decide(rule: StoppingRule, run_medians: Mapping[str, Sequence[float]], elapsed_s: float) -> Decision:
    """Whether to stop. `run_medians`: variant → one median per run so far; variants interleave, so all go on together.

    The runs already made are never fewer than `min_runs` unless the budget is spent; a budget spent first, or
    `max_runs` reached first, ends in "not converged".
    """
    if not run_medians:
        return Decision(stop=True, converged=False, half_width=None, reason="nothing is left to measure")
    widths = {variant: relative_half_width(values) for variant, values in run_medians.items()}
    known = [width for width in widths.values() if width is not None]
    widest = max(known) if len(known) == len(widths) else None
    fewest = min(len(values) for values in run_medians.values())
    converged = widest is not None and widest <= rule.target
    if fewest >= rule.min_runs and converged:
        return Decision(True, True, widest, f"converged: half-width {widest:.1%} ≤ {rule.target:.1%}")
    worst = max(widths, key=lambda name: float("inf") if widths[name] is None else float(widths[name] or 0.0))
    state = "no interval yet" if widths[worst] is None else f"half-width {widths[worst]:.1%}"
    spent = None
    if rule.budget_s is not None and elapsed_s >= rule.budget_s:
        spent = f"the budget of {rule.budget_s:g} s is spent after {fewest} runs"
    elif fewest >= rule.max_runs:
        spent = f"all {rule.max_runs} runs are made"
    if spent is None:
        return Decision(False, converged, widest, f"{worst}: {state}, target {rule.target:.1%}")
    verdict = "converged" if converged else f"not converged: {worst}: {state}"
    return Decision(True, converged, widest, f"{spent}; {verdict}")
