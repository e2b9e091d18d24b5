"""The step `prune`: sets the smallest weights to zero, all at once or growing while training; the shapes stay.

Magnitude pruning of Han et al., arXiv:1506.02626, with one threshold for the whole model or one per tensor; the growing schedule
is that of Zhu and Gupta, arXiv:1710.01878; N:M patterns those of Mishra et al., arXiv:2104.08378. Kernels count (see
`converters.compress.kernels`), biases and norms do not, and neither do embedding tables: a table is looked up, so zeros would save
no products there, and the rows of rare entries are small without being unimportant. Zeros are storage: no engine here runs faster for
them (`converters.ledger_macs` tells the MACs that are left). How much each layer would be missed is measured first
(`converters.compress.sensitivity`); it changes nothing of what is pruned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from converters.compress.context import CLUSTERS, ZEROS, Array, Context, History, StepResult
from converters.compress.kernels import Kernel, find
from converters.compress.norms import measured_again
from converters.compress.sensitivity import Part, Sensitivity, Words, sensitivity, shipped
from converters.errors import RecipeError, RefusedError

ADAPTIVE, GLOBAL, LAYER, POLYNOMIAL = "adaptive", "global", "layer", "polynomial"
# Of the epochs, the first half grows the zeros; there the growing ends after this share of the steps.
RAMP_SHARE = 0.75
RAMP_UPDATES = 100
RAMP_POWER = 3
_TABLE = "a table is looked up, not multiplied: pruning leaves it alone"
WORDS = Words(
    parts="layers",
    part="tensor",
    units="weights",
    gone="zero",
    title="Score without a share of one layer's weights",
    shares=(0.5, 0.8, 0.9),
)


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Prune the kernels of `model` in place, then train for `epochs` with the zeros kept.

    `sparsity` is reached exactly, to the weight, over all kernels (scopes adaptive and global) or in each (scope layer), except that each
    kernel keeps its largest weight, so that no layer is cut off. With a `pattern` N:M, N of M neighbours along the inputs stay,
    and `sparsity`, `scope` and `schedule` mean nothing; a kernel whose inputs do not come in multiples of M is left alone. The growing
    schedule needs training: without epochs, or where shared values are to be kept too, all is pruned at once. Without epochs
    the batch norms are measured again (`converters.compress.norms`). Table and plot of each layer's sensitivity are shipped.
    Raises RecipeError for a pattern that is none, RefusedError when no layer can be pruned, ToolError from training.
    """
    pattern = parse_pattern(parameters["pattern"])
    kernels, left_alone = find(model)
    left_alone |= {kernel.layer: _TABLE for kernel in kernels if kernel.table}
    kernels = [kernel for kernel in kernels if not kernel.table]
    if pattern:
        kernels = _fitting(kernels, pattern[1], left_alone)
    kernels = _with_weights(kernels, left_alone)
    if not kernels:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_alone.items())
        raise RefusedError(f"no layer of this model can be pruned{': ' + reasons if reasons else ''}")
    table = _sensitivity(model, kernels, context)
    epochs, histories = parameters["epochs"], []
    grows = parameters["schedule"] == POLYNOMIAL and epochs > 0 and not pattern and CLUSTERS not in context.preserve
    if grows:
        ramp = Ramp(kernels, parameters["sparsity"], parameters["scope"])
        first = (epochs + 1) // 2
        histories.append(_fit(model, parameters, context, first, "grow", ramp))
        epochs -= first
    _prune(kernels, parameters, pattern)
    if epochs:
        after = replace(context, preserve=context.preserve | {ZEROS})
        histories.append(_fit(model, parameters, after, epochs, "recover", None))
    figures = _figures(model, kernels) | {
        "pattern": parameters["pattern"] or None,
        "schedule": POLYNOMIAL if grows else "constant",
        "norms_measured": 0 if histories else measured_again(model, context),
        "epochs": sum(history.epochs for history in histories),
        "training_seconds": sum(history.seconds for history in histories),
        "validation_scores": [score for history in histories for score in history.scores],
        "sensitivity": table.figures(),
    }
    return StepResult(model, figures, context.preserve | {ZEROS}, left_alone, shipped(table, context.folder))


