"""What became of each recipe when a base model was converted, and of coded weights → text for a terminal or a pipe.

Place in the flow: `harness convert` → flat dictionaries → here → a string that `cli` prints. Made, failed, refused: in that
order, so that what went wrong stands at the end, where the eye is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report import units
from harness.report.cells import clean
from harness.report.textgrid import GridColumn, Paper, print_grid


def render_conversion(rows: Sequence[Mapping[str, Any]], *, width: int | None = None, color: bool = False) -> str:
    """One line a variant made, a paragraph for each that failed or cannot exist. Arguments as for `render_text`.

    `rows` have: variant, status ("ok", "failed", "refused"), error, remedy, seconds, cached, size_bytes,
    size_gzip_bytes, relative_error, argmax_agreement, notes; and where there is one, the lineage: per compression step
    text, metric, score_before, score_after, left_alone.
    """
    paper = Paper(width, color=color)
    made = [row for row in rows if row["status"] == "ok"]
    if made:
        print_grid(paper, _columns(made), [""] * len(made), [""] * len(made))
        for row in made:
            if row.get("lineage"):
                paper.paragraph(f"{clean(row['variant'])}: {lineage_words(row['lineage'])}", lead="  ")
            for note in row.get("notes") or ():
                paper.paragraph(f"{clean(row['variant'])}: {clean(note)}", "dim", lead="  ")
    for status, title, style in (("refused", "Not possible, so not tried", ""), ("failed", "Failed", "red")):
        chosen = [row for row in rows if row["status"] == status]
        if chosen:
            paper.line()
            paper.line(title, "bold")
        for row in chosen:
            reason = clean(row["error"]) or "no reason given"
            paper.paragraph(f"{clean(row['variant'])}: {reason}", style, lead="✗ " if style else "– ")
            if row.get("remedy"):
                paper.paragraph(clean(row["remedy"]), lead="  → ")
    return paper.text()


def lineage_words(lineage: Sequence[Mapping[str, Any]]) -> str:
    """The steps in order, each with what it did to the score on the validation rows: `prune(0.5) 91.20 % → 90.80 %`.

    As manifests tell it, wherever they were made: what is missing or no number is left out.
    """
    return "; ".join(
        " ".join(words for words in (clean(str(step.get("text"))), _score_words(step), _left_alone(step)) if words)
        for step in lineage
    )


def decode_words(report: Mapping[str, Any]) -> str:
    """What was made of entropy-coded weights, in a line. `report`: the fields of `converters.decoding.DecodeReport`."""
    return (
        f"{clean(report['path'])}: {units.format_count(report['parameters'])} parameters, "
        f"{units.format_bytes(report['weights_bytes'])} of weights out of {units.format_bytes(report['size_entropy_bytes'])} "
        f"({report['ratio']:.1f} times smaller), read in {_seconds(report['decode_seconds'])}"
    )


def _left_alone(step: Mapping[str, Any]) -> str:
    count = len(step.get("left_alone") or ())
    return f"({count} {'layer' if count == 1 else 'layers'} left alone)" if count else ""


def _score_words(step: Mapping[str, Any]) -> str:
    scores = [step.get("score_before"), step.get("score_after")]
    if not all(isinstance(score, int | float) for score in scores):
        return ""
    if step.get("metric") == "accuracy":
        return " → ".join(units.format_share(score) for score in scores)
    return " → ".join(units.format_number(-score) for score in scores if score is not None) + " mean squared error"


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[GridColumn]:
    def column(header: str, texts: list[str]) -> GridColumn:
        return GridColumn(header, tuple(texts), right=True)

    return [
        GridColumn("variant", tuple(clean(row["variant"]) for row in rows), folds=True),
        column("size", [units.format_bytes(row["size_bytes"]) for row in rows]),
        column("gzip", [units.format_bytes(row["size_gzip_bytes"]) for row in rows]),
        column("relative\nerror", [units.format_number(row["relative_error"]) for row in rows]),
        column("agreement\nwith base", [units.format_share(row["argmax_agreement"]) for row in rows]),
        column("made in", ["cached" if row["cached"] else _seconds(row["seconds"]) for row in rows]),
    ]


def _seconds(value: float | None) -> str:
    return units.format_ns(None if value is None else value * 1e9)
