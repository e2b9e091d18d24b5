"""What a student may learn from inside its teacher: features at equal resolutions, as hints or as attention maps.

Used by `converters.compress.teaching`. Hints: Romero et al., arXiv:1412.6550 (FitNets), with linear adapters from the student's
channels to the teacher's, trained along with the student in one stage and thrown away after. Attention transfer: Zagoruyko and Komodakis,
arXiv:1612.03928 (activation-based, sum of squares). Features are the last tensors of each resolution, before it is reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.compress.rewrite import Call, Traced, traced
from converters.errors import RefusedError

SOFT, HINTS, ATTENTION = "soft", "hints", "attention"
# Sums of squares: of hints relative to the teacher's own features (0 learnt, 1 nothing learnt), of attention between maps of
# length one (0 to 4, of which the paper weighs the sum over maps about as much).
HINT_WEIGHT, ATTENTION_WEIGHT = 1.0, 5.0
_KERNEL_RANK = 2
_VECTOR_RANK = 2
_TINY = 1e-6

Resolution = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Teacher and student with the features that they have in common: models that take lists and give the outputs, then one feature
    per entry of `resolutions` (the empty one: a vector). `channels`: (student's, teacher's) of each."""

    teacher: Any
    student: Any
    outputs: int
    resolutions: tuple[Resolution, ...]
    channels: tuple[tuple[int, int], ...]

    def adapters(self, seed: int) -> tuple[Any, ...]:
        """For each feature a trainable matrix, float32 [student's channels, teacher's channels]."""
        import keras

        rng = np.random.default_rng(seed)
        return tuple(
            keras.Variable(
                rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[0]),
                dtype="float32",
                name=f"adapter_{index}",
            )
            for index, shape in enumerate(self.channels)
        )


def matched(teacher: Any, student: Any, method: str) -> Matched:
    """The features that `method` compares. Raises RefusedError when the two models have none in common."""
    import keras

    taught, learnt = traced(teacher), traced(student)
    theirs, ours = _features(taught), _features(learnt)
    common = sorted((r for r in theirs if r in ours), key=lambda r: (-int(np.prod(r)), r))
    if method == ATTENTION:
        common = [resolution for resolution in common if int(np.prod(resolution)) > 1]
    if not common:
        kind = "feature maps" if method == ATTENTION else "intermediate features"
        raise RefusedError(
            f"teacher and student have no {kind} of the same resolution",
            remedy="take method=soft, which compares their answers alone",
        )
    found = [
        keras.Model(graph.model.inputs, [*graph.model.outputs, *(features[r] for r in common)])
        for graph, features in ((taught, theirs), (learnt, ours))
    ]
    channels = tuple((int(ours[r].shape[-1]), int(theirs[r].shape[-1])) for r in common)
    return Matched(found[0], found[1], len(student.outputs), tuple(common), channels)


def _features(graph: Traced) -> dict[Resolution, Any]:
    """The last tensor of each resolution; of vectors the last that is multiplied once more."""
    ends = {id(tensor) for tensor in (*graph.model.inputs, *graph.model.outputs)}
    found: dict[Resolution, Any] = {}
    for call in graph.calls:
        taken = call.inputs if _multiplies(call) else ()
        for tensor in (*(t for t in taken if len(t.shape) == _VECTOR_RANK), *_maps(call)):
            if id(tensor) not in ends and tensor.shape[-1] is not None and tensor.dtype.startswith(("float", "bfloat")):
                found[tuple(tensor.shape[1:-1])] = tensor
    return found


def _multiplies(call: Call) -> bool:
    return any(len(weight.shape) >= _KERNEL_RANK for weight in getattr(call.layer, "weights", ()))


def _maps(call: Call) -> list[Any]:
    return [t for t in call.outputs if len(t.shape) > _VECTOR_RANK and None not in t.shape[1:-1]]


def hint_loss(taught: Sequence[Any], learnt: Sequence[Any], adapters: Sequence[Any]) -> Any:
    """The mean over features of ‖adapted − teacher's‖² / ‖teacher's‖²: a scalar. Features [n, …, channels]."""
    from keras import ops

    parts = []
    for wanted, given, adapter in zip(taught, learnt, adapters, strict=True):
        target = ops.stop_gradient(ops.cast(wanted, "float32"))
        adapted = ops.matmul(ops.cast(given, "float32"), ops.cast(adapter, "float32"))
        parts.append(ops.mean(ops.square(adapted - target)) / (ops.mean(ops.square(target)) + _TINY))
    return HINT_WEIGHT * sum(parts) / len(parts)


def attention_loss(taught: Sequence[Any], learnt: Sequence[Any]) -> Any:
    """The mean over features and rows of the squared distance between their attention maps: a scalar."""
    from keras import ops

    parts = [
        ops.mean(ops.sum(ops.square(attention_map(given) - ops.stop_gradient(attention_map(wanted))), axis=-1))
        for wanted, given in zip(taught, learnt, strict=True)
    ]
    return ATTENTION_WEIGHT * sum(parts) / len(parts)


def attention_map(feature: Any) -> Any:
    """[n, …, channels] → [n, positions]: where the energy is, each row of length one."""
    from keras import ops

    energy = ops.mean(ops.square(ops.cast(feature, "float32")), axis=-1)
    flat = ops.reshape(energy, (ops.shape(energy)[0], -1))
    return flat / (ops.sqrt(ops.sum(ops.square(flat), axis=-1, keepdims=True)) + _TINY)


def loss_of(method: str, adapters: Sequence[Any]) -> Callable[[Sequence[Any], Sequence[Any]], Any]:
    """`loss(teacher's features, student's features)` of that method."""
    if method == HINTS:
        return lambda taught, learnt: hint_loss(taught, learnt, adapters)
    return attention_loss
