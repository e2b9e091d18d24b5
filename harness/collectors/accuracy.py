"""A variant's outputs over the dataset (.npy from the device) → an Evaluation: what metrics need, and no more.

Pure functions of a file and its task; used by `harness.runner`. `top_classes` is also how the base model's own answers
are reduced, so that both sides break ties alike.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MeasurementError
from harness.records import Evaluation

TOP = 5


def top_classes(outputs: NDArray[Any], k: int = TOP) -> NDArray[np.int32]:
    """The `k` best classes of each row, best first, ties to the lower class: int32 [rows, min(k, classes)].

    `outputs`: scores [rows, …], flattened to [rows, classes]. Raises MeasurementError for one class or none, or NaN.
    """
    rows = outputs.shape[0] if outputs.ndim else 0
    scores = outputs.reshape(rows, -1) if rows else outputs.reshape(0, 0)
    if scores.shape[1] < 2:  # noqa: PLR2004 - one column cannot rank classes
        raise MeasurementError(
            f"outputs of shape {list(outputs.shape)} are no scores of two or more classes",
            remedy="for one number per row declare the data as regression",
        )
    if np.isnan(scores).any():
        bad = int(np.isnan(scores).any(axis=1).sum())
        raise MeasurementError(
            f"outputs are not a number (NaN) in {bad} of {rows} rows", remedy="try a wider precision for this model"
        )
    # Stable on the negated scores, so equal scores keep the order of their classes. Unsigned integers cannot be negated.
    keys = -scores.astype(np.float64)
    return np.argsort(keys, axis=1, kind="stable")[:, :k].astype(np.int32)


def evaluate(path: Path, *, variant: str, task: str, rows: int, outputs_sha256: str) -> Evaluation:
    """Reduce the outputs in `path` (float32 [rows, …]) by `task`: "classification" or "regression".

    `outputs_sha256`: of the array's bytes, as the agent reports it. Raises MeasurementError for a file that is no such
    array, has other bytes or other rows, or holds NaN.
    """
    try:
        outputs = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MeasurementError(f"the outputs of {variant} cannot be read: {error}") from error
    if not isinstance(outputs, np.ndarray) or outputs.dtype.kind not in "fiu":
        raise MeasurementError(f"the outputs of {variant} are no array of numbers")
    if hashlib.sha256(outputs.tobytes()).hexdigest() != outputs_sha256:
        raise MeasurementError(f"the outputs of {variant} are not those the agent wrote: their sha256 differs")
    if outputs.ndim == 0 or outputs.shape[0] != rows:
        raise MeasurementError(f"the outputs of {variant} have shape {list(outputs.shape)}, not {rows} rows")
    if task == "classification":
        return Evaluation(variant, rows, outputs_sha256, top=top_classes(outputs))
    if not np.isfinite(outputs).all():
        raise MeasurementError(f"the outputs of {variant} hold NaN or infinity", remedy="try a wider precision")
    return Evaluation(variant, rows, outputs_sha256, outputs=outputs.astype(np.float32, copy=False))
