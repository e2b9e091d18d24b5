"""The contract between a chain of compression steps and each step: what it is given beside the model, and what it returns.

A step is a function `apply(model, parameters, context) -> StepResult` in a module of its own, named in
`converters.step_catalogue`. `model` is a `keras.Model` with fixed inputs and outputs, which the step may change or replace;
`parameters` holds all of the step's parameters, defaults filled in. The chain (`converters.compress.chain`) saves
the model between steps. numpy only at import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# What an earlier step made and a later training must not undo; read from the weights themselves (`converters.compress.preserve`).
ZEROS, CLUSTERS = "zeros", "clusters"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows to train, choose or judge by. `inputs`: one array [n, …] per input, in the order of the model's inputs,
    preprocessed as the model wants them. `labels`: int64 [n] classes, float32 [n, …] targets, or None."""

    inputs: tuple[Array, ...]
    labels: Array | None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.inputs[0])

    def take(self, which: npt.NDArray[np.int64]) -> Rows:
        """Those rows, in that order."""
        return Rows(tuple(x[which] for x in self.inputs), None if self.labels is None else self.labels[which])


@dataclass(frozen=True, slots=True)
class TrainingData:
    """`train` to learn from and `validation` to stop and choose by, both from the training rows; never a test row and never a
    calibration row. `calibration`: as the exporters see it. `task`: "classification" or "regression"."""

    train: Rows
    validation: Rows
    calibration: Rows
    task: str
    sha256: str


@dataclass(frozen=True, slots=True)
class History:
    """What became of a training: `losses` per epoch, `scores` per epoch on the validation rows (accuracy, or minus the mean
    squared error), `epochs` done, `seconds`, whether it `stopped_early`, and from which epoch it was `resumed` (None: from none)."""

    losses: tuple[float, ...]
    scores: tuple[float, ...]
    epochs: int
    seconds: float
    stopped_early: bool = False
    resumed: int | None = None


class Fit(Protocol):
    """The one training loop (`converters.compress.training.fit`, or the user's own function behind the same signature)."""

    def __call__(
        self,
        model: Any,
        context: Context,
        *,
        epochs: int,
        learning_rate: float | None = None,
        loss: Callable[[Any, Any, Any], Any] | None = None,
        after_batch: Callable[[int, int], None] | None = None,
        extra_variables: tuple[Any, ...] = (),
        label: str = "train",
    ) -> History:
        """Train `model` in place on `context.data.train`, keeping what `context.preserve` names.

        `loss(inputs, labels, training_outputs) -> scalar tensor`; None: the task's own (cross-entropy from logits or probabilities,
        whichever the model gives; mean squared error). `after_batch(step, of_steps)` is called after every update, to apply masks
        or schedules. `extra_variables`: Keras variables beside the model's that are trained (adapters of feature hints). `label`:
        names the checkpoint within `context.folder`; different for each training of one step.
        """
        ...


@dataclass(slots=True)
class Context:
    """What a step is given. `data` is None when the data hold no labelled training rows; `calibration` are then still the rows to
    calibrate by, None when there are none either. `base()` loads the model as it was
    before the first step (the default teacher), frozen. `folder` belongs to this step alone, is empty at first, and outlives a kill:
    checkpoints and plots go there (files in its `keep` folder are shipped beside the variant). `seed` is the step's own. `preserve`:
    of ZEROS and CLUSTERS. `earlier`: names of the steps before. `say(text)`: progress, one line. `unrounded()` loads the model as it
    was before the first step that rounds it (`converters.step_rules.ROUNDING`), None when no step before has."""

    data: TrainingData | None
    fit: Fit
    base: Callable[[], Any]
    folder: Path
    seed: int
    preserve: frozenset[str] = frozenset()
    earlier: tuple[str, ...] = ()
    say: Callable[[str], None] = print
    calibration: Rows | None = None
    unrounded: Callable[[], Any] | None = None

    def needs_data(self, what: str) -> TrainingData:
        """The data. Raises ToolError when there are none."""
        from converters.errors import ToolError

        if self.data is None:
            raise ToolError(
                f"{what} needs labelled training rows, and the data hold none",
                remedy="put rows of their own into x_train and y_train (rows of x and x_test only test; images: a folder train beside "
                "test), or give the step epochs=0 where it can do without",
            )
        return self.data

    def needs_calibration(self, what: str) -> Rows:
        """The calibration rows; their labels may be None. Raises ToolError when there are none."""
        from converters.errors import ToolError

        rows = self.calibration
        if rows is None and self.data is not None:
            rows = self.data.calibration
        if rows is None or not rows.count:
            raise ToolError(
                f"{what} needs calibration rows, and the data hold none",
                remedy="give data with x_train or calibration rows; labels are not needed",
            )
        return rows


@dataclass(frozen=True, slots=True)
class StepResult:
    """The model after the step. `figures`: what the step has to say in numbers and words (JSON types) for the variant's lineage.
    `preserve`: what later trainings must keep, of ZEROS and CLUSTERS. `left_alone`: layers that it could not treat, name → reason.
    `files`: files in the step's `keep` folder to ship beside the variant."""

    model: Any
    figures: Mapping[str, Any] = field(default_factory=dict)
    preserve: frozenset[str] = frozenset()
    left_alone: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


class StepFunction(Protocol):
    """What a step's module offers as `apply`."""

    def __call__(self, model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
        """Do the step. Raises ToolError or RefusedError (`converters.errors`)."""
        ...
