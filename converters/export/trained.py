"""What quantization-aware training left in a model, for every format: each kernel's scales, found again in any layout.

`table` runs in the TensorFlow worker and goes into the source's facts (`FACT_TRAINED_RANGES`); the toolchains read it with
`trained_kernels`. Ranges of activations stand in the exported graphs themselves. Exporters transpose and reorder kernels but do
not change their values, so a kernel is known by its sorted values. numpy only, except in `table`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import ToolError
from converters.support import FACT_TRAINED_RANGES

Array = npt.NDArray[Any]
# How far a value may lie from its grid, in steps, for float32's sake.
_OFF_GRID = 1e-3
INT4_TOP = 7


@dataclass(frozen=True, slots=True, eq=False)
class TrainedKernel:
    """One kernel. `scales`: float32 [channels], or [1] for all. `largest`: largest magnitude per channel, float32
    [channels]. `key`: of its values (`key_of`)."""

    name: str
    key: str
    scales: Array
    largest: Array

    def along(self, axis: int, rank: int) -> Array:
        """The scales, shaped to divide a kernel of that rank whose output channels lie on `axis`."""
        shape = [1] * rank
        if self.scales.size > 1:
            shape[axis] = self.scales.size
        return self.scales.reshape(shape)

    def integers(self, values: Array, axis: int) -> Array:
        """The kernel's values as int8, in their own layout. Raises ToolError when they do not lie on the grid."""
        steps = values.astype(np.float64) / self.along(axis, values.ndim).astype(np.float64)
        rounded = np.round(steps)
        if np.abs(steps - rounded).max(initial=0) > _OFF_GRID or np.abs(rounded).max(initial=0) > np.iinfo(np.int8).max:
            raise ToolError(f"the exported kernel of {self.name} does not lie on the grid it was trained for")
        return rounded.astype(np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """All kernels of a model. `weight_bits`: what they were trained for, 4 to 8."""

    weight_bits: int
    kernels: tuple[TrainedKernel, ...]

    def find(self, values: Array) -> TrainedKernel | None:
        """The kernel with these values in whatever order, or None."""
        key = key_of(values)
        return next((kernel for kernel in self.kernels if kernel.key == key), None)

    def note(self, found: int) -> str:
        """A line for the variant: how many kernels have the scales of the training."""
        return (
            f"{found} of {len(self.kernels)} kernels and the ranges of activations have the scales of the training "
            f"({self.weight_bits}-bit weights); nothing was calibrated"
        )


def key_of(values: Array) -> str:
    """A name for the values of a kernel that does not depend on their order."""
    flat = np.sort(values.astype(np.float32).ravel() + np.float32(0))  # no negative zeros
    return hashlib.sha256(flat.tobytes()).hexdigest()[:24]


def table(model: Any) -> dict[str, Any] | None:
    """The facts of a Keras model that was trained with rounding; None for any other. `own_values`: how many of its values are
    ranges and scales rather than parameters."""
    from converters.compress.fake_quant import FIXED, FakeQuantize, is_rounded
    from converters.compress.objective import every_layer

    layers = list(every_layer(model))
    rounded = [layer for layer in layers if is_rounded(layer) and layer.weight_mode == FIXED]
    if not rounded:
        return None
    ranges = [layer for layer in layers if isinstance(layer, FakeQuantize)]
    kernels = []
    for layer in rounded:
        values = layer.kernel.numpy().astype(np.float32)
        kernels.append(
            {
                "name": layer.name,
                "key": key_of(values),
                "scales": _text(layer.kernel_scale.numpy()),
                "largest": _text(np.abs(values.reshape(-1, layer.channels)).max(0)),
            }
        )
    return {
        "weight_bits": max(layer.weight_bits for layer in rounded),
        "granularity": rounded[0].granularity,
        "own_values": 2 * len(ranges) + sum(layer.scales for layer in rounded),
        "kernels": kernels,
    }


def trained_kernels(facts: Mapping[str, Any]) -> Trained | None:
    """What `table` wrote into the facts of a source; None when the model was not trained so."""
    told = facts.get(FACT_TRAINED_RANGES)
    if not told:
        return None
    kernels = tuple(
        TrainedKernel(each["name"], each["key"], _array(each["scales"]), _array(each["largest"]))
        for each in told["kernels"]
    )
    return Trained(told["weight_bits"], kernels)


def _text(values: Array) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _array(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), "<f4")
