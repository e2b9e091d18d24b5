"""The small SVG pictures that steps ship: a table of layers, a line each, its cells the darker the more is lost. Used by `sensitivity` and
`mixed_report`. Standard library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_LINE = 22  # pixels from one line to the next
_LABEL, _CELL = 300, 84
# Title, a line of explanation and the heads of the columns stand above the first line of cells.
_FIRST = 4
_FULL_COLOUR = (180, 30, 40)
# From this depth of colour on words are white.
_DARK = 0.6


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: its words, how deep its colour is (0 white to 1), and whether a frame says that it was chosen."""

    words: str
    depth: float
    framed: bool = False


def table(title: str, says: str, columns: Sequence[str], lines: Sequence[tuple[str, int, Sequence[Cell]]]) -> str:
    """The whole picture. `says`: what the figures are. `lines`: name, how many units it has, a cell for each of `columns`."""
    width, height = _LABEL + _CELL * len(columns) + 20, _LINE * (len(lines) + _FIRST) + 16
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(10, 1, title, weight="bold"),
        _text(10, 2, says),
        *(_text(_LABEL + _CELL * (k + 0.5), 3, head, "middle") for k, head in enumerate(columns)),
    ]
    for place, (name, units, cells) in enumerate(lines, start=_FIRST):
        parts.append(_text(10, place, f"{_shortened(name)} ({units})"))
        parts += [_cell(place, column, cell) for column, cell in enumerate(cells)]
    return "\n".join([*parts, "</svg>\n"])


def _cell(line: int, column: int, cell: Cell) -> str:
    red, green, blue = (round(255 + (end - 255) * cell.depth) for end in _FULL_COLOUR)
    x = _LABEL + _CELL * column
    stroke = 'stroke="black" stroke-width="2.5"' if cell.framed else 'stroke="#ccc" stroke-width="0.5"'
    box = (
        f'<rect x="{x + 1}" y="{(line - 1) * _LINE + 1}" width="{_CELL - 4}" height="{_LINE - 4}" '
        f'fill="rgb({red},{green},{blue})" {stroke}/>'
    )
    return box + _text(x + _CELL / 2 - 1, line, cell.words, "middle", fill="white" if cell.depth > _DARK else "#222")


def _shortened(name: str, most: int = 32) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _text(x: float, line: float, words: str, anchor: str = "start", weight: str = "normal", fill: str = "#222") -> str:
    """At `x` pixels on that line, counted from 1; the words are escaped."""
    y = line * _LINE - 6
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">{escape(words)}</text>'
    )
