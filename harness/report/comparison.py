"""A comparison's verdicts → text for a terminal or a pipe.

Place in the flow: `harness.compare` → here → a string that `cli` prints. Ratios are candidate / reference: below 1 is faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.choose import time_of
from harness.compare import ComparisonTable, Pair
from harness.report import units
from harness.report.cells import clean
from harness.report.textgrid import GridColumn, Paper, print_grid
from harness.stats.compare import Comparison

_STYLES = {"faster": "green", "slower": "red", "equivalent": "", "inconclusive": "dim"}


def render_comparison(table: ComparisonTable, *, width: int | None = None, color: bool = False) -> str:
    """Who is faster than whom, with ratio and interval. Arguments as for `render_text`."""
    paper = Paper(width, color=color)
    paper.paragraph(f"{clean(table.candidate)} against {clean(table.reference)}", "bold")
    pairs = sorted(table.pairs, key=lambda pair: (pair.comparison.ratio is None, pair.comparison.ratio or 0.0))
    if pairs:
        print_grid(
            paper, _columns(pairs), [""] * len(pairs), [_STYLES.get(pair.comparison.verdict, "") for pair in pairs]
        )
    if table.overall is not None:
        paper.paragraph(
            f"overall: {table.overall.verdict}, {_ratio(table.overall)} over {table.overall.n} rounds", "bold"
        )
    for remark in dict.fromkeys(remark for pair in pairs for remark in pair.remarks):
        paper.paragraph(clean(remark), "dim", lead="  – ")
    for pair in pairs:
        if pair.comparison.reason:
            paper.paragraph(f"{_name(pair)}: {clean(pair.comparison.reason)}", "dim", lead="  – ")
    paper.paragraph(
        "Ratios are candidate / reference with their 95 % interval over runs. faster or slower: beyond ±1 %; equivalent: "
        "within ±2 %; after Holm's correction over the table.",
        "dim",
    )
    return paper.text()


def _name(pair: Pair) -> str:
    same = pair.candidate.variant == pair.reference.variant
    return clean(pair.candidate.variant if not same else f"{pair.candidate.variant} on {pair.candidate.device}")


def _ratio(comparison: Comparison) -> str:
    if comparison.ratio is None:
        return "n/a"
    if comparison.low is None or comparison.high is None:
        return f"{comparison.ratio:.3f}"
    return f"{comparison.ratio:.3f} [{comparison.low:.3f}–{comparison.high:.3f}]"


def _identical(pair: Pair) -> str:
    return {True: "identical", False: "differ", None: "n/a"}[pair.outputs_identical]


def _columns(pairs: Sequence[Pair]) -> list[GridColumn]:
    def column(header: str, texts: list[str]) -> GridColumn:
        return GridColumn(header, tuple(texts), right=True)

    return [
        GridColumn("candidate", tuple(_name(pair) for pair in pairs), folds=True),
        column("verdict", [pair.comparison.verdict for pair in pairs]),
        column("time ratio\n[95 %]", [_ratio(pair.comparison) for pair in pairs]),
        column("runs", [str(pair.comparison.n) for pair in pairs]),
        column("paired\nby", [pair.method for pair in pairs]),
        column("median", [units.format_ns(time_of(pair.candidate)) for pair in pairs]),
        column("of the\nreference", [units.format_ns(time_of(pair.reference)) for pair in pairs]),
        column("size\nratio", [units.format_number(pair.size_ratio) for pair in pairs]),
        column("accuracy\ndifference", [units.format_points(pair.accuracy_difference_pp) for pair in pairs]),
        column("outputs", [_identical(pair) for pair in pairs]),
    ]
