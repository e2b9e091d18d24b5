"""How far a row can be trusted: A, B, C or invalid, with the reasons in words.

Read by `harness.table`, which gathers the evidence from what was really measured, never from what was asked for.

A: every rule of the measurement was met. B: measured, a stated rule unmet. C: indicative only (emulated or contended).
invalid: nothing to trust. `harness gate` refuses to gate on C and on invalid.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.stats.contention import CAUSES, CONTENDED_SHARE, REMARKED_SHARE, Contention
from harness.stats.drift import Drift

GRADES = ("A", "B", "C", "invalid")
MINIMUM_WARMUP_S = 0.5
MINIMUM_WARMUP_SAMPLES = 5
# A run that samples for one second measures a little less: what the loop itself takes is known only on average.
ALLOWANCE = 0.98


@dataclass(frozen=True, slots=True)
class Rules:
    """What a preset has to meet: runs, seconds and samples per run, relative half-width of the interval."""

    runs: int = 6
    run_s: float = 1.0
    run_samples: int = 50
    half_width: float = 0.03


# How far two boots of the same counting emulator may lie apart.
REPEATS = 0.005

# A quick or standard session is held to the same rules: quick ones then come out as B, and say why.
RULES = {
    "headline": Rules(runs=12, half_width=0.01),
    "certified": Rules(runs=12, run_s=60.0, run_samples=1024, half_width=0.01),
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of one variant on one device. `*_s`, `*_samples`: of the run that had the least.

    `remarks`: further rules unmet, in words (each makes the row B at best), such as a precision that is not the one asked
    for. `failure`: why the row has no result at all. `counted`: instructions were counted instead of time measured, and `spread`
    is how far the run medians lie apart, relative: rules about time do not apply then. `injected`: how it was slowed down on
    purpose, to test what the harness finds. `unjudged`: blocks of which nothing tells whether they had their CPUs for themselves.
    """

    preset: str
    runs: int
    run_s: float
    run_samples: int
    warmup_s: float
    warmup_samples: int
    half_width: float | None
    drift: Drift | None
    contention: Contention | None
    emulated: bool = False
    counted: bool = False
    spread: float | None = None
    failure: str | None = None
    remarks: tuple[str, ...] = ()
    injected: str | None = None
    unjudged: int = 0


def grade(evidence: Evidence) -> tuple[str, tuple[str, ...]]:
    """The grade and its reasons; an A has none."""
    if evidence.failure is not None:
        return "invalid", (evidence.failure,)
    if evidence.runs == 0:
        return "invalid", ("no latency was measured", *evidence.remarks)
    if evidence.counted:
        slowed = [] if evidence.injected is None else [f"slowed down on purpose: {evidence.injected}"]
        return "C", (*slowed, *_counted(evidence), *evidence.remarks)
    indicative = _indicative(evidence)
    unmet = [*_sampling(evidence), *_drift(evidence.drift), *_lightly_contended(evidence), *evidence.remarks]
    if indicative:
        return "C", (*indicative, *unmet)
    return ("B", tuple(unmet)) if unmet else ("A", ())


def _counted(evidence: Evidence) -> list[str]:
    reasons = ["virtual time: instructions counted by an emulator"]
    if evidence.runs == 1:
        reasons.append("one run: that it repeats was not seen")
    if evidence.spread is not None and evidence.spread > REPEATS:
        reasons.append(f"does not repeat: its runs lie {evidence.spread:.1%} apart, more than {REPEATS:.1%}")
    return reasons


def _indicative(evidence: Evidence) -> list[str]:
    reasons = []
    if evidence.injected is not None:
        reasons.append(f"slowed down on purpose: {evidence.injected}")
    if evidence.emulated:
        reasons.append("emulated: its time is not a real device's")
    if evidence.contention is not None and evidence.contention.share > CONTENDED_SHARE:
        reasons.append(_contended(evidence.contention))
    return reasons


def _lightly_contended(evidence: Evidence) -> list[str]:
    contention = evidence.contention
    if evidence.unjudged:
        return [
            f"contention unknown: nothing tells of {evidence.unjudged} blocks whether they had their CPUs for themselves"
        ]
    if contention is None or not REMARKED_SHARE < contention.share <= CONTENDED_SHARE:
        return []
    return [_contended(contention)]


def _contended(contention: Contention) -> str:
    text = f"contended: {contention.contended} of {contention.blocks} blocks had to share their CPU"
    if contention.causes:
        text += f" ({', '.join(CAUSES[cause] for cause, _ in contention.causes)})"
    if contention.quiet_ratio is None:
        return text
    return f"{text}; the median of the others is {contention.quiet_ratio - 1:+.1%}"


def _sampling(evidence: Evidence) -> list[str]:
    rules = RULES.get(evidence.preset, Rules())
    reasons = []
    if evidence.runs < rules.runs:
        reasons.append(f"few runs: {evidence.runs}, fewer than {rules.runs}")
    if evidence.run_s < rules.run_s * ALLOWANCE:
        reasons.append(f"short runs: {evidence.run_s:.2g} s measured, less than {rules.run_s:g} s")
    if evidence.run_samples < rules.run_samples:
        reasons.append(f"few samples: {evidence.run_samples} in a run, fewer than {rules.run_samples}")
    if evidence.warmup_s < MINIMUM_WARMUP_S * ALLOWANCE:
        reasons.append(f"short warm-up: {evidence.warmup_s:.2g} s, less than {MINIMUM_WARMUP_S:g} s")
    if evidence.warmup_samples < MINIMUM_WARMUP_SAMPLES:
        reasons.append(f"few warm-ups: {evidence.warmup_samples} inferences, fewer than {MINIMUM_WARMUP_SAMPLES}")
    if evidence.half_width is not None and evidence.half_width > rules.half_width:
        reasons.append(f"not converged: the interval is ±{evidence.half_width:.1%}, wider than ±{rules.half_width:.0%}")
    return reasons


def _drift(drift: Drift | None) -> list[str]:
    if drift is None or not drift.flagged:
        return []
    reasons = []
    if drift.trend is not None and drift.trend.flagged:
        where = "within each run" if drift.trend.within_runs else "from the first run to the last"
        if drift.trend.within_runs and drift.trend.change < 0:
            where += ", as if not warmed up"
        reasons.append(f"drift: {drift.trend.change:+.1%} {where} (p = {drift.trend.p_value:.2g})")
    if drift.step is not None and drift.step.flagged:
        reasons.append(f"drift: a step of {drift.step.change:+.1%} at block {drift.step.index}")
    if drift.shared is not None:
        reasons[-1] += "; all variants of the run alike, so the device" if drift.shared else "; this variant alone"
    if drift.burst is not None and drift.sustained is not None:
        reasons[-1] += f"; sustained is {drift.sustained / drift.burst - 1:+.1%} against the first 30 s"
    return reasons
