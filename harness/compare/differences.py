"""The same artifact on two devices: did it give the same answers, bit for bit, and where not, how many of them changed.

Place in the flow: stored runs → here → `harness.report.differences`, which puts it into words. Pure; beside `harness.table`
the only reader of whole evaluations. Devices are held against the first one, in the session's order, that has the variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.agent.protocol import ENGINE_OF_FORMAT
from harness.records import Evaluation, Reference, SessionData
from harness.table.cells import Cell, cells


@dataclass(frozen=True, slots=True)
class Setting:
    """What a variant was computed with on a device: architecture, ISA extensions, engine and version, precision."""

    device: str
    machine: str | None
    isa: tuple[str, ...]
    engine: str
    version: str | None
    precision: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One variant on `other` against the same on `first`. `identical`: bit for bit. `changed`: rows that got another class
    of `rows`, None for a regression, whose largest difference stands in `largest`, relative to the outputs' spread.
    `accuracies`: of first and other, None without labels."""

    variant: str
    recipe: str | None
    first: Setting
    other: Setting
    identical: bool
    rows: int
    changed: int | None = None
    largest: float | None = None
    accuracies: tuple[float, float] | None = None


def output_differences(data: SessionData) -> list[Difference]:
    """One for each variant that two devices evaluated on the same rows, and each further device; [] without any."""
    found: list[Difference] = []
    firsts: dict[str, Cell] = {}
    for cell in cells(data):
        if not cell.evaluations:
            continue
        first = firsts.setdefault(cell.variant.name, cell)
        if first is not cell and first.evaluations[0].rows == cell.evaluations[0].rows:
            found.append(_difference(first, cell, data.reference))
    return found


def _difference(one: Cell, two: Cell, reference: Reference | None) -> Difference:
    first, other = one.evaluations[0], two.evaluations[0]
    identical = first.outputs_sha256 == other.outputs_sha256
    changed, largest = (0 if first.top is not None else None), None
    if not identical:
        changed, largest = _changed(first, other), _largest(first, other)
    return Difference(
        variant=one.variant.name,
        recipe=one.variant.recipe,
        first=_setting(one),
        other=_setting(two),
        identical=identical,
        rows=first.rows,
        changed=changed,
        largest=largest,
        accuracies=_accuracies(first, other, reference),
    )


def _changed(first: Evaluation, other: Evaluation) -> int | None:
    if first.top is None or other.top is None:
        return None
    return int(np.count_nonzero(first.top[:, 0] != other.top[:, 0]))


def _largest(first: Evaluation, other: Evaluation) -> float | None:
    if first.outputs is None or other.outputs is None or first.outputs.shape != other.outputs.shape:
        return None
    spread = float(np.ptp(first.outputs)) if first.outputs.size else 0.0
    return float(np.max(np.abs(first.outputs - other.outputs))) / spread if spread > 0 else None


def _accuracies(first: Evaluation, other: Evaluation, reference: Reference | None) -> tuple[float, float] | None:
    if reference is None or reference.labels is None or first.top is None or other.top is None:
        return None
    if reference.task != "classification" or reference.rows != first.rows:
        return None
    return (
        float(np.mean(first.top[:, 0] == reference.labels)),
        float(np.mean(other.top[:, 0] == reference.labels)),
    )


def _setting(cell: Cell) -> Setting:
    loads = [*cell.probes, *cell.loads]
    precision = next((str(load.facts["precision"]) for load in loads if load.facts.get("precision")), None)
    isa = _first(cell.environments, "isa")
    version = _first(cell.environments, "engine_version")
    machine = _first(cell.environments, "machine") or cell.device.facts.get("machine")
    return Setting(
        device=cell.device.name,
        machine=None if machine is None else str(machine),
        isa=tuple(str(name) for name in isa) if isinstance(isa, Sequence) and not isinstance(isa, str) else (),
        engine=ENGINE_OF_FORMAT.get(cell.variant.format, cell.variant.format),
        version=None if version is None else str(version),
        precision=precision,
    )


def _first(environments: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((item[key] for item in environments if item.get(key)), None)
