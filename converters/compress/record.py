"""What a chain's step leaves behind, as files and plain data: read by the pipeline, written by `converters.compress.chain`.

A finished step's folder holds `model.keras`, `step.json` (a `StepRecord`) and, where the step ships files, `keep/`. Standard
library only: the pipeline reads it without Keras.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = "model.keras"
RECORD = "step.json"
KEEP = "keep"
WORK = "work"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a chain, done.

    `parameters`: all of them, defaults filled in. `score_before`, `score_after`: on the validation rows, accuracy or minus the
    mean squared error as `metric` says; None with `score_missing` as the reason. `ledger`: what the model then costs.
    `preserve`: what later trainings must keep. `files`: names in `keep`. `inputs`, `outputs`: names of the base's tensors.
    """

    step: str
    text: str
    parameters: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    metric: str | None = None
    score_before: float | None = None
    score_after: float | None = None
    score_missing: str | None = None
    ledger: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    preserve: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Serialise; numbers that JSON does not know become null."""
        return json.dumps(plain(dataclasses.asdict(self)), indent=1, sort_keys=True) + "\n"

    def lineage(self) -> dict[str, Any]:
        """What a variant's manifest says of the step."""
        left_out = ("preserve", "files", "inputs", "outputs")
        data: dict[str, Any] = plain(dataclasses.asdict(self))
        return {key: value for key, value in data.items() if key not in left_out}


def read_record(folder: Path) -> StepRecord:
    """The record of a finished step's folder. Raises OSError, ValueError, TypeError."""
    data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    tuples = {key: tuple(data[key]) for key in ("preserve", "files", "inputs", "outputs")}
    return StepRecord(**data | tuples)


def plain(value: Any) -> Any:
    """The same as JSON types: numpy's numbers and arrays as Python's, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
