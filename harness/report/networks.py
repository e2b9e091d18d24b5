"""Compact networks → text for a terminal or a pipe.

Place in the flow: `harness networks` → flat dictionaries → here → a string that `cli` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.textgrid import GridColumn, Paper, print_grid

_MILLION = 1_000_000


def render_networks(rows: Sequence[Mapping[str, Any]], *, width: int | None = None, color: bool = False) -> str:
    """One line a network. Arguments as for `render_text`; `rows` have: network, summary, paper, parameters."""
    paper = Paper(width, color=color)
    columns = [
        GridColumn("network", tuple(row["network"] for row in rows)),
        GridColumn(
            "parameters\n(224×224×3, 1000 classes)", tuple(_millions(row["parameters"]) for row in rows), right=True
        ),
        GridColumn("what it is", tuple(f"{row['summary']} ({row['paper']})" for row in rows), folds=True),
    ]
    print_grid(paper, columns, [""] * len(rows), [""] * len(rows))
    paper.line()
    paper.paragraph(
        "harness networks mobilenet_v2 --input 28x28x1 --classes 10 --width 0.5 --out model.keras", lead="make one: "
    )
    paper.paragraph("distill(0.5, student=mobilenet_v2)", lead="as a student: ")
    return paper.text()


def network_words(report: Mapping[str, Any]) -> str:
    """What was made, in a line or two. `report`: the fields of `converters.networks.making.NetworkReport`."""
    shape = "×".join(str(side) for side in report["input_shape"])
    scales = [f"{what} {report[what]:g}" for what in ("width", "resolution") if report[what] != 1]
    macs = "" if report["macs"] is None else f", {_millions(report['macs'])} multiply-accumulates"
    last = "×".join(str(side) for side in report["last_map"])
    words = (
        f"{report['path']}: {' '.join([report['name'], *scales])}, {shape} to {report['classes']} classes, "
        f"{_millions(report['parameters'])} parameters{macs}, last feature map {last}"
    )
    if not report["epochs"]:
        return f"{words}\nnot trained: its weights are as they begin"
    what, value = report["metric"], report["validation_score"]
    score = f"{100 * value:.2f} % right" if what == "accuracy" else f"a mean squared error of {-value:.4g}"
    early = ", stopped early" if report["stopped_early"] else ""
    return (
        f"{words}\ntrained for {report['epochs']} epochs{early} on {report['train_rows']} rows in {report['seconds']:.0f} s: "
        f"{score} on {report['validation_rows']} validation rows"
    )


def _millions(count: int) -> str:
    return f"{count / _MILLION:.2f} M"
