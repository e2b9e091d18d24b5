"""How much each part of a model is missed when a share of it goes: the measuring, the table and the plot, before anything is pruned.

What a part is and how a share of it goes, the step says: filters are silenced (`converters.compress.silencing`, for `prune_structured`,
after Li et al., arXiv:1608.08710, section 3.2), weights are set to zero (`prune`, after Han et al., arXiv:1506.02626, section 3.3).
One part at a time, all others whole; what was there is put back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.context import TrainingData
from converters.compress.objective import Predictor, score_of
from converters.compress.record import KEEP
from converters.compress.svg import Cell, table

MOST_ROWS, LEAST_ROWS = 512, 32
# What the whole table may cost, so that a large model does not spend minutes on it: about ten seconds of one core.
MAC_BUDGET = 100e9
# From no loss to a loss of this share of the full model's score, the cells go from white to full colour.
_FULL_COLOUR_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Words:
    """What a step's table calls things: `parts` and `part` (a layer, say), the `units` that a part has so many of, how they are `gone`,
    and the plot's `title`. `shares`: of the units that go, one column each."""

    parts: str
    part: str
    units: str
    gone: str
    title: str
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One part with `size` units. While `without(share)` lasts, the model answers as if that share of them, the least important first,
    were gone."""

    name: str
    size: int
    without: Callable[[float], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """`whole`: score of the full model; `parts`: (name, units, scores at the shares of `words`) in the model's order; `rows` judged by.
    `skipped`: why there are none, else empty."""

    words: Words
    whole: float = 0.0
    parts: tuple[tuple[str, int, tuple[float, ...]], ...] = ()
    rows: int = 0
    skipped: str = ""

    def figures(self) -> dict[str, Any]:
        """As plain data, for the lineage."""
        if self.skipped:
            return {"skipped": self.skipped}
        table = [
            {self.words.part: name, self.words.units: size, "scores": [round(score, 5) for score in scores]}
            for name, size, scores in self.parts
        ]
        told = {"rows": self.rows, "score": round(self.whole, 5), "shares": list(self.words.shares)}
        return {**told, self.words.parts: table}


def sensitivity(
    model: Any,
    words: Words,
    parts: Sequence[Part],
    data: TrainingData | None,
    macs: Callable[[], int | None],
) -> Sensitivity:
    """The score on validation rows when a share of one part is gone, for each part and share.

    Up to `MOST_ROWS` rows; as many fewer as keep the whole within `MAC_BUDGET`, and nothing at all, with the reason, when not even
    `LEAST_ROWS` would. `macs()`: the model's, for one row; None where they are not known, and all rows are taken then.
    """
    if data is None or data.validation.labels is None or data.validation.count == 0:
        return Sensitivity(words, skipped="there are no labelled validation rows")
    cost, tries = macs(), len(parts) * len(words.shares) + 1
    affordable = MOST_ROWS if cost is None else int(MAC_BUDGET / max(cost * tries, 1))
    if affordable < LEAST_ROWS:
        return Sensitivity(
            words, skipped=f"{tries} looks at {LEAST_ROWS} rows would take more than {MAC_BUDGET:g} MACs"
        )
    count = min(affordable, MOST_ROWS, data.validation.count)
    rows = data.validation.take(np.linspace(0, data.validation.count - 1, count).astype(np.int64))
    predict = Predictor(model)

    def judged() -> float:
        return score_of(predict(rows.inputs)[0], rows.labels, data.task)

    whole, found = judged(), []
    for part in parts:
        line = []
        for share in words.shares:
            with part.without(share):
                line.append(judged())
        found.append((part.name, part.size, tuple(line)))
    return Sensitivity(words, whole, tuple(found), count)


def as_csv(found: Sensitivity) -> str:
    """One line per part and share."""
    words, out = found.words, io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([words.part, words.units, f"share_{words.gone}", "score", "score_of_the_whole", "rows"])
    for name, size, scores in found.parts:
        writer.writerows(
            [name, size, share, score, found.whole, found.rows]
            for share, score in zip(words.shares, scores, strict=True)
        )
    return out.getvalue()


def as_svg(found: Sensitivity) -> str:
    """One line of cells per part, in the model's order: the score at each share, the darker the more is lost."""
    words = found.words
    whole = max(abs(found.whole) * _FULL_COLOUR_SHARE, 1e-9)
    lines = [
        (name, units, [Cell(f"{score:.4g}", min(max(found.whole - score, 0.0) / whole, 1.0)) for score in scores])
        for name, units, scores in found.parts
    ]
    title = f"{words.title} ({found.rows} validation rows)"
    says = f"all {words.units}: {found.whole:.4g}; the darker, the more is lost"
    return table(title, says, [f"−{share:.0%}" for share in words.shares], lines)


def shipped(found: Sensitivity, folder: Path) -> tuple[str, ...]:
    """Write table and plot where the files that a step ships lie, in its `folder`; their names, none for a table that was skipped."""
    if found.skipped:
        return ()
    texts = {"sensitivity.csv": as_csv(found), "sensitivity.svg": as_svg(found)}
    (folder / KEEP).mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (folder / KEEP / name).write_text(content, encoding="utf-8")
    return tuple(texts)
