"""A search as people read it: how each figure is written, which trials count, and the text for a terminal.

Place in the flow: trials out of the store → here → a string that `cli` prints; `search_page` makes the HTML page of the same view.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from converters.search.trial import Constraint, Objective, Trial
from harness.report import units
from harness.report.cells import clean
from harness.report.textgrid import GridColumn, Paper, print_grid
from harness.search_section import METRICS

_MOST_FAILURES = 3
STATES = {"complete": "complete", "pruned": "given up early", "failed": "failed", "running": "not ended"}


@dataclass(frozen=True, slots=True)
class StudyView:
    """A study to be shown. `front`, `kept`: numbers of the trials on the Pareto front (with one objective: of the best), and of those that
    became variants. `document`: what the store says of it. `why`: how the run ended, in words; None: not known."""

    id: str
    name: str
    created_at: str
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    kept: tuple[int, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    why: str | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is searched by: the objectives, then what only constraints name."""
        named = [objective.metric for objective in self.objectives] + [limit.metric for limit in self.constraints]
        return tuple(dict.fromkeys(named))

    @property
    def complete(self) -> tuple[Trial, ...]:
        """Trials that came to their end."""
        return tuple(trial for trial in self.trials if trial.outcome.state == "complete")

    def on_front(self) -> tuple[Trial, ...]:
        """The trials of the front, by the first objective, the best first."""
        found = [trial for trial in self.trials if trial.number in self.front]
        first = self.objectives[0]
        return tuple(sorted(found, key=lambda trial: first.sign * (trial.outcome.metrics.get(first.metric) or 0.0)))


def figure(metric: str, value: float | None) -> str:
    """A metric's value in words, with its unit."""
    if value is None or not math.isfinite(value):
        return units.NOT_AVAILABLE
    if metric.endswith("_ns"):
        return units.format_ns(value)
    if metric.endswith("_bytes"):
        return units.format_bytes(value)
    if metric.endswith("_uj"):
        return units.format_uj(value)
    if metric.endswith("_pp"):
        return units.format_points(value)
    if metric == "accuracy":
        return units.format_share(value)
    if metric in ("macs", "effective_macs", "parameters"):
        return units.format_count(round(value))
    return units.format_number(value)


def figure_with_interval(trial: Trial, metric: str) -> str:
    """The same with the trial's 95 % interval, where it has one."""
    value, ends = trial.outcome.metrics.get(metric), trial.outcome.intervals.get(metric)
    if value is None or ends is None:
        return figure(metric, value)
    if metric.endswith("_ns"):
        return units.format_ns_interval(value, *ends)
    if metric.endswith("_pp"):
        return units.format_points_interval(value, *ends)
    return f"{figure(metric, value)} [{figure(metric, ends[0])}–{figure(metric, ends[1])}]"


def limit_words(limit: Constraint) -> str:
    """`accuracy_drop_pp ≤ +1.00 pp`."""
    return (
        f"{limit.metric} {'≤' if limit.relation == '<=' else '≥'} {figure(limit.metric, limit.bound).removeprefix('+')}"
    )


def verdicts(view: StudyView) -> list[str]:
    """What became of each constraint, a line each."""
    lines = []
    for limit in view.constraints:
        found = [limit.violation(trial.outcome.metrics) for trial in view.complete]
        kept = sum(value == 0.0 for value in found)
        words = f"{limit_words(limit)}: kept by {kept} of {len(found)} complete trials"
        unknown = sum(value is None for value in found)
        missed = [value for value in found if value]
        if unknown:
            words += f", not known of {unknown}"
        if not kept and missed:
            words += f"; the nearest misses it by {figure(limit.metric, min(missed)).removeprefix('+')}"
        lines.append(words)
    return lines


def summary(view: StudyView) -> str:
    """How many trials there are, and what became of them."""
    counts: Counter[str] = Counter(trial.outcome.state for trial in view.trials)
    parts = [f"{counts[state]} {words}" for state, words in STATES.items() if counts[state]]
    seconds = sum(trial.seconds for trial in view.trials)
    sampler = view.document.get("sampler")
    return (
        f"{len(view.trials)} trial{'s' if len(view.trials) != 1 else ''} ({', '.join(parts) or 'none'})"
        + (f" by {clean(str(sampler))}" if sampler else "")
        + f", {units.format_seconds(seconds)} of work"
    )


