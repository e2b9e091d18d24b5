"""A stored session as the commands show it: rows, recommendations, reports. Prints; aggregates and formats nothing itself."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from harness.cli.common import emit_json, say

if TYPE_CHECKING:
    from converters.pipeline import ConversionReport
    from harness.choose import Constraints
    from harness.experiment import ConstraintsSpec
    from harness.hints import Hint
    from harness.records import SessionData
    from harness.report.advice import Advice
    from harness.row import Row
    from harness.store import Store


@dataclass(frozen=True, slots=True)
class LoadedSession:
    """A session out of the store, its rows, advice on how to measure better, and what was recommended under some limits."""

    data: SessionData
    rows: list[Row]
    recommendations: tuple[Advice, ...] = ()
    hints: tuple[Hint, ...] = ()

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.data.session.id

    def chosen(self, constraints: Constraints | None, *, device: str | None = None) -> LoadedSession:
        """The same with recommendations; None: under the limits of the session's own experiment.

        Raises SpecError for a device the session does not have.
        """
        from harness.choose import Constraints, recommend
        from harness.errors import SpecError
        from harness.report.advice import advise
        from harness.table import run_medians

        names = [record.name for record in self.data.devices]
        if device is not None and device not in names:
            raise SpecError(f"session {self.session_id} has no device '{device}'", remedy=f"it has: {', '.join(names)}")
        limits = constraints or _own_limits(self.data) or Constraints()
        found = recommend(self.rows, limits, device=device, run_medians=run_medians(self.data))
        return dataclasses.replace(self, recommendations=advise(found))

    def row_dicts(self) -> list[dict[str, Any]]:
        """Flat rows, JSON-compatible."""
        from harness.row import row_to_dict

        return [row_to_dict(row) for row in self.rows]

    def recommendation_dicts(self) -> list[dict[str, Any]]:
        """Recommendations, JSON-compatible."""
        from harness.report.advice import advice_to_dict

        return [advice_to_dict(item) for item in self.recommendations]

    def differences(self) -> list[str]:
        """Whether the devices gave the same outputs, and why not: paragraphs."""
        from harness.compare.differences import output_differences
        from harness.report.differences import paragraphs

        return paragraphs(output_differences(self.data))

    def advice(self) -> list[str]:
        """What to do for better figures: the few lines that a report shows."""
        from harness.hints import shown

        return shown(self.hints)

    def csv(self) -> str:
        """The rows as CSV."""
        from harness.report.csv_rows import render_csv

        return render_csv(self.rows)

    def markdown(self) -> str:
        """The rows and recommendations as Markdown."""
        from harness.report.markdown import render_markdown

        loaded = self if self.recommendations else self.chosen(None)
        return render_markdown(
            loaded.rows, loaded.recommendations, differences=loaded.differences(), hints=loaded.advice()
        )


def _own_limits(data: SessionData) -> Constraints | None:
    """Limits of the experiment that the session was run with, if it had one."""
    given = data.session.experiment.get("constraints")
    if not given:
        return None
    from harness.experiment import ConstraintsSpec

    # The store has base units; the user's file had text with units. Both are understood by the fields' names.
    return constraints_of(ConstraintsSpec.model_construct(**given))


def constraints_of(spec: ConstraintsSpec) -> Constraints:
    """The user's limits in the words of `choose`."""
    from harness.choose import Constraints

    return Constraints(
        max_latency_ns=spec.max_latency,
        max_latency_p90_ns=spec.max_latency_p90,
        max_load_ns=spec.max_load,
        max_size_bytes=spec.max_size,
        max_memory_bytes=spec.max_memory,
        max_drop_pp=spec.max_drop,
        min_accuracy=spec.min_accuracy,
        max_rmse_ratio=spec.max_rmse_ratio,
        objective=spec.objective,
    )


def load(store: Store, session: str) -> LoadedSession:
    """A session by id, beginning of it, or 'latest'. Raises SpecError."""
    from harness.hints import hints_of, with_hints
    from harness.table import build_rows

    data = store.load(store.resolve(session), settling=False)
    rows = build_rows(data)
    hints = hints_of(rows, data)
    return LoadedSession(data, with_hints(rows, hints), hints=hints)


