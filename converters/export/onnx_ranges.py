"""Activation ranges for ONNX static quantization, measured once and shared by all calibration methods.

Third step of the ONNX toolchain: prepared graph and calibration rows in, (lowest, highest) per tensor out. The graph runs
with every float tensor as an output, in batches sized by the tensors' bytes, and each batch is reduced at once: memory does
not grow with the number of rows. A first pass finds minima and maxima; entropy and percentile share a second pass that
fills histograms over those exact bounds. ONNX Runtime's own calibrators keep every tensor of every row in memory, and
their entropy default has as many histogram bins as levels, which leaves a single threshold to choose from.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import ToolError
from converters.export.onnx_graph import session_options
from converters.export.tool_words import one_line

Range = tuple[float, float]
Floats = npt.NDArray[np.float64]

BINS = 2048
LEVELS = 128  # magnitudes that 8 bits can tell apart in a tensor of both signs
CANDIDATES = 96
MAX_CUT = 0.01
PERCENTILE = 99.99
BATCH_BYTES = 64 * 2**20
MAX_BATCH = 32


class BatchReader:
    """Calibration rows as feeds of at most `size` rows; what ONNX Runtime calls a CalibrationDataReader."""

    def __init__(self, rows: Mapping[str, npt.NDArray[Any]], size: int) -> None:
        self._rows = rows
        self._count = len(next(iter(rows.values())))
        self._size = size
        self._next = 0

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """The next feed, or None at the end."""
        start = self._next
        if start >= self._count:
            return None
        self._next = start + self._size
        return {name: np.ascontiguousarray(rows[start : self._next]) for name, rows in self._rows.items()}

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        while (feed := self.get_next()) is not None:
            yield feed


class ActivationRanges:
    """Ranges of the float tensors that nodes of `op_types` read or write, over `rows`.

    `model` has its shapes inferred; `rows`: input name -> rows first, in the graph's layout. `scratch` is a folder of its
    own for the graph that gives all its tensors out. Raises ToolError when the graph does not run on the rows, or a tensor
    is not finite on them.
    """

    def __init__(
        self, model: Any, op_types: Collection[str], rows: Mapping[str, npt.NDArray[Any]], scratch: Path
    ) -> None:
        self._rows = rows
        self._names = float_tensors(model, op_types)
        self._whole = _never_cut(model)
        self._fixed_batch = _fixed_batch(model)
        self._session = _session(model, self._names, scratch)
        self._bounds: dict[str, Range] | None = None
        self._histograms: dict[str, Floats] | None = None

    def get(self, method: str) -> dict[str, Range]:
        """(lowest, highest) of each tensor by `method`: minmax, entropy or percentile. Measured on first use.

        The model's inputs and outputs and the probabilities of a softmax keep their whole range whatever the method.
        """
        bounds = self._minmax()
        if method == "minmax":
            return bounds
        choose = entropy_range if method == "entropy" else percentile_range
        return bounds | {name: choose(histogram, *bounds[name]) for name, histogram in self._filled(bounds).items()}

    def _minmax(self) -> dict[str, Range]:
        if self._bounds is None:
            bounds: dict[str, Range] = {}
            for name, values in self._tensors():
                low, high = float(values.min()), float(values.max())
                if not (np.isfinite(low) and np.isfinite(high)):
                    raise ToolError(f"calibration: tensor {name!r} holds NaN or infinity on the calibration rows")
                before = bounds.get(name, (low, high))
                bounds[name] = (min(low, before[0]), max(high, before[1]))
            self._bounds = bounds
        return self._bounds

    def _filled(self, bounds: Mapping[str, Range]) -> dict[str, Floats]:
        if self._histograms is None:
            cut = [name for name, (low, high) in bounds.items() if low < high and name not in self._whole]
            histograms = {name: np.zeros(BINS) for name in cut}
            for name, values in self._tensors():
                if name in histograms:
                    histograms[name] += np.histogram(values, BINS, bounds[name])[0]
            self._histograms = histograms
        return self._histograms

    def _tensors(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Every float tensor of every batch, inputs included."""
        size = self._fixed_batch or self._batch_size()
        for feed in BatchReader(self._rows, size):
            for name, values in (*feed.items(), *self._run(feed)):
                if values.size and values.dtype.kind == "f":
                    yield name, values

    def _batch_size(self) -> int:
        feed = BatchReader(self._rows, 1).get_next() or {}
        bytes_per_row = sum(values.nbytes for _, values in self._run(feed))
        return max(1, min(MAX_BATCH, BATCH_BYTES // max(1, bytes_per_row)))

    def _run(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[tuple[str, npt.NDArray[Any]]]:
        try:
            return list(zip(self._names, self._session.run(self._names, dict(feed)), strict=True))
        except Exception as error:
            raise ToolError(f"ONNX Runtime could not run the calibration rows: {one_line(error)}") from error


def float_tensors(model: Any, op_types: Collection[str]) -> list[str]:
    """Names of the computed float tensors that top-level nodes of `op_types` read or write."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    typed = {i.name for i in (*model.graph.value_info, *model.graph.output) if i.type.tensor_type.elem_type in floats}
    touched = {name for node in model.graph.node if node.op_type in op_types for name in (*node.input, *node.output)}
    return [name for node in model.graph.node for name in node.output if name in typed & touched]


def _never_cut(model: Any) -> set[str]:
    """Tensors whose extremes are the answer: outputs of the model and of softmax; and its inputs, known beforehand."""
    probabilities = {node.output[0] for node in model.graph.node if node.op_type == "Softmax"}
    return {info.name for info in (*model.graph.input, *model.graph.output)} | probabilities


def _fixed_batch(model: Any) -> int | None:
    """The batch the graph insists on, or None when it is free."""
    constants = {tensor.name for tensor in model.graph.initializer}
    sizes = [
        info.type.tensor_type.shape.dim[0].dim_value
        for info in model.graph.input
        if info.name not in constants and info.type.tensor_type.shape.dim
    ]
    return max(sizes, default=0) or None


def _session(model: Any, names: list[str], scratch: Path) -> Any:
    """A session that gives out every tensor in `names`."""
    import onnx
    import onnxruntime as ort

    augmented = copy.deepcopy(model)
    known = {info.name: info for info in augmented.graph.value_info}
    outputs = {info.name for info in augmented.graph.output}
    augmented.graph.output.extend(known[name] for name in names if name not in outputs)
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "all_tensors.onnx"
    onnx.save(augmented, path)
    try:
        return ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ToolError(f"ONNX Runtime could not load the calibration graph: {one_line(error)}") from error


def percentile_range(histogram: Floats, low: float, high: float, percentile: float = PERCENTILE) -> Range:
    """The range that holds `percentile` per cent of the values, half of the rest cut from either side."""
    edges = np.linspace(low, high, len(histogram) + 1)
    share = np.concatenate(([0.0], np.cumsum(histogram) / histogram.sum()))
    cut = (100.0 - percentile) / 200.0
    left = int(np.searchsorted(share, cut, side="right")) - 1
    right = int(np.searchsorted(share, 1.0 - cut, side="left"))
    return float(edges[max(left, 0)]), float(edges[min(right, len(histogram))])


def entropy_range(histogram: Floats, low: float, high: float) -> Range:
    """The range [−t, t] ∩ [low, high] whose quantization to 8 bits loses the least information.

    Kullback-Leibler divergence between the distribution of magnitudes cut at t and its quantized form, over thresholds t
    from `LEVELS` bins to all of them that cut off at most one value in a hundred: with few rows or values in a narrow band
    the divergence alone cuts far too deep.
    """
    magnitudes = _magnitudes(histogram, low, high)
    bins = len(magnitudes)
    kept = np.cumsum(magnitudes) / magnitudes.sum()
    fewest = max(LEVELS, int(np.searchsorted(kept, 1.0 - MAX_CUT)) + 1)
    counts = np.unique(np.linspace(fewest, bins, CANDIDATES, dtype=np.int64)).tolist()
    divergences = [_divergence(magnitudes, count) for count in counts]
    threshold = max(abs(low), abs(high)) * counts[int(np.argmin(divergences))] / bins
    return max(low, -threshold), min(high, threshold)


def _magnitudes(histogram: Floats, low: float, high: float) -> Floats:
    """The histogram of |x| over [0, max |x|], from the histogram of x over [low, high]."""
    centres = low + (np.arange(len(histogram)) + 0.5) * (high - low) / len(histogram)
    bound = max(abs(low), abs(high))
    folded, _ = np.histogram(np.abs(centres), len(histogram), (0.0, bound), weights=histogram)
    # Zero is always exact, and after a ReLU it is most of the mass: it must not decide where to cut.
    folded[0] = folded[1]
    return np.asarray(folded, dtype=np.float64)


@lru_cache(maxsize=2 * CANDIDATES)
def _starts(count: int) -> npt.NDArray[np.int64]:
    """First bin of each level when `count` bins share `LEVELS` levels."""
    return -(-np.arange(LEVELS) * count // LEVELS)


def _divergence(magnitudes: Floats, count: int) -> float:
    """KL(p‖q): p is the first `count` bins with the tail added to the last, q is p merged into levels and spread again."""
    p = magnitudes[:count].copy()
    filled = p > 0
    starts = _starts(count)
    sizes = np.diff(starts, append=count)
    means = np.add.reduceat(p, starts) / np.maximum(np.add.reduceat(filled, starts, dtype=np.int64), 1)
    q = np.where(filled, np.repeat(means, sizes), 0.0)
    p[-1] += magnitudes[count:].sum()
    if p.sum() == 0 or q.sum() == 0:
        return float("inf")
    p /= p.sum()
    # Where the tail fell on an empty bin q has no mass and the divergence would be infinite: a little is put there.
    q = np.where((p > 0) & (q == 0), 1e-4, q / q.sum())
    mask = p > 0
    return float(np.sum(p[mask] * np.log(p[mask] / (q[mask] / q.sum()))))
