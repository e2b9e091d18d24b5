"""The goals as a table in docs/methodology.md: the newest answer to each, between two markers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN = "<!-- fidelity: begin, made by scripts/fidelity -->"
END = "<!-- fidelity: end -->"


def newest(results: Path) -> dict[str, dict[str, Any]]:
    """Goal → its newest answer, with the `file` it stands in."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob("????-??-??.json")):
        for name, entry in json.loads(path.read_text())["goals"].items():
            found[name] = {**entry, "file": path.name}
    return dict(sorted(found.items(), key=lambda item: int(item[0][1:])))


def _words(figure: Any) -> str:
    if isinstance(figure, dict):
        return "; ".join(f"{key} {_words(value)}" for key, value in figure.items())
    if isinstance(figure, list):
        return "[" + ", ".join(_words(value) for value in figure) + "]"
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def lines(results: Path) -> list[str]:
    """The table in Markdown."""
    rows = [
        "| goal | what | bound | figure | n | result | seconds, load | note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in newest(results).items():
        verdict = "pass" if entry["pass"] else "**fail**"
        load = f"{entry['seconds']:.0f} s, {entry['before']['load'][0]:.1f}"
        cells = [name, entry["title"] or "", entry["bound"] or "", _words(entry["figure"]), entry["n"], verdict, load]
        rows.append(
            "| " + " | ".join(_cell(str(cell)) for cell in [*cells, f"{entry['note']} ({entry['file']})"]) + " |"
        )
    return rows


def write(results: Path, page: Path) -> None:
    """Put the table between the markers of the page. Raises ValueError when the page has none."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no place for the table")
    head, rest = text.split(BEGIN)
    body = "\n".join(["", *lines(results), ""])
    page.write_text(f"{head}{BEGIN}\n{body}\n{END}{rest.split(END)[1]}", encoding="utf-8")