def _render(loaded: LoadedSession, *, recommendations_only: bool = False) -> str:
    from harness.report.terminal import render_recommendations, render_text

    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    if recommendations_only:
        return render_recommendations(loaded.recommendations, width=width, color=terminal)
    return render_text(
        loaded.rows,
        loaded.recommendations,
        width=width,
        color=terminal,
        differences=loaded.differences(),
        hints=loaded.advice(),
    )


def table(loaded: LoadedSession) -> None:
    """Print rows and recommendations; say so when the session did not come to its end."""
    status = loaded.data.session.status
    if status != "done":
        words = {"running": "still running, or was killed", "interrupted": "interrupted", "failed": "failed"}
        go_on = f"`harness run EXPERIMENT --resume {loaded.session_id}` (or `bench …`) makes the rest"
        say(f"session {loaded.session_id}: {words.get(status, status)}; these are the runs that it finished; {go_on}")
    typer.echo(_render(loaded if loaded.recommendations else loaded.chosen(None)), nl=False)


def recommendations(loaded: LoadedSession) -> None:
    """Print only what to deploy, and who is excluded by which limit."""
    typer.echo(_render(loaded, recommendations_only=True), nl=False)


def rows_as_json(loaded: LoadedSession) -> None:
    """Print flat rows as JSON."""
    emit_json(loaded.row_dicts())


def sessions(store: Store, *, as_json: bool) -> None:
    """Print the sessions there are, newest first."""
    found = store.sessions()
    if as_json:
        emit_json([dataclasses.asdict(item) for item in found])
        return
    for item in found:
        typer.echo(f"{item.id}  {item.status:<11}  {item.runs:>4} runs  {item.name}")


def write_reports(loaded: LoadedSession, folder: Path) -> Mapping[str, Path]:
    """Write report.html, report.md, rows.csv, rows.json; where each went."""
    from harness.report.bundle import write_reports as write

    return write(folder, loaded.session_id, loaded.rows, loaded.recommendations, loaded.data, loaded.advice())


def conversion_rows(report: ConversionReport) -> list[dict[str, Any]]:
    """What became of each recipe, flat and JSON-compatible."""
    from converters.variant import load_variant

    rows = []
    for row in report.rows:
        manifest = None if row.folder is None else load_variant(row.folder, verify=False).manifest
        agreement = None if manifest is None else manifest.agreement
        rows.append(
            {
                "variant": row.variant,
                "base": report.base_name,
                "format": row.format,
                "recipe": row.recipe,
                "status": row.status,
                "error": None if row.message is None else f"{row.error_class}: {row.message}",
                "remedy": row.remedy,
                "seconds": row.seconds,
                "cached": row.cached,
                "folder": None if row.folder is None else str(row.folder),
                "size_bytes": None if manifest is None else manifest.size_bytes,
                "size_gzip_bytes": None if manifest is None else manifest.size_gzip_bytes,
                "parameters": None if manifest is None else manifest.parameters,
                "relative_error": None if agreement is None else agreement.relative_error,
                "argmax_agreement": None if agreement is None else agreement.argmax_agreement,
                "notes": [] if manifest is None else list(manifest.notes),
                "size_entropy_bytes": None if manifest is None else manifest.size_entropy_bytes,
                "ledger": {} if manifest is None else manifest.ledger,
                "lineage": [] if manifest is None else [_step_summary(step) for step in manifest.lineage],
            }
        )
    return rows


def _step_summary(step: dict[str, Any]) -> dict[str, Any]:
    """What a compression step did, as far as a table's reader asks."""
    keys = ("text", "seconds", "metric", "score_before", "score_after", "left_alone", "ledger")
    return {key: step.get(key) for key in keys}


def conversion_table(rows: list[dict[str, Any]], out: Path) -> None:
    """Print what became of each recipe."""
    from harness.report.conversion import render_conversion

    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    typer.echo(render_conversion(rows, width=width, color=terminal), nl=False)
    typer.echo(f"variants: {out} — `harness bench {out}` measures them")
