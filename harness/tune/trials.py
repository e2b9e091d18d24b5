"""One trial: a candidate's recipe converted, asked for its answers, and measured where the search wants to know its time.

`ConvertAndMeasure` is the `Evaluate` of `converters.search`: it joins that room to the converters' pipeline and to `harness.runner`.
Accuracy is the exported artifact's own, with its engine on this host, on rows that are no test rows (`harness.tune.rows`). Time is measured
on the device in a session of its own, the reference (the base model in fp32) always beside the candidate; one trial at a time.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converters.dataset import Dataset
from converters.errors import RecipeError
from converters.jobs import ConversionReport, ConversionRequest
from converters.pipeline import convert as run_pipeline
from converters.recipe import Recipe, named
from converters.recipe_words import parse_recipes
from converters.search.trial import Candidate, Outcome
from converters.variant import Variant, load_variant
from harness.devices.device import StartEmulator
from harness.errors import ConversionError, DeviceError, SpecError
from harness.profiles import DeviceProfile, load_profile
from harness.records import Reference, SessionData
from harness.row import OK, Row
from harness.runner import SessionSpec
from harness.search_section import ENERGY, METRICS, SearchSpec
from harness.session.reference import base_outputs_of, reference_of
from harness.session.variants import base_inputs, record
from harness.table import build_rows
from harness.tune.figures import Figures, file_figures, ratio_figures, row_figures
from harness.tune.rows import Judged, with_share
from harness.tune.sessions import ANSWERS, run_in_memory
from harness.tune.turns import Turns

Convert = Callable[[ConversionRequest], ConversionReport]
RunSession = Callable[..., SessionData]
FLOAT = "fp32"
# Times depend little on what stands in the rows: a slow device is not sent all of them.
_ROWS_SENT = 200


@dataclass(frozen=True, slots=True)
class Setup:
    """What all trials of a search have in common. `request`: a conversion of no recipes yet, into `out`; its dataset is that of
    `data`, whose test part are the rows to judge by. `format`: of the reference."""

    search: SearchSpec
    request: ConversionRequest
    data: Judged | None
    device: DeviceProfile
    format: str
    threads: int = 1
    precision: str = "f32"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Of conversions and sessions."""
        return self.request.seed


@dataclass(frozen=True, slots=True)
class _Held:
    """The reference: the base model in fp32, and the truth that answers are held against (None: no labelled rows)."""

    variant: Variant
    inputs: dict[str, NDArray[Any]] | None
    truth: Reference | None


