"""How far a network's answers move when one layer alone has fewer bits: measured, layer by layer and bits by bits.

Used by `converters.compress.mixed_precision`. The measure is that of ZeroQ (Cai et al., arXiv:2001.00281, section 3.2): the
Kullback-Leibler divergence of the answers from those in float, which needs no labels, is zero where nothing moved, and, for small
moves, is the second-order increase of the loss that HAWQ (Dong et al., arXiv:1911.03852) reads from the Hessian. Sums over layers
are then taken for the divergence of a choice. Measured on validation rows, never on test rows; weights and modes are put back afterwards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from converters.compress.context import Array, Rows
from converters.compress.grids import rounded_values
from converters.compress.objective import CLASSIFICATION, Predictor, flat_view, gives_probabilities

MOST_ROWS, LEAST_ROWS = 512, 32
# What all measurements together may cost: a few minutes of one core.
MAC_BUDGET = 4e12
_LEAST_SHARE = 1e-7
_FILE = "sensitivity.json"


@dataclass(slots=True)
class Sensitivities:
    """`layers`: name → bits → divergence when that kernel alone has those bits. `ranges`: number of a range of activations → divergence
    when it alone is rounded to 8 bits. `rows`: how many the answers were of."""

    layers: dict[str, dict[int, float]] = field(default_factory=dict)
    ranges: dict[int, float] = field(default_factory=dict)
    rows: int = 0


def divergence(answers: Sequence[Array], wanted: Sequence[Array], *, scores: str | None) -> float:
    """How far answers [n, …] of each output are from those wanted, as one number ≥ 0.

    `scores`: what the first output holds, "logits" or "probabilities" of classes (mean Kullback-Leibler divergence, in nats), or
    None (squared distance in units of the variance wanted, as for every further output; the outputs are added up).
    """
    total = 0.0
    for index, (got, want) in enumerate(zip(answers, wanted, strict=True)):
        if index == 0 and scores is not None:
            p, q = _log_probabilities(want, scores), _log_probabilities(got, scores)
            total += max(float(np.mean((np.exp(p) * (p - q)).sum(-1))), 0.0)
        else:
            distance = np.mean((got.astype(np.float64) - want) ** 2)
            total += float(distance / max(float(np.var(want.astype(np.float64))), 1e-12))
    return total


def _log_probabilities(values: Array, scores: str) -> Array:
    """Logarithms of class probabilities [n, classes ≥ 2]; of one output [n, 1], those of the two classes."""
    x = values.astype(np.float64)
    if x.shape[-1] == 1:
        x = np.concatenate([1 - x if scores == "probabilities" else np.zeros_like(x), x], -1)
    if scores == "probabilities":
        x = np.log(np.maximum(x, _LEAST_SHARE))
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


class Probe:
    """A network that was built for rounding (`quantize_build.Rounded`), asked with all of it in float but one part.

    `task`: None where it is not known. `granularity`: of the kernels. `macs`: of the network for one row, None when they are not known.
    """

    def __init__(self, rounded: Any, rows: Rows, task: str | None, granularity: str, macs: int | None) -> None:
        self._rounded, self._granularity = rounded, granularity
        self._model, self._macs = rounded.model, macs
        self._rows, self._task = rows, task

    def measure(
        self, candidates: Sequence[int], *, ranges: bool, folder: Path, say: Callable[[str], None]
    ) -> Sensitivities:
        """The divergences of each layer with each of `candidates` bits and, when asked for, of each range with 8.

        What was measured is kept in `folder`, so that a step that was killed goes on from there.
        """
        names, numbers = list(self._rounded.layers), sorted(self._rounded.ranges) if ranges else []
        count = self._affordable(len(names) * len(candidates) + len(numbers) + 1)
        which = np.linspace(0, self._rows.count - 1, count).astype(np.int64)
        self._few = self._rows.take(which)
        found = Sensitivities(rows=count)
        store = _Store(folder / _FILE, self._fingerprint(count))
        with _in_float(self._model):
            predict = Predictor(self._model)
            wanted = predict(self._few.inputs)
            self._scores = self._kind_of_scores()
            for number, name in enumerate(names, start=1):
                layer = self._model.get_layer(name)
                found.layers[name] = {
                    bits: store.get(f"{name}/{bits}", partial(self._of_layer, layer, bits, predict, wanted))
                    for bits in candidates
                }
                store.save()
                if number % 10 == 0:
                    say(f"sensitivity: {number} of {len(names)} layers")
            for number in numbers:
                found.ranges[number] = store.get(f"range {number}", partial(self._of_range, number, wanted))
            store.save()
        return found

    def _affordable(self, looks: int) -> int:
        most = min(MOST_ROWS, self._rows.count)
        if not self._macs:
            return most
        return max(min(most, int(MAC_BUDGET / (self._macs * looks))), min(LEAST_ROWS, most))

    def _kind_of_scores(self) -> str | None:
        if self._task != CLASSIFICATION:
            return None
        return "probabilities" if gives_probabilities(self._model, self._few) else "logits"

    def _of_layer(self, layer: Any, bits: int, predict: Any, wanted: Sequence[Array]) -> float:
        before = layer.kernel.numpy()
        try:
            layer.kernel.assign(rounded_values(before, layer.channels, bits, self._granularity))
            return divergence(predict(self._few.inputs), wanted, scores=self._scores)
        finally:
            layer.kernel.assign(before)

    def _of_range(self, number: int, wanted: Sequence[Array]) -> float:
        """With one range rounded: which layers round is fixed when a network is traced, so this one is asked untraced."""
        layer = self._rounded.ranges[number]
        mode, layer.mode = layer.mode, "fixed"
        try:
            view = flat_view(self._model)
            outputs = view(list(self._few.inputs), training=False)
            answers = [np.asarray(y) for y in (outputs if isinstance(outputs, list | tuple) else [outputs])]
            return divergence(answers, wanted, scores=self._scores)
        finally:
            layer.mode = mode

    def _fingerprint(self, rows: int) -> str:
        """What decides the figures: the weights, the ranges, the rows."""
        digest = hashlib.sha256(f"{self._granularity} {rows} {self._task}".encode())
        for array in (*(variable.numpy() for variable in self._model.variables), *self._few.inputs):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@contextmanager
def _in_float(model: Any) -> Iterator[None]:
    """While this lasts nothing is rounded: no range, and each kernel is what it is."""
    from converters.compress.fake_quant import FIXED, OFF, FakeQuantize, is_rounded

    before: list[tuple[Any, str, str]] = []
    for layer in model.layers:
        name = "mode" if isinstance(layer, FakeQuantize) else "weight_mode" if is_rounded(layer) else None
        if name is not None:
            before.append((layer, name, getattr(layer, name)))
            setattr(layer, name, OFF if name == "mode" else FIXED)
    try:
        yield
    finally:
        for layer, name, value in before:
            setattr(layer, name, value)


class _Store:
    """Numbers by name in a JSON file that belongs to one fingerprint."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._values: dict[str, float] = {}
        if path.is_file():
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["fingerprint"] == fingerprint:
                self._values = told["values"]

    def get(self, name: str, measure: Callable[[], float]) -> float:
        if name not in self._values:
            self._values[name] = measure()
        return self._values[name]

    def save(self) -> None:
        from converters.export.base import write_whole

        text = json.dumps({"fingerprint": self._fingerprint, "values": self._values})
        write_whole(self._path, text.encode())
