"""The conversion, end to end: a base model by many recipes into variant folders, each toolchain in a worker of its own.

Inputs are judged before any work; what the cache holds is taken from it; `converters.scheduler` makes the rest. Nothing
heavy is imported in this process, so a run that the cache can serve takes well under a second.
"""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np

from converters.base_model import BaseModel, inspect_base
from converters.chains import Group, chain_of
from converters.dataset import Dataset
from converters.errors import ConversionInputError, ConverterError, describe_error
from converters.export.base import REFERENCE, WORKSHOP, Workshop
from converters.jobs import (
    ConversionEvent,
    ConversionReport,
    ConversionRequest,
    ConversionRow,
    failed_row,
    ok_row,
    refused_row,
)
from converters.recipe import Recipe
from converters.shelf import Shelf, versions_of
from converters.step_rules import FACT_BASE_KIND, FACT_CALIBRATION_ROWS, FACT_TRAINING_ROWS
from converters.steps import Step
from converters.support import FACT_CALIBRATION_LABELS, reason, toolchain_of

__all__ = [
    "ConversionEvent",
    "ConversionReport",
    "ConversionRequest",
    "ConversionRow",
    "convert",
]


class _Book:
    """Rows as they settle, told to `on_event` one at a time."""

    def __init__(self, base: str, recipes: list[Recipe], on_event: Callable[[ConversionEvent], None]) -> None:
        self._base = base
        self._recipes = recipes
        self._on_event = on_event
        self._lock = threading.Lock()
        self._rows: dict[str, ConversionRow] = {}

    def settle(self, recipe: Recipe, row: ConversionRow) -> None:
        with self._lock:
            self._rows[recipe.key] = row
            text = (
                f"{row.variant}: {row.status}" if row.message is None else f"{row.variant}: {row.status}, {row.message}"
            )
            self._on_event(ConversionEvent(len(self._rows), len(self._recipes), text, row))

    def say(self, text: str) -> None:
        with self._lock:
            self._on_event(ConversionEvent(len(self._rows), len(self._recipes), text))

    def pending(self) -> list[Recipe]:
        return [recipe for recipe in self._recipes if recipe.key not in self._rows]

    def rows(self) -> list[ConversionRow]:
        return [self._rows[recipe.key] for recipe in self._recipes]


def _ignore(_event: ConversionEvent) -> None:
    """For callers that want no progress."""


def convert(
    request: ConversionRequest,
    on_event: Callable[[ConversionEvent], None] = _ignore,
    *,
    workshop: Workshop = WORKSHOP,
) -> ConversionReport:
    """Make all variants asked for; every recipe becomes a row, whatever happens to it.

    Raises ConversionInputError (also BaseModelError, RecipeError, DatasetError) when the input is wrong, OSError when the
    output folder cannot be written, and KeyboardInterrupt after its workers are gone; finished variants stay.
    """
    started = time.monotonic()
    recipes = list({recipe.key: recipe for recipe in request.recipes}.values())
    if not recipes:
        raise ConversionInputError("no recipe to convert by")
    base = inspect_base(request.base, name=request.name)
    if request.dataset is not None:
        _check_data(request.dataset, recipes)
    book = _Book(base.name, recipes, on_event)
    _settle_early(request, base, book, workshop)
    if not book.pending():
        return ConversionReport(book.rows(), base, base.name, None, time.monotonic() - started)
    shelf = _shelf(request, base, workshop)
    has_reference, failed = False, False
    notes: list[str] = []
    try:
        groups = _groups(request, base, workshop, shelf, book.pending())
        for group in groups:
            _settle_from_cache(group.shelf, base.name, book, group.recipes)
        has_reference = request.dataset is not None and shelf.part_from_cache(REFERENCE)
        want_reference = request.dataset is not None and not has_reference
        if book.pending() or want_reference:
            made, notes = _make(request, base, workshop, shelf, book, groups, want_reference=want_reference)
            has_reference = has_reference or made
        failed = any(row.status == "failed" for row in book.rows())
    finally:
        logs = shelf.close(keep_logs=failed)
    reference = shelf.reference if has_reference else None
    return ConversionReport(book.rows(), base, base.name, reference, time.monotonic() - started, logs, tuple(notes))


