"""What a session's answers are held against: the labels, and what the base model itself answered.

Made once per session, from the data and from what the converters left; read by `harness.table`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.dataset import Dataset
from harness.collectors.accuracy import top_classes
from harness.records import Reference


def reference_of(dataset: Dataset, base_outputs: NDArray[np.float32] | None) -> Reference:
    """Labels and the base model's own answers, in the form the table holds outputs against."""
    classes = dataset.task == "classification" or (
        dataset.task == "none" and base_outputs is not None and base_outputs.ndim == 2 and base_outputs.shape[1] > 1  # noqa: PLR2004
    )
    return Reference(
        task="classification" if classes else dataset.task,
        rows=len(next(iter(dataset.inputs.values()))),
        labels=dataset.labels,
        base_top=top_classes(base_outputs) if classes and base_outputs is not None else None,
        base_outputs=None if classes else base_outputs,
        dataset_sha256=dataset.sha256,
        class_names=dataset.class_names,
    )


def base_outputs_of(reference: Path | None) -> NDArray[np.float32] | None:
    """The base model's first output on all test rows, as the converters left it; None where there is none."""
    if reference is None:
        return None
    with np.load(reference, allow_pickle=False) as data:
        first = next((key for key in data.files if key.startswith("out:")), None)
        return None if first is None else np.asarray(data[first], dtype=np.float32)