def parse_pattern(text: str) -> tuple[int, int] | None:
    """`2:4` → (2, 4), the empty text → None. Raises RecipeError for anything else, and unless 0 < N < M ≤ 64."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{1,2})", text)
    if match is None or not 0 < int(match[1]) < int(match[2]) <= 64:  # noqa: PLR2004  said in the message
        raise RecipeError(f"prune: {text!r} is no N:M pattern", remedy="write for example 2:4, with 0 < N < M ≤ 64")
    return int(match[1]), int(match[2])


def magnitude_masks(values: Sequence[Array], sparsity: float, scope: str) -> list[Array]:
    """Which weights to prune: one bool mask per array of `values`, true where the weight becomes zero.

    The smallest magnitudes go; of equal ones, the first. What is zero already counts among them and stays so. Every array keeps its
    largest weight. `scope`: "adaptive" ranks all arrays together by `adaptive_scores`, "global" by magnitude, "layer" each
    array by itself.
    """
    magnitudes = [np.abs(array.reshape(-1).astype(np.float32)) for array in values]
    if scope == ADAPTIVE:
        found = _smallest([adaptive_scores(magnitude) for magnitude in magnitudes], sparsity)
    elif scope == GLOBAL:
        found = _smallest(magnitudes, sparsity)
    else:
        found = [_smallest([magnitude], sparsity)[0] for magnitude in magnitudes]
    return [mask.reshape(array.shape) for mask, array in zip(found, values, strict=True)]


def adaptive_scores(magnitudes: Array) -> Array:
    """Each magnitude's square as a share of the squares of all that are no smaller, float64 [n], for `magnitudes` float [n].

    Layer-adaptive magnitude pruning (LAMP: Lee et al., arXiv:2010.07611). Raw magnitudes of different layers say little of each other: a
    batch norm behind a layer undoes any scale of it. So a global ranking can empty a layer of few, small weights, a
    depthwise convolution above all.
    """
    order = np.argsort(magnitudes, kind="stable")
    squares = magnitudes[order].astype(np.float64) ** 2
    at_least = np.cumsum(squares[::-1])[::-1]
    scores = np.empty(len(magnitudes))
    scores[order] = np.divide(squares, at_least, out=np.zeros_like(squares), where=at_least > 0)
    return scores


def _smallest(scores: Sequence[Array], sparsity: float) -> list[Array]:
    """For scores [n] per array, bool [n]: true for that share of all with the least; the greatest of each array is never among them."""
    scores = [array.copy() for array in scores]
    for array in scores:
        array[int(np.argmax(array))] = np.inf
    every = np.concatenate(scores)
    wanted = max(round(sparsity * len(every)), int(np.count_nonzero(every == 0)))
    count = min(wanted, len(every) - len(scores))
    if count <= 0:
        return [np.zeros(array.shape, bool) for array in scores]
    threshold = np.partition(every, count - 1)[count - 1]
    pruned = every < threshold
    pruned[np.flatnonzero(every == threshold)[: count - int(np.count_nonzero(pruned))]] = True
    return np.split(pruned, np.cumsum([array.size for array in scores])[:-1])


def pattern_mask(values: Array, input_axes: Sequence[int], keep: int, of: int) -> Array:
    """Which weights to prune so that of each `of` neighbours along the input axes (flattened, the last fastest) the `keep` largest
    stay: a bool mask like `values`. The inputs must come in multiples of `of`; of equal magnitudes the first stays."""
    front = tuple(range(len(input_axes)))
    moved = np.moveaxis(np.abs(values.astype(np.float32)), tuple(input_axes), front)
    groups = moved.reshape(-1, of, int(np.prod(moved.shape[len(front) :])))
    order = np.argsort(-groups, axis=1, kind="stable")
    mask = np.ones(groups.shape, bool)
    np.put_along_axis(mask, order[:, :keep], values=False, axis=1)
    return np.moveaxis(mask.reshape(moved.shape), front, tuple(input_axes))


class Ramp:
    """Prunes more and more while a training runs: what `fit` calls after each batch. The zeros of a step are a function of the weights
    before it and of its number, so a training that is resumed goes on as it would have."""

    def __init__(self, kernels: Sequence[Kernel], sparsity: float, scope: str) -> None:
        self._kernels, self._sparsity, self._scope = kernels, sparsity, scope
        self._masks = [kernel.values == 0 for kernel in kernels]
        self._begin = float(np.mean(np.concatenate([mask.reshape(-1) for mask in self._masks])))
        self._last = 0

    def __call__(self, step: int, of_steps: int) -> None:
        """After update `step` of `of_steps`, counted from 1."""
        if step != self._last + 1:
            # Resumed: what was pruned so far stands in the weights.
            self._masks = [kernel.values == 0 for kernel in self._kernels]
        self._last = step
        values = [np.where(mask, 0, kernel.values) for kernel, mask in zip(self._kernels, self._masks, strict=True)]
        ends = max(1, round(RAMP_SHARE * of_steps))
        if step <= ends and (step in {1, ends} or step % max(1, ends // RAMP_UPDATES) == 0):
            self._masks = magnitude_masks(values, self._share(step / ends), self._scope)
        for kernel, mask, array in zip(self._kernels, self._masks, values, strict=True):
            kernel.variable.assign(np.where(mask, 0, array).astype(array.dtype))

    def _share(self, progress: float) -> float:
        """Zhu and Gupta: from what was zero at first to the sparsity wanted, fast first, while much is left to choose from."""
        return self._sparsity + (self._begin - self._sparsity) * (1 - progress) ** RAMP_POWER


def _fitting(kernels: Sequence[Kernel], group: int, left_alone: dict[str, str]) -> list[Kernel]:
    """Those whose inputs come in multiples of `group`; the others are noted."""
    fitting = []
    for kernel in kernels:
        inputs = int(np.prod([kernel.variable.shape[axis] for axis in kernel.input_axes]))
        if not kernel.input_axes:
            left_alone[kernel.name] = "each output has one input channel only: there is nothing to group"
        elif inputs % group:
            left_alone[kernel.name] = f"its {inputs} inputs are no multiple of {group}"
        else:
            fitting.append(kernel)
    return fitting


def _with_weights(kernels: Sequence[Kernel], left_alone: dict[str, str]) -> list[Kernel]:
    empty = [kernel for kernel in kernels if not kernel.values.any()]
    left_alone |= {kernel.name: "all of its weights are zero" for kernel in empty}
    return [kernel for kernel in kernels if kernel not in empty]


def _sensitivity(model: Any, kernels: Sequence[Kernel], context: Context) -> Sensitivity:
    """How much each of these tensors is missed when its smallest weights are zero, the others as they are."""

    def macs() -> int | None:
        from converters.ledger_macs import count_macs

        inputs = () if context.data is None else context.data.validation.inputs
        try:
            return count_macs(model, [x.shape[1:] for x in inputs]).total
        except ValueError:
            return None  # sides of the input stay free: as many rows as there may be

    parts = [Part(kernel.name, int(kernel.values.size), partial(_without, kernel)) for kernel in kernels]
    return sensitivity(model, WORDS, parts, context.data, macs)


@contextmanager
def _without(kernel: Kernel, share: float) -> Iterator[None]:
    """While this lasts, that share of the tensor's weights is zero, as `scope=layer` would choose them."""
    before = kernel.values
    (mask,) = magnitude_masks([before], share, LAYER)
    kernel.variable.assign(np.where(mask, 0, before).astype(before.dtype))
    try:
        yield
    finally:
        kernel.variable.assign(before)