def best_words(objectives: Sequence[Objective], front: Sequence[Trial]) -> str:
    """The best so far in a few words, for a progress bar."""
    if not front:
        return "none keeps all limits yet"
    if len(objectives) == 1:
        return f"best {objectives[0].metric} {figure(objectives[0].metric, front[0].outcome.metrics.get(objectives[0].metric))}"
    parts = []
    for objective in objectives:
        values = [trial.outcome.metrics.get(objective.metric) for trial in front]
        known = sorted((value for value in values if value is not None), key=lambda value: objective.sign * value)
        parts.append(f"{objective.metric} {figure(objective.metric, known[0])}")
    return f"front of {len(front)}: {', '.join(parts)} at best"


def failures(view: StudyView) -> list[str]:
    """Why trials failed, the most frequent first."""
    counts = Counter(
        clean(trial.outcome.error) or "no reason given" for trial in view.trials if trial.outcome.state == "failed"
    )
    lines = [f"{count} × {words}" for words, count in counts.most_common(_MOST_FAILURES)]
    more = len(counts) - len(lines)
    return [*lines, f"and {more} other reasons"] if more > 0 else lines


def render_search(view: StudyView, *, width: int | None = None, color: bool = False) -> str:
    """Summary, front and verdicts. `width`: columns of the terminal, None where the text is piped."""
    paper = Paper(width, color=color)
    paper.paragraph(f"{clean(view.name)}: {summary(view)}", "bold")
    judged = view.document.get("judged_by")
    if judged:
        paper.paragraph(
            f"Accuracy is of the {view.document.get('judged_rows')} {clean(str(judged))}, which no test row is among.",
            "dim",
        )
    front = view.on_front()
    paper.line()
    if front:
        paper.line("Pareto front" if len(view.objectives) > 1 else "Best", "bold")
        print_grid(
            paper,
            _columns(view, front),
            ["★" if trial.number in view.kept else "" for trial in front],
            [""] * len(front),
        )
    else:
        paper.paragraph("No trial keeps all constraints." if view.complete else "No trial came to its end.", "red")
    for line in verdicts(view):
        paper.paragraph(line, lead="  ")
    found = failures(view)
    if found:
        paper.line()
        paper.line("Failed", "bold")
        for line in found:
            paper.paragraph(line, "red", lead="✗ ")
    return paper.text()


def _columns(view: StudyView, front: Sequence[Trial]) -> list[GridColumn]:
    metrics = [
        GridColumn(metric, tuple(figure_with_interval(trial, metric) for trial in front), right=True)
        for metric in view.metrics
    ]
    return [
        GridColumn("trial", tuple(str(trial.number) for trial in front), right=True),
        GridColumn("recipe", tuple(clean(trial.candidate.recipe) for trial in front), folds=True),
        *metrics,
    ]


def view_to_dict(view: StudyView) -> dict[str, Any]:
    """The study as JSON-compatible data, one flat object a trial."""
    return {
        "study": view.id,
        "name": view.name,
        "created_at": view.created_at,
        "why": view.why,
        "objectives": [{"metric": item.metric, "goal": item.goal} for item in view.objectives],
        "constraints": [
            {
                "metric": item.metric,
                "relation": item.relation,
                "bound": item.bound,
                "kept": sum(item.violation(trial.outcome.metrics) == 0.0 for trial in view.complete),
            }
            for item in view.constraints
        ],
        "front": list(view.front),
        "kept": list(view.kept),
        "trials": [_trial_to_dict(view, trial) for trial in view.trials],
        "document": dict(view.document),
    }


def _trial_to_dict(view: StudyView, trial: Trial) -> dict[str, Any]:
    outcome = trial.outcome
    return {
        "number": trial.number,
        "state": outcome.state,
        "recipe": trial.candidate.recipe,
        "values": dict(trial.candidate.values),
        "feasible": trial.feasible(view.constraints),
        "on_front": trial.number in view.front,
        "metrics": {name: outcome.metrics.get(name) for name in METRICS if name in outcome.metrics},
        "intervals": {name: list(ends) for name, ends in outcome.intervals.items()},
        "reasons": dict(outcome.reasons),
        "rungs": [{"fidelity": rung.fidelity, "metrics": dict(rung.metrics)} for rung in trial.rungs],
        "fidelity": trial.fidelity,
        "seconds": trial.seconds,
        "variant": trial.variant,
        "error": outcome.error,
    }