def _groups(
    request: ConversionRequest, base: BaseModel, workshop: Workshop, shelf: Shelf, recipes: list[Recipe]
) -> list[Group]:
    """Recipes by the model that they export. Raises ConversionInputError for files that steps or options name in vain."""
    chains: dict[tuple[Step, ...], list[Recipe]] = {}
    for recipe in recipes:
        chains.setdefault(recipe.steps, []).append(recipe)
    groups = []
    for steps, own in chains.items():
        chain = chain_of(steps, request, base, workshop) if steps else None
        groups.append(Group(chain, shelf if chain is None else shelf.of_chain(chain.key), tuple(own)))
    return groups


def _make(
    request: ConversionRequest,
    base: BaseModel,
    workshop: Workshop,
    shelf: Shelf,
    book: _Book,
    groups: list[Group],
    *,
    want_reference: bool,
) -> tuple[bool, list[str]]:
    """Make what is pending; whether the base's answers were made, and notes."""
    # Imported only when there is work: a run that the cache serves starts no process.
    from converters.making import Maker

    pending = {recipe.key for recipe in book.pending()}
    left = [
        dataclasses.replace(group, recipes=own)
        for group in groups
        if (own := tuple(recipe for recipe in group.recipes if recipe.key in pending))
    ]
    maker = Maker(request, base, workshop, shelf, book.settle, book.say)
    try:
        maker.run(left, want_reference=want_reference)
    except OSError as error:  # of the work folder, so of all that is left; most likely the disk is full
        for recipe in book.pending():
            book.settle(recipe, failed_row(base.name, recipe, describe_error(error)))
    return maker.reference_made, list(dict.fromkeys(maker.notes))


def _check_data(dataset: Dataset, recipes: list[Recipe]) -> None:
    """What can be said of the data before the model is loaded."""
    for where, arrays in (("test rows", dataset.inputs), ("calibration rows", dataset.calibration)):
        for name, x in arrays.items():
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise ConversionInputError(
                    f"the {where} of input {name} hold NaN or infinite values", remedy="remove or repair those rows"
                )
    if any(recipe.mode == "static" for recipe in recipes):
        dataset.require_calibration()


def _settle_early(request: ConversionRequest, base: BaseModel, book: _Book, workshop: Workshop) -> None:
    """Refuse what cannot exist, and fail what has no tool installed, before any work."""
    dataset = request.dataset
    facts = {
        FACT_CALIBRATION_LABELS: dataset is not None and dataset.calibration_labels is not None,
        FACT_TRAINING_ROWS: dataset is not None and dataset.training is not None,
        FACT_CALIBRATION_ROWS: dataset is not None and dataset.calibration_rows > 0,
        FACT_BASE_KIND: base.kind,
    }
    missing = {name: _missing(info.packages) for name, info in workshop.toolchains.items()}
    no_preparation = _missing(workshop.preparation_packages)
    no_compression = _missing(workshop.compression_packages)
    for recipe in book.pending():
        why = reason(recipe, facts)
        if why is not None:
            book.settle(recipe, refused_row(base.name, recipe, why))
            continue
        toolchain = toolchain_of(recipe)
        package = missing[toolchain] or no_preparation or (no_compression if recipe.steps else None)
        if package is not None:
            extra = workshop.toolchains[toolchain].extra
            answer = {
                "kind": "missing",
                "class": "Missing",
                "message": f"the package {package} is not installed",
                "remedy": f"pip install 'ondevice-harness[{extra}]'",
            }
            book.settle(recipe, failed_row(base.name, recipe, answer))


def _missing(packages: tuple[str, ...]) -> str | None:
    try:
        versions_of(packages)
    except metadata.PackageNotFoundError as error:
        return error.name or str(error)
    return None


def _shelf(request: ConversionRequest, base: BaseModel, workshop: Workshop) -> Shelf:
    try:
        return Shelf(request, base, workshop)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConversionInputError(f"{request.out}: cannot be written: {error.strerror or error}") from error


def _settle_from_cache(shelf: Shelf, base: str, book: _Book, recipes: tuple[Recipe, ...]) -> None:
    for recipe in recipes:
        started = time.monotonic()
        try:
            folder = shelf.variant_from_cache(recipe)
        except (OSError, ConverterError) as error:
            book.settle(recipe, failed_row(base, recipe, describe_error(error)))
            continue
        if folder is not None:
            book.settle(recipe, ok_row(base, recipe, folder, time.monotonic() - started, cached=True))
