"""Rows and recommendations → GitHub-flavoured Markdown, for a pull request, an issue or a wiki.

Place in the flow: arranged rows → here → report.md. Everything that came from a model, a device or a tool is escaped:
it can neither break the table nor bring HTML, links or mentions along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from harness.report import ledger
from harness.report.arrange import (
    HINTS_TITLE,
    Alike,
    Arrangement,
    DeviceGroup,
    Notes,
    absences,
    arrange,
    first_sentence,
    grades_used,
)
from harness.report.cells import Column, clean, columns_for
from harness.report.differences import TITLE
from harness.row import Row

if TYPE_CHECKING:
    from harness.choose import Recommendation
    from harness.report.advice import Advice

_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$]|^[#+-])")
_ORDERED = re.compile(r"^(\d+)([.)])")


def escape(text: str | None) -> str:
    """Plain text as Markdown that shows exactly this text: HTML as entities, punctuation behind a backslash."""
    plain = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _ORDERED.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", plain))
    # A zero-width space after "@" and within "://" keeps a name from calling somebody and an address from being a link.
    return plain.replace("@", "@\u200b").replace("://", ":\u200b//").replace("www.", "www\u200b.")


def render_markdown(
    rows: Iterable[Row],
    recommendations: Iterable[Recommendation | Advice] = (),
    *,
    title: str = "",
    differences: Sequence[str] = (),
    hints: Sequence[str] = (),
) -> str:
    """The whole report as Markdown, ending in a newline. `title` becomes the first heading; `differences`: paragraphs of
    `harness.report.differences`; `hints`: lines of `harness.hints`."""
    rows = list(rows)
    arranged = arrange(rows, recommendations)
    notes = Notes()
    blocks = [f"# {escape(title)}"] if title else []
    for group in arranged.devices:
        blocks += _device(group, columns_for(rows), notes)
    blocks += _refused(arranged)
    blocks += _ledger(rows)
    if differences:
        blocks += [f"## {TITLE}", *(escape(text) for text in differences)]
    if hints:
        blocks += [f"{HINTS_TITLE}:", "\n".join(f"- {escape(text)}" for text in hints)]
    blocks += _legend(rows, notes)
    return "\n\n".join(blocks) + "\n"


def _device(group: DeviceGroup, columns: Sequence[Column], notes: Notes) -> list[str]:
    blocks = [f"## {escape(group.device)}"]
    if group.advice is not None:
        first, rest = first_sentence(group.advice.sentence)
        blocks.append(f"**{escape(first)}** {escape(rest)}".rstrip())
    if group.ok:
        blocks.append(_table(group, columns, notes))
    if group.failed:
        blocks.append("Failed:")
        blocks.append("\n".join(_failure(failure) for failure in group.failures()))
    return blocks


def _failure(failure: Alike) -> str:
    names = ", ".join(_code(label) for label in failure.labels)
    remedy = f" — remedy: {escape(failure.remedy)}" if failure.remedy else ""
    return f"- {names}: {escape(failure.text)}{remedy}"


def _code(text: str) -> str:
    """A name in code style where that is safe, else escaped."""
    return f"`{text}`" if re.fullmatch(r"[\w.\-+ ()]+", text) else escape(text)


def _table(group: DeviceGroup, columns: Sequence[Column], notes: Notes) -> str:
    lines = [
        "| | " + " | ".join(column.header for column in columns) + " |",
        "|---|" + "|".join("---:" if column.numeric else "---" for column in columns) + "|",
    ]
    for row in group.ok:
        mark = "★" if group.is_winner(row) else "☆" if group.on_front(row) else ""
        cells = []
        for column in columns:
            text = column.text(row)
            if column.key == "variant":
                cells.append(_code(text))
            elif column.key == "grade":
                numbers = ", ".join(map(str, notes.mark(row.grade_reasons)))
                cells.append(escape(text) + (f" <sup>{numbers}</sup>" if numbers else ""))
            else:
                cells.append(text)
        lines.append(f"| {mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ledger(rows: Sequence[Row]) -> list[str]:
    """What was counted of the variants, where something was."""
    shown = ledger.counted(rows)
    if not shown:
        return []
    columns = ledger.columns_of(shown)
    lines = [
        "| " + " | ".join(column.header for column in columns) + " |",
        "|" + "|".join("---:" if column.numeric else "---" for column in columns) + "|",
    ]
    for row in shown:
        cells = [_code(column.text(row)) if column.key == "variant" else column.text(row) for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    missing = "\n".join(f"- n/a: {escape(text)}" for text in ledger.reasons(shown))
    return [f"## {ledger.TITLE}", "\n".join(lines), ledger.NOTE, *([missing] if missing else [])]


def _refused(arranged: Arrangement) -> list[str]:
    if not arranged.refused:
        return []
    lines = []
    for refusal in arranged.refused:
        where = f" (on {escape(', '.join(refusal.devices))})" if refusal.devices else ""
        lines.append(f"- {_code(refusal.label)}{where}: {escape(refusal.reason)}")
    return ["Not possible, so not tried:", "\n".join(lines)]


def _legend(rows: Sequence[Row], notes: Notes) -> list[str]:
    lines = ["- ★ recommended, ☆ on the Pareto front: no variant here is better in all respects"]
    lines += [f"- grade {grade}: {meaning}" for grade, meaning in grades_used(rows)]
    lines += [f"- <sup>{number}</sup> {escape(text)}" for number, text in notes.items()]
    lines += [f"- n/a: {escape(text)}" for text in absences(rows)]
    return ["Legend:", "\n".join(lines)]
