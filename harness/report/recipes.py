"""Recipes and compression steps → text for a terminal or a pipe.

Place in the flow: `harness recipes` → flat dictionaries → here → a string that `cli` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.textgrid import Paper


def render_catalogue(
    precisions: Mapping[str, Sequence[str]],
    steps: Sequence[Mapping[str, Any]],
    *,
    width: int | None = None,
    color: bool = False,
) -> str:
    """All precisions by format, then each step with its parameters. Arguments as for `render_text`.

    `steps` have: step, summary, paper, example, trains, parameters (name, kind, default, help, low, high, open_ended,
    choices).
    """
    paper = Paper(width, color=color)
    paper.line("Precisions", "bold")
    for fmt, names in precisions.items():
        paper.paragraph(", ".join(names), lead=f"{fmt}: ")
    paper.line()
    paper.line("Compression steps, before the precision: prune(0.5) > cluster(16) > static_wi8_ai8 @ tflite", "bold")
    for step in steps:
        paper.line()
        paper.paragraph(f"{step['step']}  {step['summary']}" + ("; trains" if step["trains"] else ""), "bold")
        paper.paragraph(step["example"], lead="  write: ")
        for parameter in step["parameters"]:
            paper.paragraph(f"{parameter['help']} ({parameter_words(parameter)})", lead=f"  {parameter['name']}: ")
        paper.paragraph(step["paper"], "dim", lead="  paper: ")
    return paper.text()


def render_recipes(rows: Sequence[Mapping[str, Any]], *, width: int | None = None, color: bool = False) -> str:
    """One line a recipe: how it is written, and why it cannot exist. `rows` have: recipe, name, refused."""
    paper = Paper(width, color=color)
    for row in rows:
        paper.line(row["recipe"])
        if row["refused"] is not None:
            paper.paragraph(row["refused"], lead="  cannot exist: ")
    return paper.text()


def parameter_words(parameter: Mapping[str, Any]) -> str:
    """What a parameter may be and what it is by default: `0 … 1, default 0.5`."""
    low, high = parameter["low"], parameter["high"]
    if parameter["choices"]:
        kind = ", ".join(parameter["choices"])
    elif low is not None and high is not None:
        kind = f"{'between' if parameter['open_ended'] else 'from'} {low:g} {'and' if parameter['open_ended'] else 'to'} {high:g}"
    else:
        kind = {"float": "a number", "int": "a whole number", "bool": "true or false"}.get(parameter["kind"], "text")
    default = parameter["default"]
    if default is None or default == "":
        return f"{kind}; optional"
    return f"{kind}; default {str(default).lower() if isinstance(default, bool) else f'{default:g}' if isinstance(default, float) else default}"
