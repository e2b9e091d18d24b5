"""How much each group of filters is missed when a share of it goes: a table and a plot, before anything is removed.

Used by `converters.compress.prune_structured` (after Li et al., arXiv:1608.08710, section 3.2). Filters are not removed but zeroed
where other layers take them, which answers the same and needs no new model; the weights are put back afterwards.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.compress.channels import Ids
from converters.compress.context import Rows
from converters.compress.groups import Structure
from converters.compress.objective import Predictor, score_of
from converters.compress.rebuild import values
from converters.compress.removal import Scores
from converters.compress.svg import LINE, shortened, text

SHARES = (0.25, 0.5, 0.75)
MOST_ROWS, LEAST_ROWS = 512, 32
# What the whole table may cost, so that a large model does not spend minutes on it: about ten seconds of one core.
MAC_BUDGET = 100e9
_CELL, _LABEL = 84, 260
# From no loss to a loss of this share of the full model's score, the cells go from white to full colour.
_FULL_COLOUR_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """`whole`: score of the full model; `groups`: (name, filters, scores at `SHARES`) in the model's order; `rows` judged by.
    `skipped`: why there are none, else empty."""

    whole: float = 0.0
    groups: tuple[tuple[str, int, tuple[float, ...]], ...] = ()
    rows: int = 0
    skipped: str = ""

    def figures(self) -> dict[str, Any]:
        """As plain data."""
        if self.skipped:
            return {"skipped": self.skipped}
        table = [
            {"group": name, "filters": number, "scores": [round(score, 5) for score in scores]}
            for name, number, scores in self.groups
        ]
        return {"rows": self.rows, "score": round(self.whole, 5), "shares": list(SHARES), "groups": table}


@contextmanager
def silenced(structure: Structure, units: Ids) -> Iterator[None]:
    """While this lasts, the model that `structure` was read from answers as if these units were gone."""
    before: list[tuple[Any, Any]] = []
    for site, positions in structure.takers(units):
        weight = getattr(site.operation, site.variable)
        array = values(weight)
        before.append((weight, array.copy()))
        array[(slice(None),) * site.axis + (positions,)] = 0
        weight.assign(array)
    try:
        yield
    finally:
        for weight, array in reversed(before):
            weight.assign(array)


def sensitivity(model: Any, structure: Structure, scores: Scores, rows: Rows, task: str) -> Sensitivity:
    """The score on `rows` when 25, 50 and 75 % of one group's filters are silenced, the least important first, all others left."""
    if rows.labels is None or rows.count == 0:
        return Sensitivity(skipped="there are no labelled validation rows")
    macs = structure.macs(np.empty(0, np.int64))
    tries = len(structure.groups) * len(SHARES) + 1
    affordable = MOST_ROWS if macs is None else int(MAC_BUDGET / max(macs * tries, 1))
    if affordable < LEAST_ROWS:
        return Sensitivity(skipped=f"{tries} looks at {LEAST_ROWS} rows would take more than {MAC_BUDGET:g} MACs")
    count = min(affordable, MOST_ROWS, rows.count)
    rows = rows.take(np.linspace(0, rows.count - 1, count).astype(np.int64))
    predict = Predictor(model)

    def judged() -> float:
        return score_of(predict(rows.inputs)[0], rows.labels, task)

    whole, found = judged(), []
    for group in structure.groups:
        order = group.units[np.argsort(scores[group.units], kind="stable")]
        line = []
        for share in SHARES:
            with silenced(structure, order[: round(share * len(order))]):
                line.append(judged())
        found.append((group.name, len(order), tuple(line)))
    return Sensitivity(whole, tuple(found), count)


def as_csv(found: Sensitivity) -> str:
    """One line per group and share."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "filters", "share_silenced", "score", "score_of_the_whole", "rows"])
    for name, number, scores in found.groups:
        writer.writerows(
            [name, number, share, score, found.whole, found.rows] for share, score in zip(SHARES, scores, strict=True)
        )
    return text.getvalue()


def as_svg(found: Sensitivity) -> str:
    """One line of cells per group, in the model's order: the score at each share, the darker the more is lost."""
    width, height = _LABEL + _CELL * len(SHARES) + 20, LINE * (len(found.groups) + 3) + 16
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(10, 1, f"Score without a share of one group's filters ({found.rows} validation rows)", weight="bold"),
        text(10, 2, f"all filters: {found.whole:.4g}; the darker, the more is lost"),
        *(text(_LABEL + _CELL * (k + 0.5), 3, f"−{share:.0%}", "middle") for k, share in enumerate(SHARES)),
    ]
    for line, (name, number, scores) in enumerate(found.groups, start=4):
        parts.append(text(10, line, f"{shortened(name)} ({number})"))
        parts += [_cell(line, column, score, found.whole) for column, score in enumerate(scores)]
    return "\n".join([*parts, "</svg>\n"])


def _cell(line: int, column: int, score: float, whole: float) -> str:
    lost = max(whole - score, 0.0) / max(abs(whole) * _FULL_COLOUR_SHARE, 1e-9)
    depth = min(lost, 1.0)
    red, green, blue = (round(255 + (end - 255) * depth) for end in (180, 30, 40))
    x = _LABEL + _CELL * column
    box = (
        f'<rect x="{x}" y="{(line - 1) * LINE}" width="{_CELL - 2}" height="{LINE - 2}" '
        f'fill="rgb({red},{green},{blue})" stroke="#ccc" stroke-width="0.5"/>'
    )
    dark = 0.6
    return box + text(x + _CELL / 2 - 1, line, f"{score:.4g}", "middle", fill="white" if depth > dark else "#222")


def plots(found: Sensitivity) -> Sequence[tuple[str, str]]:
    """The files to ship: name and text."""
    return () if found.skipped else (("sensitivity.csv", as_csv(found)), ("sensitivity.svg", as_svg(found)))