class ConvertAndMeasure:
    """See the module. Safe to call from several threads. `convert`, `run`: the pipeline and the session, for tests to replace; `start`: how
    emulators are started."""

    def __init__(
        self,
        setup: Setup,
        turns: Turns,
        *,
        convert: Convert = run_pipeline,
        run: RunSession = run_in_memory,
        start: StartEmulator | None = None,
    ) -> None:
        self._setup, self._turns = setup, turns
        self._convert, self._run, self._start = convert, run, start
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._checked = False

    def __call__(self, candidate: Candidate, *, number: int, fidelity: float) -> Outcome:
        """Find out what the candidate is worth, trained on that share of the training rows. Times are not measured below 1."""
        (recipe,) = parse_recipes([candidate.recipe])
        held = self._reference()
        out = self._setup.request.out / ("trials" if fidelity >= 1.0 else f"fewer-rows-{number}")
        try:
            try:
                with self._turns.working():
                    row = self._converted([recipe], out, fidelity).rows[0]
            except RecipeError as error:  # a file that its step names is missing, for one
                return Outcome("failed", error=str(error))
            if row.status != OK or row.folder is None:
                return Outcome("failed", error=f"{row.error_class}: {row.message}")
            return self._judged(load_variant(row.folder), held, full=fidelity >= 1.0)
        finally:
            if fidelity < 1.0:
                shutil.rmtree(out, ignore_errors=True)

    def _judged(self, variant: Variant, held: _Held, *, full: bool) -> Outcome:
        figures, wanted = Figures(), self._setup.search.metrics
        file_figures(variant.manifest, figures)
        problem = None
        if held.truth is not None:
            problem = self._answers(variant, held, figures)
        if problem is None and full and self._setup.search.measures:
            problem = self._times(variant, held, figures)
        for name in wanted - set(figures.metrics):
            if full:
                figures.put(name, None)
        return Outcome(
            "complete" if problem is None else "failed",
            figures.metrics,
            figures.reasons,
            figures.intervals,
            problem,
            variant.name if full else None,
        )

    # -- conversion ------------------------------------------------------------------------------------------------

    def _converted(self, recipes: Sequence[Recipe], out: Path, fidelity: float) -> ConversionReport:
        setup = self._setup
        dataset = None if setup.data is None else setup.data.dataset
        if dataset is not None:
            trains = any(recipe.steps for recipe in recipes)
            dataset = with_share(dataset, fidelity, setup.seed) if trains else _untrained(dataset)
        request = dataclasses.replace(setup.request, recipes=recipes, out=out, dataset=dataset, ledger=True)
        return self._convert(request)

    def _reference(self) -> _Held:
        """The base model in fp32, made once. Raises ConversionError when it cannot be."""
        with self._lock:
            if self._held is None:
                recipe = named(self._setup.format, FLOAT)
                with self._turns.working():
                    report = self._converted([recipe], self._setup.request.out / "reference", 1.0)
                self._held = self._held_of(report)
            return self._held

    def _held_of(self, report: ConversionReport) -> _Held:
        row = report.rows[0]
        if row.status != OK or row.folder is None:
            raise ConversionError(f"the base model itself could not be made: {row.message}", remedy=row.remedy)
        variant, data = load_variant(row.folder), self._setup.data
        if data is None:
            return _Held(variant, None, None)
        specs = base_inputs([variant])
        dataset = data.dataset.matched_to(specs) if specs else data.dataset
        truth = reference_of(dataset, base_outputs_of(report.reference)) if data.where is not None else None
        return _Held(variant, dict(dataset.inputs), truth)

    # -- answers and times -----------------------------------------------------------------------------------------

    def _spec(self, name: str, variants: Sequence[Variant], device: DeviceProfile, **more: Any) -> SessionSpec:
        setup = self._setup
        return SessionSpec(
            name=name,
            variants=[record(variant) for variant in variants],
            artifacts={variant.name: variant for variant in variants},
            devices=[device],
            threads=setup.threads,
            precision=setup.precision,
            seed=setup.seed,
            options=setup.options,
            **more,
        )

    def _answers(self, variant: Variant, held: _Held, figures: Figures) -> str | None:
        """Accuracy on this host; what went wrong, in words."""
        spec = self._spec(
            "answers", [variant], load_profile("local"), protocol=ANSWERS, inputs=held.inputs, reference=held.truth
        )
        with self._turns.working():
            (row,) = build_rows(self._run(spec))
        row_figures(row, "answers", self._setup.search.metrics, figures)
        return None if row.status == OK else row.error or "it gave no answers"

    def _times(self, variant: Variant, held: _Held, figures: Figures) -> str | None:
        """What the device says of the candidate beside the reference; what went wrong, in words. Raises DeviceError, SpecError."""
        setup = self._setup
        # The candidate may be the reference's own recipe: then it is measured alone.
        same = variant.name == held.variant.name
        reference = variant if same else held.variant
        variants = [variant] if same else [reference, variant]
        protocol = setup.search.protocol.build()
        if setup.search.metrics & set(ENERGY):
            protocol = dataclasses.replace(protocol, energy=True)
        inputs = None if held.inputs is None else {name: rows[:_ROWS_SENT] for name, rows in held.inputs.items()}
        spec = self._spec("trial", variants, setup.device, protocol=protocol, inputs=inputs)
        with self._turns.measuring():
            data = self._run(spec, start=self._start)
        rows = {row.variant: row for row in build_rows(data)}
        mine = rows[variant.name]
        self._check_device(rows[reference.name], alone=same)
        if mine.status != OK:
            return mine.error or "it could not be measured"
        row_figures(mine, "device", setup.search.metrics, figures)
        ratio_figures(data, mine, rows[reference.name], figures)
        return None

    def _check_device(self, reference: Row, *, alone: bool) -> None:
        """Where the base model itself cannot be measured, or lacks a figure that is searched for, no trial would fare better."""
        name = self._setup.device.name
        if reference.status != OK and not alone:
            raise DeviceError(f"{name} could not measure the base model: {reference.error}", remedy=reference.remedy)
        if self._checked or reference.status != OK:
            return
        found = Figures()
        row_figures(reference, "device", self._setup.search.metrics, found)
        for metric, reason in found.reasons.items():
            raise SpecError(
                f"{name} gives no {metric} ({METRICS[metric].words}): {reason}", remedy="search by another metric"
            )
        self._checked = True


def _untrained(dataset: Dataset) -> Dataset:
    """Without training rows: workers are given only what they need."""
    return dataclasses.replace(dataset, training=None)