def _prune(kernels: Sequence[Kernel], parameters: Mapping[str, Any], pattern: tuple[int, int] | None) -> None:
    values = [kernel.values for kernel in kernels]
    if pattern:
        masks = [
            pattern_mask(array, kernel.input_axes, *pattern) for array, kernel in zip(values, kernels, strict=True)
        ]
    else:
        masks = magnitude_masks(values, parameters["sparsity"], parameters["scope"])
    for kernel, array, mask in zip(kernels, values, masks, strict=True):
        kernel.variable.assign(np.where(mask, 0, array).astype(array.dtype))


def _fit(
    model: Any, parameters: Mapping[str, Any], context: Context, epochs: int, label: str, after_batch: Ramp | None
) -> History:
    return context.fit(
        model,
        context,
        epochs=epochs,
        learning_rate=parameters["learning_rate"],
        after_batch=after_batch,
        label=label,
    )


def _figures(model: Any, kernels: Sequence[Kernel]) -> dict[str, Any]:
    """The sparsity reached, per tensor and in all, counted in the weights."""
    layers: list[dict[str, Any]] = []
    for kernel in kernels:
        values = kernel.values
        zeros = int(values.size - np.count_nonzero(values))
        layers.append(
            {"tensor": kernel.name, "weights": int(values.size), "zeros": zeros, "sparsity": zeros / values.size}
        )
    weights, zeros = sum(layer["weights"] for layer in layers), sum(layer["zeros"] for layer in layers)
    return {
        "weights": weights,
        "zeros": zeros,
        "sparsity": zeros / weights,
        "sparsity_of_all_parameters": zeros / int(model.count_params()),
        "layers": layers,
    }
