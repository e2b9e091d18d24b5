"""Lines for a terminal: paragraphs with a hanging indent, and a table that never cuts a figure.

Place in the flow: terminal.py and conversion.py → here → text. Written to the character, because a library's table
shortens cells to fit: here only one column may be folded, and the caller decides which columns there are.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# Piped text must not be broken into lines: wide enough for any table of ours.
_UNLIMITED = 100_000
_NARROWEST = 20
GAP = 2
FOLD_LEAST = 18


class Paper:
    """What is written so far. `width`: columns of the terminal, or None when piped: nothing is broken. Without `color`
    the text has not one escape character."""

    def __init__(self, width: int | None, *, color: bool) -> None:
        from rich.console import Console

        self.width = width
        self._out = io.StringIO()
        self._console = Console(
            file=self._out,
            width=_UNLIMITED if width is None else max(width, _NARROWEST),
            force_terminal=color,
            color_system="standard" if color else None,
            no_color=not color,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )

    def line(self, text: str = "", style: str = "") -> None:
        """One line, never broken here."""
        from rich.text import Text

        self._console.print(Text(text, style=style), soft_wrap=True)

    def paragraph(self, text: str, style: str = "", *, lead: str = "") -> None:
        """Text broken at words, its further lines indented below the first word after `lead`."""
        from rich.text import Text

        room = max(self._console.width - cells(lead), 1)
        for index, line in enumerate(Text(text, style=style).wrap(self._console, room)):
            self._console.print(Text(lead if index == 0 else " " * cells(lead), style) + line, soft_wrap=True)

    def text(self) -> str:
        """All of it, lines without trailing blanks, ending in a newline."""
        return "\n".join(line.rstrip() for line in self._out.getvalue().splitlines()) + "\n"


@dataclass(frozen=True, slots=True)
class GridColumn:
    """A column: header (lines parted by a line break) and one text per row. `right`: figures; `folds`: may be broken
    into lines, down to FOLD_LEAST; at most one column of a grid."""

    header: str
    texts: tuple[str, ...]
    right: bool = False
    folds: bool = False

    @property
    def width(self) -> int:
        """Columns of the terminal that the widest text takes."""
        return max(cells(text) for text in (*self.header.split("\n"), *self.texts))


def cells(text: str) -> int:
    """How many columns of the terminal a text takes."""
    from rich.cells import cell_len

    return cell_len(text)


def grid_width(columns: Iterable[GridColumn], folded: int | None = None) -> int:
    """Columns of the terminal that the grid takes, with its marks; the folding column `folded` wide (None: in full)."""
    widths = [folded if column.folds and folded is not None else column.width for column in columns]
    return GAP + sum(widths) + GAP * (len(widths) - 1)


def print_grid(paper: Paper, columns: Sequence[GridColumn], marks: Sequence[str], styles: Sequence[str]) -> None:
    """Header, rule and rows. `marks`: one character before each row; `styles`: of each row."""
    widths = [column.width for column in columns]
    if paper.width is not None:
        spare = max(paper.width - grid_width(columns, 0), FOLD_LEAST)
        widths = [min(w, spare) if column.folds else w for column, w in zip(columns, widths, strict=True)]
    for line in _lines(" ", [column.header.split("\n") for column in columns], columns, widths, bottom=True):
        paper.line(line, "bold")
    paper.line("─" * (GAP + sum(widths) + GAP * (len(widths) - 1)))
    for number, (mark, style) in enumerate(zip(marks, styles, strict=True)):
        row = [
            fold(column.texts[number], width) if column.folds else [column.texts[number]]
            for column, width in zip(columns, widths, strict=True)
        ]
        for line in _lines(mark or " ", row, columns, widths, bottom=False):
            paper.line(line, style)


def _lines(
    mark: str, row: list[list[str]], columns: Sequence[GridColumn], widths: list[int], *, bottom: bool
) -> Iterator[str]:
    """The lines of one row. Cells of fewer lines stand at the top, or at the `bottom`."""
    height = max(len(cell) for cell in row)
    for index in range(height):
        parts = []
        for cell, column, width in zip(row, columns, widths, strict=True):
            at = index - (height - len(cell)) if bottom else index
            text = cell[at] if 0 <= at < len(cell) else ""
            blank = " " * (width - cells(text))
            parts.append(blank + text if column.right else text + blank)
        yield f"{mark if index == 0 else ' '} {(' ' * GAP).join(parts)}"


def fold(name: str, width: int) -> list[str]:
    """A name in lines of at most `width`, broken after a dot, an underscore or a space where there is one."""
    width = max(width, 4)
    lines = []
    while cells(name) > width:
        cut = width
        while cells(name[:cut]) > width:
            cut -= 1
        natural = max(name.rfind(separator, 1, cut) for separator in "._ ") + 1
        cut = natural if natural > 0 else max(cut, 1)
        lines.append(name[:cut])
        name = f" {name[cut:]}"
    return [*lines, name]
