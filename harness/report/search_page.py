"""The HTML page of a search: its front, its parallel coordinates, every trial. One offline file, as `harness.report.html` makes them.

Place in the flow: a view of a study → here → search.html, trials.csv, study.json. Texts may come from a tool's last words: nothing is marked
safe here, the template escapes all of it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from converters.search.trial import Trial
from harness.report.bundle import write_all
from harness.report.cells import clean
from harness.report.figures import Figure
from harness.report.html import render_page, unavailable
from harness.report.search import (
    STATES,
    StudyView,
    failures,
    figure,
    figure_with_interval,
    limit_words,
    summary,
    verdicts,
    view_to_dict,
)
from harness.report.search_figures import front_figure, parallel_figure, progress_figure
from harness.search_section import METRICS

logger = logging.getLogger(__name__)
NAMES = {"json": "study.json", "csv": "trials.csv", "html": "search.html"}


def write_search(view: StudyView, best: Sequence[float | None], folder: Path) -> dict[str, Path]:
    """Write the reports of a study; kind → path, kinds as in NAMES. `best`: the first objective's best after each trial.

    Without the extra `report` installed "html" is left out and a warning is logged. Raises SpecError when the folder cannot be written to.
    """
    texts = {"json": json.dumps(view_to_dict(view), indent=2, ensure_ascii=False) + "\n", "csv": render_csv(view)}
    reason = unavailable()
    if reason is None:
        texts["html"] = render_search_page(view, best)
    else:
        logger.warning("no search.html: %s", reason)
    return write_all(folder, NAMES, texts)


def render_csv(view: StudyView) -> str:
    """One row a trial: number, state, recipe, every parameter, every metric in its base unit."""
    parameters = list(dict.fromkeys(name for trial in view.trials for name in trial.candidate.values))
    metrics = [name for name in METRICS if any(name in trial.outcome.metrics for trial in view.trials)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fixed = ("trial", "state", "feasible", "on_front", "recipe", "fidelity", "seconds", "variant", "error")
    writer.writerow([*fixed, *(f"parameter {name}" for name in parameters), *metrics])
    for trial in view.trials:
        own: list[Any] = [
            trial.number,
            trial.outcome.state,
            trial.feasible(view.constraints),
            trial.number in view.front,
        ]
        own += [trial.candidate.recipe, trial.fidelity, round(trial.seconds, 3), trial.variant, trial.outcome.error]
        values = [trial.candidate.values.get(name) for name in parameters]
        writer.writerow([*own, *values, *(trial.outcome.metrics.get(name) for name in metrics)])
    return out.getvalue()


def render_search_page(view: StudyView, best: Sequence[float | None]) -> str:
    """The whole page. Raises SpecError when the extra `report` is not installed."""
    plots: dict[str, Figure] = {}
    figures = []
    for name, title, caption, made in _figures(view, best):
        if made is not None:
            plots[name] = made
            figures.append({"plot": name, "title": title, "caption": caption})
    shown = [*view.metrics, *(name for name in METRICS if name not in view.metrics and _told(view, name))]
    return render_page(
        "search.html.j2",
        {
            "title": clean(view.name),
            "created": clean(view.created_at)[:16].replace("T", " ") + " UTC",
            "facts": _facts(view),
            "verdicts": verdicts(view),
            "failures": failures(view),
            "figures_shown": figures,
            "columns": [{"name": name, "words": METRICS[name].words, "main": name in view.metrics} for name in shown],
            "rows": [_row(view, trial, shown) for trial in view.trials],
            "document": _pairs(view),
            "plots": plots,
        },
    )


def _figures(view: StudyView, best: Sequence[float | None]) -> list[tuple[str, str, str, Figure | None]]:
    objectives = view.objectives
    found: list[tuple[str, str, str, Figure | None]] = []
    # What is to be large stands upright, as people draw it.
    upright = next((item for item in objectives if item.goal == "maximise"), objectives[0])
    for number, other in enumerate(item for item in objectives if item is not upright):
        title = f"{upright.metric} against {other.metric}"
        caption = "Bars: 95 % intervals, where a figure has one. Crosses miss a constraint."
        found.append((f"front-{number}", title, caption, front_figure(view, other, upright)))
    words = "A line a trial, across its parameters and what came of them: blue where the first objective is good, thick where it is on the front."
    found.append(("parallel", "Parallel coordinates", words, parallel_figure(view)))
    title = f"{objectives[0].metric} of trial after trial"
    found.append(
        ("progress", title, "The line: the best so far that keeps all constraints.", progress_figure(view, best))
    )
    return found


def _told(view: StudyView, metric: str) -> bool:
    return any(trial.outcome.metrics.get(metric) is not None for trial in view.trials)


def _facts(view: StudyView) -> list[str]:
    document = view.document
    facts = [f"base model {clean(str(document['base']))}"] if document.get("base") else []
    facts.append(summary(view))
    if document.get("device_name"):
        facts.append(f"measured on {clean(str(document['device_name']))}")
    if document.get("judged_by"):
        facts.append(f"accuracy of {document.get('judged_rows')} {clean(str(document['judged_by']))}, no test rows")
    facts += [limit_words(limit) for limit in view.constraints]
    return [*facts, f"study {clean(view.id)}"]


def _row(view: StudyView, trial: Trial, metrics: Sequence[str]) -> dict[str, Any]:
    outcome = trial.outcome
    state = STATES[outcome.state]
    if outcome.state == "pruned":
        state += f" at {trial.fidelity:.0%} of the training rows"
    return {
        "number": trial.number,
        "mark": "★" if trial.number in view.kept else "☆" if trial.number in view.front else "",
        "recipe": clean(trial.candidate.recipe),
        "state": state,
        "state_value": outcome.state,
        "why": clean(outcome.error),
        "marked": trial.number in view.front,
        "cells": [
            {
                "text": figure_with_interval(trial, name)
                if name in view.metrics
                else figure(name, outcome.metrics.get(name)),
                "value": outcome.metrics.get(name),
                "why": clean(outcome.reasons.get(name)),
            }
            for name in metrics
        ],
    }


def _pairs(view: StudyView) -> list[tuple[str, str]]:
    """What the store says of the study, a line each."""
    return [
        (
            clean(name).replace("_", " "),
            clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)),
        )
        for name, value in view.document.items()
        if value not in (None, "", {}, [])
    ]
