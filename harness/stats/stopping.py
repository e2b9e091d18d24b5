"""Which variants need more runs: decided on widths of intervals, never on a p-value alone, and so that looking often fools nobody.

Read by `harness.session.standing` at the end of each run, and by `harness.table` to say whether a row converged. Pure.

A variant is settled when it has the minimum of runs and

- "estimate": the 95 % interval of its own median is narrow: half of it is ≤ `target` of the median;
- "verdict": the interval of its ratio to the base is so narrow that it is faster, slower or equivalent, after Holm's correction
  over all variants of the device. That interval is one that holds at all planned looks together (`harness.stats.looks`), and
  how narrow is narrow enough depends on how far the ratio lies from the bounds: what is three times slower needs no ±1 %;
- "both".

The base itself, and a variant with nothing to be held against, has no verdict to wait for: only its estimate counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.stats.compare import ALPHA, DIFFERENCE, EQUIVALENCE, MINIMUM_RUNS, Comparison
from harness.stats.distributions import t_quantile
from harness.stats.looks import Looks, nominal_level
from harness.stats.quantiles import median

# Where a ratio lies so near a bound that nothing is to be expected: more runs than anybody makes.
_HOPELESS = 1e6


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """At least `min_runs`, at most `max_runs` of each variant, until what `stop_on` names is narrow enough."""

    min_runs: int
    max_runs: int
    target: float
    stop_on: Literal["estimate", "verdict", "both"] = "estimate"

    @property
    def looks(self) -> Looks | None:
        """The looks at ratios that this rule plans; None when it looks at none before the last."""
        return None if self.stop_on == "estimate" or self.max_runs <= self.min_runs else self.planned

    @property
    def planned(self) -> Looks:
        """A look after each run from the least to the most."""
        return Looks(self.min_runs, max(self.min_runs, self.max_runs))


@dataclass(frozen=True, slots=True)
class Standing:
    """How one variant stands after `runs` runs. `half_width`: relative, of its own median; None while it has no interval.

    `done`: no further run is to be made of it, because it is `settled` or has had its most. `further`: runs that should still settle
    it, by the rule that widths fall with the square root of runs; 0 when settled. `reason`: in words.
    """

    runs: int
    settled: bool
    done: bool
    half_width: float | None
    further: float
    reason: str


def relative_half_width(run_medians: Sequence[float]) -> float | None:
    """Half the width of the median's 95 % interval over runs, relative to the median; None below six runs."""
    if not run_medians:
        return None
    estimate = median(run_medians)
    if estimate.low is None or estimate.high is None or not estimate.value:
        return None
    return (estimate.high - estimate.low) / 2.0 / estimate.value


def stand(rule: StoppingRule, run_medians: Sequence[float], comparison: Comparison | None, family: int = 1) -> Standing:
    """How a variant stands. `run_medians`: one per run so far. `comparison`: its ratio to the base, already corrected over the `family`
    of comparisons it is one of; None for a variant that is compared with nothing."""
    runs, width = len(run_medians), relative_half_width(run_medians)
    open_for: list[tuple[float, str]] = []
    settled_by: list[str] = []
    if comparison is None or rule.stop_on != "verdict":
        if width is not None and width <= rule.target:
            settled_by.append(f"half-width {width:.1%} ≤ {rule.target:.1%}")
        else:
            state = "no interval yet" if width is None else f"half-width {width:.1%}"
            open_for.append((_further_estimate(rule, runs, width), f"{state}, target {rule.target:.1%}"))
    if comparison is not None and rule.stop_on != "estimate":
        if comparison.verdict != "inconclusive":
            settled_by.append(f"{comparison.verdict}, {_ratio(comparison)}")
        else:
            further = _further_verdict(rule, comparison, family)
            open_for.append((further, f"no verdict yet, {_ratio(comparison)}"))
    if runs < rule.min_runs:
        # A base has more runs than what is compared with it, never fewer.
        open_for.append((float(rule.min_runs - runs), f"{runs} of at least {rule.min_runs} runs"))
    settled = not open_for
    full = runs >= rule.max_runs
    reason = "; ".join(settled_by if settled else [words for _, words in open_for])
    further = 0.0 if settled else max([1.0, *(count for count, _ in open_for)])
    return Standing(runs, settled, settled or full, width, further, reason)


def _ratio(comparison: Comparison) -> str:
    if comparison.ratio is None or comparison.low is None or comparison.high is None:
        return f"n/a (n={comparison.n})"
    return f"{comparison.ratio:.3f} [{comparison.low:.3f}–{comparison.high:.3f}]"


def _further_estimate(rule: StoppingRule, runs: int, width: float | None) -> float:
    if width is None:
        return max(1.0, float(rule.min_runs - runs))
    return min(_HOPELESS, math.ceil(runs * ((width / rule.target) ** 2 - 1.0)))


def _further_verdict(rule: StoppingRule, comparison: Comparison, family: int) -> float:
    """Runs until the interval, at the level Holm may ask for, should reach no further than the nearest bound that can be won."""
    n = comparison.n
    if n < MINIMUM_RUNS or comparison.ratio is None or comparison.low is None or comparison.high is None:
        return max(1.0, float(rule.min_runs - n))
    distance = abs(math.log(comparison.ratio))
    room = max(distance - DIFFERENCE, EQUIVALENCE - distance)
    looks = rule.looks
    level, strict = ALPHA, ALPHA / max(1, family)
    if looks is not None:
        level, strict = nominal_level(level, looks), nominal_level(strict, looks)
    wider = t_quantile(1.0 - strict / 2.0, n - 1.0) / t_quantile(1.0 - level / 2.0, n - 1.0)
    half = wider * math.log(comparison.high / comparison.low) / 2.0
    return min(_HOPELESS, math.ceil(n * max(0.0, (half / room) ** 2 - 1.0)))
