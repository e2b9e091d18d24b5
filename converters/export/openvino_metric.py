"""The measure that NNCF's accuracy control guards, computed on calibration rows only, never on test rows.

Each output counts: class scores by accuracy where there are labels, else by agreement with the base's arg max; any other
output by one minus its mean absolute deviation from the base (from the labels, in a labelled regression) relative to its
spread. The losses of all outputs add up, so that good classes cannot hide a ruined regression.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from converters.export.base import Array, Source
from converters.export.openvino_graph import compile_exactly

_SCORES_RANK = 2


class CalibrationMetric:
    """Validation for `nncf.quantize_with_accuracy_control`, whose items are row numbers.

    `model`: the float32 base; `feeds`: one row each; `labels`: int classes or float targets of the rows, or None.
    """

    def __init__(self, model: Any, feeds: list[dict[str, Array]], labels: Array | None, source: Source) -> None:
        self._feeds = feeds
        self._labels = labels
        self._task = source.task
        outputs = self._outputs(compile_exactly(model), range(len(feeds)))
        self._base = [np.concatenate(rows) for rows in zip(*outputs, strict=True)]
        self._spread = [float(np.ptp(base)) or 1.0 for base in self._base]
        self._labelled = self._labelled_output()

    @property
    def name(self) -> str:
        """What the measure is, in words."""
        if self._labelled is None:
            return "agreement with the base"
        return "fit to the targets" if self._task == "regression" else "accuracy"

    def validate(self, compiled: Any, items: Iterable[int]) -> tuple[float, list[float]]:
        """Mean score of `items`, and the score of each: 1 is perfect, every loss takes away."""
        rows = [int(item) for item in items]
        scores = [self._score(row, outputs) for row, outputs in zip(rows, self._outputs(compiled, rows), strict=True)]
        return float(np.mean(scores)), scores

    def of(self, model: Any) -> float:
        """The measure of an `ov.Model` over all rows."""
        return self.validate(compile_exactly(model), range(len(self._feeds)))[0]

    def _outputs(self, compiled: Any, rows: Iterable[int]) -> list[list[Array]]:
        """Per row the outputs, each with its leading dimension of one."""
        found = []
        for row in rows:
            results = compiled(self._feeds[row])
            found.append([np.array(results[index]) for index in range(len(compiled.outputs))])
        return found

    def _labelled_output(self) -> int | None:
        """Which output the labels speak of: the first with class scores, or with the targets' shape in a regression."""
        if self._labels is None:
            return None
        for index, base in enumerate(self._base):
            if self._task == "regression":
                if base.size == np.size(self._labels):
                    return index
            elif _is_scores(base):
                return index
        return None

    def _score(self, row: int, outputs: list[Array]) -> float:
        return 1.0 - sum(self._loss(index, row, output) for index, output in enumerate(outputs))

    def _loss(self, index: int, row: int, output: Array) -> float:
        base = self._base[index][row]
        labelled = index == self._labelled and self._labels is not None
        if labelled and self._task == "regression":
            targets = np.asarray(self._labels)
            deviation = np.abs(output[0] - targets[row].reshape(base.shape))
            return float(deviation.mean()) / (float(np.ptp(targets)) or 1.0)
        if _is_scores(self._base[index]):
            wanted = int(np.asarray(self._labels)[row]) if labelled else int(base.argmax())
            return float(int(output[0].argmax()) != wanted)
        return float(np.abs(output[0] - base).mean()) / self._spread[index]


def _is_scores(base: Array) -> bool:
    return base.ndim == _SCORES_RANK and base.shape[1] > 1
