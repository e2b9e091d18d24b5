"""The table in a terminal, or piped: rows and recommendations → text.

Place in the flow: arranged rows → here → a string that `cli` prints. The columns follow the width there is: a figure is
never cut; when width is short, columns are left out, least needed first, and a note says which. Without a width
(piped) every column is there and no line is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from harness.report import ledger, units
from harness.report.arrange import (
    HINTS_TITLE,
    DeviceGroup,
    Notes,
    Refusal,
    absences,
    arrange,
    common_start,
    exclusions,
    first_sentence,
    grades_used,
    worded,
)
from harness.report.cells import Column, clean, columns_for, plain_header
from harness.report.differences import TITLE
from harness.report.textgrid import FOLD_LEAST, GridColumn, Paper, grid_width, print_grid
from harness.row import Row

if TYPE_CHECKING:
    from harness.choose import Recommendation
    from harness.report.advice import Advice

# In this order columns are added while there is room; "+" is the long form of one that has a short. For those in
# _SQUEEZE the variant's name is folded; for others it keeps a width of _NAME_ENOUGH.
_ORDER = (
    "virtual",
    "throughput",
    "sustained",
    "throttle",
    "mlperf",
    "uncontended",
    "accuracy",
    "drop",
    "rmse",
    "rmse_ratio",
    "p90",
    "memory",
    "agreement",
    "drop+",
    "gzip",
    "load",
    "first",
    "memory+",
    "p90+",
    "uncontended+",
)
_SQUEEZE = ("virtual", "throughput", "sustained", "throttle", "mlperf", "accuracy", "drop", "rmse", "rmse_ratio")
_NAME_ENOUGH = 30
# Headers in two lines are narrower. Cells that have a short form, with its header:
_HEADERS = {
    "latency": "latency\nmedian [95 %]",
    "uncontended": "uncontended\n[95 %] (blocks)",
    "p90": "p90\n[95 %]",
    "p99": "p99\n[95 %]",
    "memory": "peak memory\n(growth)",
    "drop": "accuracy drop\n[95 %]",
    "load": "load\ntime",
    "first": "first\ninference",
    "virtual": "virtual\ntime",
    "throughput": "throughput [95 %]\n(batch × streams)",
    "sustained": "sustained\n(× burst)",
    "throttle": "throttles\nafter",
    "mlperf": "MLPerf\nloadgen",
}
_SHORT: dict[str, tuple[str, Callable[[Row], str]]] = {
    "uncontended": ("uncontended", lambda row: units.format_ns(row.latency_uncontended_median_ns)),
    "p90": ("p90", lambda row: units.format_ns(row.latency_p90_ns)),
    "p99": ("p99", lambda row: units.format_ns(row.latency_p99_ns)),
    "drop": ("accuracy\ndrop", lambda row: units.format_points(row.accuracy_drop_pp)),
    "throughput": ("throughput", lambda row: units.format_rate(row.throughput_per_s)),
    "memory": ("peak\nmemory", lambda row: units.format_bytes(row.memory_peak_bytes)),
}


def render_text(
    rows: Iterable[Row],
    recommendations: Iterable[Recommendation | Advice] = (),
    *,
    width: int | None = None,
    color: bool = False,
    differences: Sequence[str] = (),
    hints: Sequence[str] = (),
) -> str:
    """The whole report as text, ending in a newline.

    `width`: columns of the terminal, or None when piped (nothing left out, nothing broken). `color`: with ANSI
    colours and weights; without, not one escape character. `differences`: paragraphs of `harness.report.differences`;
    `hints`: lines of `harness.hints`, what to do for better figures.
    """
    rows = list(rows)
    paper = Paper(width, color=color)
    arranged = arrange(rows, recommendations)
    start = "" if width is None else common_start(rows)
    notes = Notes()
    omitted: list[str] = []
    for group in arranged.devices:
        omitted = _print_device(paper, group, columns_for(rows), notes, start) or omitted
    _print_refused(paper, arranged.refused)
    omitted += [header for header in _print_ledger(paper, rows, start) if header not in omitted]
    if differences:
        paper.line(TITLE, "bold")
        for text in differences:
            paper.paragraph(text, lead="– ")
        paper.line()
    _print_hints(paper, hints)
    _print_legend(paper, rows, notes, omitted, start)
    return paper.text()


def render_recommendations(
    recommendations: Iterable[Recommendation | Advice], *, width: int | None = None, color: bool = False
) -> str:
    """Only what to deploy on each device, and who is excluded by which limit. Arguments as for `render_text`."""
    paper = Paper(width, color=color)
    for advice in worded(recommendations):
        _print_advice(paper, advice)
        for out in exclusions(advice):
            paper.paragraph(f"{', '.join(out.labels)}: {out.text}", "dim", lead="  – ")
    return paper.text()


def _print_advice(paper: Paper, advice: Advice) -> None:
    first, rest = first_sentence(advice.sentence)
    paper.paragraph(first, "bold yellow" if advice.winner is None else "bold green")
    if rest:
        paper.paragraph(rest)


def _print_device(paper: Paper, group: DeviceGroup, columns: list[Column], notes: Notes, start: str) -> list[str]:
    """Print one device; return the headers of the columns left out."""
    counts = f"{len(group.ok)} measured" + (f", {len(group.failed)} failed" if group.failed else "")
    paper.line(f"{clean(group.device)} — {counts}", "bold")
    if group.advice is not None:
        _print_advice(paper, group.advice)
    omitted: list[str] = []
    if group.ok:
        marks = [notes.mark(row.grade_reasons) for row in group.ok]
        shown, omitted = _fit(columns, group.ok, marks, start, paper.width)
        stars = ["★" if group.is_winner(row) else "☆" if group.on_front(row) else "" for row in group.ok]
        print_grid(paper, shown, stars, ["bold green" if star == "★" else "" for star in stars])
        if group.failed:
            paper.line()
    for failure in group.failures():
        paper.paragraph(f"{', '.join(failure.labels)} failed: {failure.text}", "red", lead="✗ ")
        if failure.remedy:
            paper.paragraph(failure.remedy, lead="  → ")
    paper.line()
    return omitted


def _fit(
    columns: list[Column], rows: Sequence[Row], marks: list[tuple[int, ...]], start: str, limit: int | None
) -> tuple[list[GridColumn], list[str]]:
    """The columns for which there is room, in table order, and the headers of those for which there is none."""
    full = {column.key: _shown(column, rows, marks, start) for column in columns}
    if limit is None:
        return list(full.values()), []
    chosen = {column.key: full[column.key] for column in columns if column.essential}
    for name in (*_ORDER, *(key for key in full if key not in _ORDER)):
        key = name.removesuffix("+")
        if key not in full or (key in chosen and key == name):
            continue
        candidate = {**chosen, key: full[key] if key != name else _short(key, full[key], rows)}
        label = FOLD_LEAST if name in _SQUEEZE else _NAME_ENOUGH
        if grid_width(candidate.values(), min(label, full["variant"].width)) <= limit:
            chosen = candidate
    omitted = [plain_header(column) for column in columns if column.key not in chosen]
    return [chosen[key] for key in full if key in chosen], omitted


def _shown(column: Column, rows: Sequence[Row], marks: list[tuple[int, ...]], start: str) -> GridColumn:
    texts = [column.text(row) for row in rows]
    if column.key == "variant":
        texts = [text.removeprefix(start) for text in texts]
    if column.key == "grade":
        texts = [f"{text} {','.join(map(str, mark))}".rstrip() for text, mark in zip(texts, marks, strict=True)]
    header = _HEADERS.get(column.key, column.header)
    return GridColumn(header, tuple(texts), right=column.numeric, folds=column.key == "variant")


def _short(key: str, full: GridColumn, rows: Sequence[Row]) -> GridColumn:
    if key not in _SHORT:
        return full
    header, text = _SHORT[key]
    return GridColumn(header, tuple(text(row) for row in rows), right=True)


def _print_ledger(paper: Paper, rows: Sequence[Row], start: str) -> list[str]:
    """Print what was counted, as far as there is room; return the headers of the columns left out."""
    shown = ledger.counted(rows)
    if not shown:
        return []
    columns = ledger.columns_of(shown)
    unmarked: list[tuple[int, ...]] = [() for _ in shown]
    grid = {column.key: _shown(column, shown, unmarked, start) for column in columns}
    chosen = {key: grid[key] for key in ("variant", "size")}
    for key in ledger.LEAST_NEEDED_LAST:
        if key in grid:
            wider = {**chosen, key: grid[key]}
            folded = min(_NAME_ENOUGH, grid["variant"].width)
            if paper.width is None or grid_width(wider.values(), folded) <= paper.width:
                chosen = wider
    paper.line(ledger.TITLE, "bold")
    print_grid(paper, [chosen[key] for key in grid if key in chosen], [""] * len(shown), [""] * len(shown))
    paper.paragraph(ledger.NOTE, "dim")
    for text in ledger.reasons(shown):
        paper.paragraph(text, "dim", lead="n/a ")
    paper.line()
    return [plain_header(column) for column in columns if column.key not in chosen]


def _print_refused(paper: Paper, refused: Sequence[Refusal]) -> None:
    if not refused:
        return
    paper.line("Not possible, so not tried", "bold")
    for refusal in refused:
        where = f" on {', '.join(refusal.devices)}" if refusal.devices else ""
        paper.paragraph(refusal.label + where, lead="– ")
        paper.paragraph(refusal.reason, "dim", lead="    ")
    paper.line()


def _print_hints(paper: Paper, hints: Sequence[str]) -> None:
    if not hints:
        return
    paper.line(HINTS_TITLE, "bold")
    for text in hints:
        paper.paragraph(clean(text), lead="→ ")
    paper.line()


def _print_legend(paper: Paper, rows: Sequence[Row], notes: Notes, omitted: list[str], start: str) -> None:
    lines = []
    if start:
        lines.append(("", f"Variant names are shown without their common start “{start}”."))
    lines.append(("", "★ recommended   ☆ on the Pareto front: no variant here is better in all respects"))
    lines += [("", f"Grade {grade}: {meaning}.") for grade, meaning in grades_used(rows)]
    lines += [(f"  {number} ", text) for number, text in notes.items()]
    lines += [("n/a ", text) for text in absences(rows)]
    if omitted:
        lines.append(("", f"No room here for: {', '.join(omitted)}. Widen the terminal or pipe the output."))
    for lead, text in lines:
        paper.paragraph(text, "dim", lead=lead)
