"""How rows are laid out in every report: grouped by device, fastest first, failures and refusals apart, notes numbered.

Place in the flow: rows and recommendations → here → terminal, Markdown and HTML. Nothing is computed, only ordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.choose import Recommendation, time_of
from harness.report.advice import Advice, advise
from harness.report.cells import COLUMNS, GRADE_MEANINGS, Column, clean, has_value, plain_header, variant_label
from harness.row import OK, REFUSED, Row

MOST_NAMES = 3
# Above the lines of harness.hints, in every report.
HINTS_TITLE = "For better figures"


@dataclass(frozen=True, slots=True)
class Alike:
    """Variants of which the same is to be said, such as that a device was lost: `text`, and what to do."""

    labels: tuple[str, ...]
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """One device's rows: `ok` by latency, fastest first, unmeasured last; `failed` by name."""

    device: str
    ok: tuple[Row, ...]
    failed: tuple[Row, ...]
    advice: Advice | None = None

    def failures(self) -> list[Alike]:
        """The failed rows, those with the same words together."""
        return alike(
            (variant_label(row), clean(row.error) or "no reason given", clean(row.remedy)) for row in self.failed
        )

    def excluded(self) -> list[Alike]:
        """Whom the limits exclude, and by which."""
        return [] if self.advice is None else exclusions(self.advice)

    def is_winner(self, row: Row) -> bool:
        """Whether the advice names this row's variant."""
        return self.advice is not None and row.variant == self.advice.winner

    def on_front(self, row: Row) -> bool:
        """Whether this row's variant is on the device's Pareto front."""
        return self.advice is not None and row.variant in self.advice.pareto


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
    """Numbered footnotes. A note is "rule: detail"; one rule has one number, however its details differ from row to row."""

    numbers: dict[str, int] = field(default_factory=dict)
    details: dict[str, dict[str, None]] = field(default_factory=dict)

    def mark(self, texts: Iterable[str]) -> tuple[int, ...]:
        """The numbers of these texts, new ones given where needed."""
        return tuple(dict.fromkeys(self._number(clean(text)) for text in texts))

    def _number(self, text: str) -> int:
        rule, _, detail = text.partition(": ")
        self.details.setdefault(rule, {})[detail] = None
        return self.numbers.setdefault(rule, len(self.numbers) + 1)

    def items(self) -> list[tuple[int, str]]:
        """Number and text of all notes, in order; where the details differ, the first stands for all of them."""
        return [(number, self._words(rule)) for rule, number in self.numbers.items()]

    def _words(self, rule: str) -> str:
        details = list(self.details[rule])
        if details == [""]:
            return rule
        others = f" (in other rows: {len(details) - 1} other figures)" if len(details) > 1 else ""
        return f"{rule}: {details[0]}{others}"


def alike(entries: Iterable[tuple[str, str, str]]) -> list[Alike]:
    """Entries of label, text and remedy, those with the same text and remedy together."""
    found: dict[tuple[str, str], list[str]] = {}
    for label, text, remedy in entries:
        found.setdefault((text, remedy), []).append(label)
    return [Alike(tuple(labels), text, remedy) for (text, remedy), labels in found.items()]


def exclusions(advice: Advice) -> list[Alike]:
    """Whom the limits exclude, and by which."""
    return alike((clean(name), clean("; ".join(reasons)), "") for name, reasons in advice.excluded)


def _by_latency(row: Row) -> tuple[float, str]:
    value = time_of(row)
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


def worded(recommendations: Iterable[Recommendation | Advice]) -> tuple[Advice, ...]:
    """The recommendations in words, where they are not yet."""
    return tuple(item if isinstance(item, Advice) else advise((item,))[0] for item in recommendations)


def arrange(rows: Iterable[Row], recommendations: Iterable[Recommendation | Advice] = ()) -> Arrangement:
    """Order rows for showing. Devices keep the order in which the rows name them."""
    rows = list(rows)
    advice = {item.device: item for item in worded(recommendations)}
    names = list(dict.fromkeys(row.device for row in rows))
    groups = []
    for name in names:
        here = [row for row in rows if row.device == name and row.status != REFUSED]
        ok = tuple(sorted((row for row in here if row.status == OK), key=_by_latency))
        failed = tuple(sorted((row for row in here if row.status != OK), key=lambda row: row.variant))
        if here or name in advice:
            groups.append(DeviceGroup(name, ok, failed, advice.get(name)))
    return Arrangement(tuple(groups), _refusals(rows, [group.device for group in groups]))


def first_sentence(text: str) -> tuple[str, str]:
    """The first sentence of an advice, which says what to deploy, and the rest, which says how sure that is."""
    first, found, rest = clean(text).partition(". ")
    return first + found.rstrip(), rest


def name_some(labels: Sequence[str], total: int) -> str:
    """Up to three of these names and how many more there are; or that it is all of them."""
    if len(labels) == total and total > 1:
        return "all variants"
    if len(labels) <= MOST_NAMES:
        return ", ".join(labels)
    return f"{', '.join(labels[:MOST_NAMES])} and {len(labels) - MOST_NAMES} more"


def absences(rows: Iterable[Row], columns: Iterable[Column] = COLUMNS.values()) -> list[str]:
    """Why cells of measured rows say "n/a" and columns (of these) are missing: "accuracy, drop: no labels (all variants)"."""
    rows = [row for row in rows if row.status == OK]
    by_field = {
        field: column for column in columns for field in column.fields if not column.special or has_value(column, rows)
    }
    found: dict[tuple[str, str], list[str]] = {}  # column and reason → labels
    places: dict[tuple[str, str], dict[str, None]] = {}  # column and reason → devices
    for row in rows:
        for entry in row.null_reasons:
            name, _, reason = entry.partition(":")
            column = by_field.get(name.strip())
            if column is not None:
                labels = found.setdefault((plain_header(column), clean(reason)), [])
                places.setdefault((plain_header(column), clean(reason)), {})[clean(row.device)] = None
                if variant_label(row) not in labels:
                    labels.append(variant_label(row))
    total = len({variant_label(row) for row in rows})
    devices = len({clean(row.device) for row in rows})
    merged: dict[tuple[str, str], list[str]] = {}  # reason and who → columns
    for (header, reason), labels in found.items():
        at = list(places[header, reason])
        where = f" on {', '.join(at)}" if len(at) < devices else ""
        merged.setdefault((reason, name_some(labels, total) + where), []).append(header)
    return [f"{', '.join(headers)}: {reason} ({who})" for (reason, who), headers in merged.items()]


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
