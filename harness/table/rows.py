"""Stored runs → rows: every variant on every device, those that failed or were refused included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.agent.protocol import ENGINE_OF_FORMAT
from harness.records import Failure, SessionData
from harness.row import FAILED, OK, REFUSED, Row
from harness.stats import grade
from harness.table.answers import answer_figures
from harness.table.cells import Cell, cells
from harness.table.contention import Judged, judged_blocks, uncontended_figures
from harness.table.drifts import Place, companions
from harness.table.energy import energy_figures
from harness.table.evidence import evidence_of, setting_figures, threads_of
from harness.table.latency import cold_start_figures, latency_figures, virtual_time_figures
from harness.table.ledger import ledger_figures
from harness.table.memory import memory_figures
from harness.table.nulls import null_reasons
from harness.table.official import official_figures
from harness.table.sustained import sustained_evidence, sustained_figures
from harness.table.throughput import throughput_evidence, throughput_figures


def build_rows(data: SessionData) -> list[Row]:
    """All rows of a session: every variant on every device, those that failed or were refused included."""
    found = [(cell, judged_blocks(cell, threads_of(cell))) for cell in cells(data)]
    beside = companions(found)
    return [_row(cell, data, blocks, beside.get((cell.variant.name, cell.device.name), [])) for cell, blocks in found]


def _row(
    cell: Cell, data: SessionData, blocks: Sequence[Sequence[Judged]], beside: Sequence[Mapping[Place, float]]
) -> Row:
    variant, device = cell.variant, cell.device
    status, failure = _status(cell, data)
    figures: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    figures["blocks"] = sum(len(run) for run in blocks)
    if cell.measured:
        uncontended_figures(cell, blocks, figures, reasons)
        if cell.counted:
            virtual_time_figures(cell, figures, reasons)
        else:
            latency_figures(cell, data.session.seed, figures, reasons)
            cold_start_figures(cell, figures, reasons)
        memory_figures(cell, figures, reasons)
        answer_figures(cell, data.reference, figures, reasons)
        setting_figures(cell, figures, reasons)
        energy_figures(cell, data, figures, reasons)
        throughput_figures(cell, data, figures, reasons)
        sustained_figures(cell, data, figures, reasons)
        official_figures(cell, data, figures, reasons)
    figures |= {name: getattr(variant, name) for name in ("size_bytes", "size_gzip_bytes", "parameters")}
    ledger_figures(variant, figures, reasons)
    evidence = evidence_of(cell, data, status, failure, blocks, beside)
    letter, words = grade.grade(sustained_evidence(cell, throughput_evidence(cell, evidence)))
    error = None if failure is None else f"{failure.name}: {failure.message}"
    return Row(
        session=data.session.id,
        variant=variant.name,
        base=variant.base,
        format=variant.format,
        recipe=variant.recipe,
        device=device.name,
        engine=ENGINE_OF_FORMAT.get(variant.format),
        status=status,
        error=error,
        remedy=None if failure is None else failure.remedy,
        grade=letter,
        grade_reasons=words,
        null_reasons=null_reasons(cell, status, figures, reasons),
        **figures,
    )


def _status(cell: Cell, data: SessionData) -> tuple[str, Failure | None]:
    """A variant is ok when something of it was measured and nothing of it failed after that."""
    variant = cell.variant
    if variant.status != OK:
        status = REFUSED if variant.status == REFUSED else FAILED
        return status, variant.failure or Failure("conversion", "Unknown", "no reason was recorded")
    if cell.failures and not cell.alive:
        return FAILED, cell.failures[-1]
    if cell.measured:
        return OK, None
    if cell.device.failure is not None or cell.lost is not None:
        return FAILED, cell.device.failure or cell.lost
    why = {"running": "the session is still running, or was killed", "interrupted": "the session was interrupted"}
    reason = why.get(data.session.status, "no run of it was made")
    return FAILED, Failure("measurement", "NotMeasured", reason, remedy="run the session again")
