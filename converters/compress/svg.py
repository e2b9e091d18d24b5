"""Words in the small SVG pictures that steps ship: a table of layers, a line each. Used by `sensitivity` and `mixed_report`. Standard library."""

from __future__ import annotations

from xml.sax.saxutils import escape

LINE = 22  # pixels from one line to the next


def shortened(name: str, most: int = 32) -> str:
    """The name, cut to so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def text(x: float, line: float, words: str, anchor: str = "start", weight: str = "normal", fill: str = "#222") -> str:
    """A text element at `x` pixels on that line, counted from 1; the words are escaped."""
    y = line * LINE - 6
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">{escape(words)}</text>'
    )
