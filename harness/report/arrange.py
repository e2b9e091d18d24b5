"""How rows are laid out in every report: grouped by device, fastest first, failures and refusals apart, notes numbered.

Place in the flow: rows and recommendations → here → terminal, Markdown and HTML. Nothing is computed, only ordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.report.cells import COLUMNS, GRADE_MEANINGS, clean, plain_header, variant_label
from harness.row import OK, REFUSED, Row

if TYPE_CHECKING:
    from harness.choose import Recommendation

MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """One device's rows: `ok` by latency, fastest first, unmeasured last; `failed` by name."""

    device: str
    ok: tuple[Row, ...]
    failed: tuple[Row, ...]
    recommendation: Recommendation | None = None

    def is_winner(self, row: Row) -> bool:
        """Whether the recommendation names this row's variant."""
        return self.recommendation is not None and row.variant == self.recommendation.winner

    def on_front(self, row: Row) -> bool:
        """Whether this row's variant is on the device's Pareto front."""
        return self.recommendation is not None and row.variant in self.recommendation.pareto


@dataclass(frozen=True, slots=True)
class Refusal:
    """A variant that cannot exist, with the reason; `devices` is empty when that is so on all of them."""

    label: str
    reason: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrangement:
    """All rows of a report in the order in which it shows them."""

    devices: tuple[DeviceGroup, ...]
    refused: tuple[Refusal, ...]


@dataclass(slots=True)
class Notes:
    """Numbered footnotes: the same text has the same number wherever it is used."""

    numbers: dict[str, int] = field(default_factory=dict)

    def mark(self, texts: Iterable[str]) -> tuple[int, ...]:
        """The numbers of these texts, new ones given where needed."""
        return tuple(self.numbers.setdefault(clean(text), len(self.numbers) + 1) for text in texts)

    def items(self) -> list[tuple[int, str]]:
        """Number and text of all notes, in order."""
        return [(number, text) for text, number in self.numbers.items()]


def _by_latency(row: Row) -> tuple[float, str]:
    value = row.latency_median_ns
    return (math.inf if value is None else value, row.variant)


def _refusals(rows: Sequence[Row], devices: Sequence[str]) -> tuple[Refusal, ...]:
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status == REFUSED:
            where.setdefault((variant_label(row), clean(row.error)), []).append(clean(row.device))
    return tuple(
        Refusal(label, reason, () if len(set(at)) >= len(devices) else tuple(dict.fromkeys(at)))
        for (label, reason), at in where.items()
    )


def arrange(rows: Iterable[Row], recommendations: Iterable[Recommendation] = ()) -> Arrangement:
    """Order rows for showing. Devices keep the order in which the rows name them."""
    rows = list(rows)
    advice = {recommendation.device: recommendation for recommendation in recommendations}
    names = list(dict.fromkeys(row.device for row in rows))
    groups = []
    for name in names:
        here = [row for row in rows if row.device == name and row.status != REFUSED]
        ok = tuple(sorted((row for row in here if row.status == OK), key=_by_latency))
        failed = tuple(sorted((row for row in here if row.status != OK), key=lambda row: row.variant))
        if here or name in advice:
            groups.append(DeviceGroup(name, ok, failed, advice.get(name)))
    return Arrangement(tuple(groups), _refusals(rows, [group.device for group in groups]))


def name_some(labels: Sequence[str], total: int) -> str:
    """Up to three of these names and how many more there are; or that it is all of them."""
    if len(labels) == total and total > 1:
        return "all variants"
    if len(labels) <= MOST_NAMES:
        return ", ".join(labels)
    return f"{', '.join(labels[:MOST_NAMES])} and {len(labels) - MOST_NAMES} more"


def absences(rows: Sequence[Row]) -> list[str]:
    """Why cells say "n/a" and columns are missing: "accuracy: no labels (all variants)", for the columns there are."""
    reasons: dict[tuple[str, str], list[str]] = {}
    by_field = {field: column for column in COLUMNS.values() for field in column.fields}
    for row in rows:
        for entry in row.null_reasons:
            name, _, reason = entry.partition(":")
            column = by_field.get(name.strip())
            if column is not None:
                labels = reasons.setdefault((plain_header(column), clean(reason)), [])
                if variant_label(row) not in labels:
                    labels.append(variant_label(row))
    total = len({variant_label(row) for row in rows})
    return [f"{header}: {reason} ({name_some(labels, total)})" for (header, reason), labels in reasons.items()]


def grades_used(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Grade and meaning for the grades the measured ones of these rows have, best first."""
    used = {row.grade for row in rows if row.status == OK}
    return [(grade, meaning) for grade, meaning in GRADE_MEANINGS.items() if grade in used]


def common_start(rows: Sequence[Row]) -> str:
    """The base model's name and its dot where every variant's name starts so: what short labels leave out."""
    bases = {row.base for row in rows}
    base = next(iter(bases)) if len(bases) == 1 else None
    start = f"{clean(base)}." if base else ""
    return start if start and all(clean(row.variant).startswith(start) for row in rows) else ""
