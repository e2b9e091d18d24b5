"""What the pipeline is asked, what it tells on the way, and what it reports. Plain data; no toolchain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from converters.base_model import BaseModel
from converters.dataset import Dataset
from converters.recipe import Recipe

Status = Literal["ok", "failed", "refused"]
DEFAULT_TIMEOUT_S = 900.0
DEFAULT_TRAIN_TIMEOUT_S = 3600.0
DEFAULT_JOBS = 2
_ERROR_CLASS = {"disk": "DiskFull", "missing": "Missing"}


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How compression steps train. `function`: the user's own training function, `path/to/file.py:name`, instead of the
    built-in loop. `precision_policy`: Keras's dtype policy while the built-in loop trains (mixed_float16, for one)."""

    function: str | None = None
    precision_policy: str | None = None


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """One base model by many recipes into the folder `out`, one variant folder each.

    `dataset` None: seeded random inputs serve for calibration and the numeric check. `cache` None: no cache. `jobs`: how
    many workers (toolchains, compression steps) work at once. `timeout_s`: of one variant. `memory_limit_bytes`: resident, of one toolchain with its
    children. `name`: of the base in variant names (default: the file's stem). `train_timeout_s`: of one compression step.
    `folder`: what relative paths in the parameters of steps are relative to. `ledger`: count what variants cost even without steps.
    """

    base: Path
    recipes: Sequence[Recipe]
    out: Path
    dataset: Dataset | None = None
    cache: Path | None = None
    jobs: int = DEFAULT_JOBS
    timeout_s: float = DEFAULT_TIMEOUT_S
    memory_limit_bytes: int | None = None
    seed: int = 0
    name: str | None = None
    train_timeout_s: float = DEFAULT_TRAIN_TIMEOUT_S
    training: TrainingOptions = TrainingOptions()
    folder: Path = Path()
    ledger: bool = False

    @property
    def counts(self) -> bool:
        """Whether variants get a ledger: where compression steps are at work, or it is asked for. To code all weights takes a second per
        million."""
        return self.ledger or any(recipe.steps for recipe in self.recipes)


@dataclass(frozen=True, slots=True)
class ConversionRow:
    """What became of one recipe. `folder` is the variant's, None unless status is "ok"; `seconds` of wall time."""

    variant: str
    format: str
    recipe: str
    status: Status
    error_class: str | None = None
    message: str | None = None
    remedy: str | None = None
    seconds: float = 0.0
    cached: bool = False
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class ConversionEvent:
    """Progress: `done` of `total` recipes are settled. `row` when one just was; `text` is fit for a progress bar."""

    done: int
    total: int
    text: str
    row: ConversionRow | None = None


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """All rows in the order of the request, and what was learnt of the base.

    `reference`: npz with the base's outputs (`out:<name>`) on all test rows; None without a dataset, or when `notes` say
    why it could not be made. `log`: folder with the tools' own output, kept when a row failed.
    """

    rows: list[ConversionRow]
    base: BaseModel
    base_name: str
    reference: Path | None
    seconds: float
    log: Path | None = None
    notes: tuple[str, ...] = field(default=())


def ok_row(base: str, recipe: Recipe, folder: Path, seconds: float, *, cached: bool) -> ConversionRow:
    """A variant that is there."""
    name = recipe.variant_name(base)
    return ConversionRow(name, recipe.format, recipe.name, "ok", seconds=seconds, cached=cached, folder=folder)


def refused_row(base: str, recipe: Recipe, why: str) -> ConversionRow:
    """A combination that cannot exist."""
    return ConversionRow(recipe.variant_name(base), recipe.format, recipe.name, "refused", "RefusedError", why)


def failed_row(base: str, recipe: Recipe, answer: Mapping[str, Any], seconds: float = 0.0) -> ConversionRow:
    """A worker's answer that says no, as a row."""
    if answer["kind"] == "refused":
        return dataclasses.replace(
            refused_row(base, recipe, answer["message"]), seconds=seconds, remedy=answer["remedy"]
        )
    return ConversionRow(
        recipe.variant_name(base),
        recipe.format,
        recipe.name,
        "failed",
        _ERROR_CLASS.get(answer["kind"], answer["class"]),
        answer["message"],
        answer["remedy"],
        seconds,
    )
