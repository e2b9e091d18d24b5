"""A comparison's verdicts → text for a terminal or a pipe, or Markdown.

Place in the flow: `harness.compare` → here → a string that `cli` prints. Ratios are candidate / reference: below 1 is faster.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.choose import time_of
from harness.compare import ComparisonTable, Pair
from harness.report import units
from harness.report.cells import clean
from harness.report.markdown import escape
from harness.report.textgrid import GridColumn, Paper, print_grid
from harness.stats.compare import Comparison

_STYLES = {"faster": "green", "slower": "red", "equivalent": "", "inconclusive": "dim"}
_LEGEND = (
    "Ratios are candidate / reference with their 95 % interval over runs. faster or slower: beyond ±1 %; equivalent: "
    "within ±2 %; after Holm's correction over the table."
)


def render_comparison(table: ComparisonTable, *, width: int | None = None, color: bool = False) -> str:
    """Who is faster than whom, with ratio and interval. Arguments as for `render_text`."""
    paper = Paper(width, color=color)
    paper.paragraph(f"{clean(table.candidate)} against {clean(table.reference)}", "bold")
    for words in table.differences:
        paper.paragraph(clean(words), "yellow", lead="  ! ")
    pairs = _sorted(table)
    if pairs:
        styles = [_STYLES.get(pair.comparison.verdict, "") for pair in pairs]
        print_grid(paper, _columns(pairs), [""] * len(pairs), styles)
    if table.overall is not None:
        paper.paragraph(overall_words(table, table.overall), "bold")
    for pair in pairs:
        paper.paragraph(_sentence(pair), "dim", lead="  – ")
    for remark in _remarks(pairs):
        paper.paragraph(clean(remark), "dim", lead="  – ")
    paper.paragraph(_LEGEND, "dim")
    return paper.text()


def comparison_markdown(table: ComparisonTable) -> str:
    """The same as GitHub-flavoured Markdown, ending in a newline."""
    blocks = [f"## {escape(table.candidate)} against {escape(table.reference)}"]
    blocks += [f"> {escape(words)}" for words in table.differences]
    pairs = _sorted(table)
    if pairs:
        columns = _columns(pairs)
        lines = ["| " + " | ".join(column.header.replace("\n", " ") for column in columns) + " |"]
        lines.append("| " + " | ".join("---:" if column.right else "---" for column in columns) + " |")
        lines += [
            "| " + " | ".join(escape(column.texts[row]) for column in columns) + " |" for row in range(len(pairs))
        ]
        blocks.append("\n".join(lines))
    if table.overall is not None:
        blocks.append(f"**{escape(overall_words(table, table.overall))}**")
    notes = [*(_sentence(pair) for pair in pairs), *_remarks(pairs)]
    if notes:
        blocks.append("\n".join(f"- {escape(text)}" for text in notes))
    return "\n\n".join([*blocks, _LEGEND]) + "\n"


def overall_words(table: ComparisonTable, overall: Comparison) -> str:
    """The one verdict on the whole table, or why there is none."""
    if overall.ratio is None:
        return f"overall: {overall.reason}"
    return f"overall: {overall.verdict}, {_ratio(overall)} over {overall.n} {table.overall_of}"


def _sorted(table: ComparisonTable) -> list[Pair]:
    return sorted(table.pairs, key=lambda pair: (pair.comparison.ratio is None, pair.comparison.ratio or 0.0))


def _sentence(pair: Pair) -> str:
    return f"{_name(pair)}: {pair.comparison.verdict}: {clean(pair.explanation)}{_again(pair)}"


def _again(pair: Pair) -> str:
    """Whether the candidate found what the reference foretold of a session made again."""
    found, time_ns = pair.predicted, time_of(pair.candidate)
    if found is None or time_ns is None:
        return ""
    words = "lies within" if found.holds(time_ns) else "lies outside of"
    span = f"{units.format_ns(found.low)}–{units.format_ns(found.high)}"
    return f"; its {units.format_ns(time_ns)} {words} the {span} foretold by the other session"


def _remarks(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(remark for pair in pairs for remark in pair.remarks))


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

    several = (
        len({pair.candidate.device for pair in pairs}) > 1 and len({pair.candidate.variant for pair in pairs}) == 1
    )
    first = [pair.candidate.device if several else _name(pair) for pair in pairs]
    return [
        GridColumn("on" if several else "candidate", tuple(clean(text) for text in first), folds=True),
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
