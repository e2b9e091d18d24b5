"""Parts of a generated page of docs/: the rows of a file of results, tables, figures with their intervals. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FORMATS = ("tflite", "onnx", "openvino")
FORMAT_NAMES = {"tflite": "TFLite", "onnx": "ONNX", "openvino": "OpenVINO"}
REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"
NOTHING = "–"


def stored(path: Path) -> Any:
    """What the file holds; an empty list where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def missing(script: str) -> str:
    """What stands where there are no figures yet."""
    return f"Not measured yet: `{script}` writes the figures.\n"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def number(value: float | None, form: str) -> str:
    """The figure in Python's format, or a dash."""
    if value is None:
        return NOTHING
    return format(int(value) if form.endswith("d") else value, form)


def points(row: Row, name: str, factor: float = 1.0) -> str:
    """`NAME_pp` with its interval, both signs told."""
    value, low, high = (row.get(f"{name}{end}_pp") for end in ("", "_low", "_high"))
    if value is None:
        return NOTHING
    told = "" if low is None or high is None else f" [{factor * low:+.1f}, {factor * high:+.1f}]"
    return f"{factor * value:+.2f}{told}"


def image(folder: Path, name: str, words: str) -> str:
    """The picture as the pages of docs/ link it; nothing where there is none."""
    return f"![{words}](../results/reference/{name})\n" if (folder / name).is_file() else ""


def dated(rows: Iterable[Row]) -> str:
    """When it was measured."""
    days = sorted({row["date"] for row in rows})
    return f"Measured on {days[0]}." if len(days) == 1 else f"Measured from {days[0]} to {days[-1]}."


def judged(kept: Sequence[str], wrong: Sequence[str], claim: str) -> str:
    """One line: how often a claim holds, and each time when it does not."""
    total = len(kept) + len(wrong)
    line = f"- {claim}: **{len(kept)} of {total}**."
    return line + "".join(f"\n  - not: {words}" for words in wrong)
