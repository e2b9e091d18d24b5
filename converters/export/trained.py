"""What quantization-aware training left in a model, for every format: each kernel's scales, found again in any layout.

`table` runs in the TensorFlow worker and goes into the source's facts (`FACT_TRAINED_RANGES`); the toolchains read it with
`trained_kernels`. Ranges of activations stand in the exported graphs themselves. Exporters transpose and reorder kernels but do
not change their values, so a kernel is known by its sorted values. numpy only, except in `table`.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.compress.grids import top_of
from converters.errors import ToolError
from converters.support import FACT_TRAINED_RANGES

Array = npt.NDArray[Any]
# How far a value may lie from its grid, in steps, for float32's sake; of more than 8 bits, whose steps are finer.
_OFF_GRID, _OFF_FINE_GRID = 1e-3, 5e-2
EIGHT = 8
WIDE_NOTE = (
    "{} ranges of activations with 16 bits stay float32, which has more: no engine here has integer kernels of 16 bits "
    "beside those of 8"
)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedKernel:
    """One kernel. `scales`: float32 [channels], or [1] for all. `largest`: largest magnitude per channel, float32
    [channels]. `key`: of its values (`key_of`). `bits`: what it was rounded to. `packed`: to be stored in as few bits as the format
    has for it, whatever the recipe says of all. `size`: number of its values."""

    name: str
    key: str
    scales: Array
    largest: Array
    bits: int = EIGHT
    packed: bool = False
    size: int = 0

    def along(self, axis: int, rank: int) -> Array:
        """The scales, shaped to divide a kernel of that rank whose output channels lie on `axis`."""
        shape = [1] * rank
        if self.scales.size > 1:
            shape[axis] = self.scales.size
        return self.scales.reshape(shape)

    def integers(self, values: Array, axis: int) -> Array:
        """The kernel's values as int8 (of more than 8 bits int16), in their own layout. Raises ToolError when they do not lie on the
        grid."""
        return self.counted(values, self.along(axis, values.ndim))

    def counted(self, values: Array, scales: Array) -> Array:
        """The same with scales in a shape that divides the values."""
        steps = values.astype(np.float64) / scales.astype(np.float64)
        rounded, fine = np.round(steps), self.bits > EIGHT
        kind = np.int16 if fine else np.int8
        off = np.abs(steps - rounded).max(initial=0) > (_OFF_FINE_GRID if fine else _OFF_GRID)
        if off or np.abs(rounded).max(initial=0) > np.iinfo(kind).max:
            raise ToolError(f"the exported kernel of {self.name} does not lie on the grid it was trained for")
        return rounded.astype(kind)

    def container(self, widths: Sequence[int]) -> int:
        """In how many bits a format stores it that has integers of these widths; the widest where none is wide enough."""
        fitting = [width for width in sorted(widths) if width >= (self.bits if self.packed else max(self.bits, EIGHT))]
        return fitting[0] if fitting else max(widths)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """All kernels of a model. `weight_bits`: what they were rounded to, the largest number of them all. `wide_ranges`: how many ranges
    of activations were given 16 bits."""

    weight_bits: int
    kernels: tuple[TrainedKernel, ...]
    wide_ranges: int = 0

    def find(self, values: Array) -> TrainedKernel | None:
        """The kernel with these values in whatever order, or None."""
        key = key_of(values)
        return next((kernel for kernel in self.kernels if kernel.key == key), None)

    def note(self, found: int) -> str:
        """A line for the variant: how many kernels have the scales that the model came with."""
        bits = sorted({kernel.bits for kernel in self.kernels})
        weights = f"{bits[0]}-bit weights"
        if len(bits) > 1:
            size = sum(kernel.size for kernel in self.kernels)
            mean = sum(kernel.bits * kernel.size for kernel in self.kernels) / max(size, 1)
            weights = f"weights of {bits[0]} to {bits[-1]} bits, {mean:.3g} in the mean"
        return (
            f"{found} of {len(self.kernels)} kernels and the ranges of activations have the scales that the steps before gave "
            f"them ({weights}); nothing was calibrated again"
        )

    def overflow_notes(self) -> list[str]:
        """For engines that add products of 8-bit weights in 16 bits on some CPUs: a warning, where there are such weights."""
        if all(kernel.bits < EIGHT for kernel in self.kernels):
            return []
        return ["8-bit weights saturate on x86 CPUs without VNNI, exact on ARM and with VNNI; weight_bits=7 fits all"]

    def storage_notes(self, widths: Sequence[int], why: str) -> list[str]:
        """What a format that has integers of these widths could not express of bits by layer, and `why`; nothing when it has them all."""
        counts: Counter[tuple[int, int]] = Counter()
        for kernel in self.kernels:
            if kernel.packed or kernel.bits > EIGHT:
                counts[kernel.bits, kernel.container(widths)] += 1
        wider = [f"{n} of {bits} bits in {held}" for (bits, held), n in sorted(counts.items()) if held > bits]
        narrower = [f"{n} of {bits} bits in {held}" for (bits, held), n in sorted(counts.items()) if held < bits]
        notes = [WIDE_NOTE.format(self.wide_ranges)] if self.wide_ranges else []
        notes += [f"kernels stored in more bits than they use: {', '.join(wider)}: {why}"] if wider else []
        return notes + ([f"kernels rounded further than was chosen: {', '.join(narrower)}: {why}"] if narrower else [])


def packed_bytes(integers: Array, bits: int) -> bytes:
    """Integers of 4 or 2 bits, as many to a byte as go into it, the first in the lowest bits; the last byte filled with zeros.

    The layout of TensorFlow Lite's and ONNX's integers of these widths. Raises ToolError for one that is too large.
    """
    flat = integers.astype(np.int64).ravel()
    if flat.size and np.abs(flat).max() > top_of(bits):
        raise ToolError(f"a kernel of more than {bits} bits does not fit into them")
    each = EIGHT // bits
    cells = np.append(flat & (2**bits - 1), np.zeros(-flat.size % each, np.int64)).reshape(-1, each)
    return bytes((cells << (bits * np.arange(each))).sum(1).astype(np.uint8).tobytes())


def key_of(values: Array) -> str:
    """A name for the values of a kernel that does not depend on their order."""
    flat = np.sort(values.astype(np.float32).ravel() + np.float32(0))  # no negative zeros
    return hashlib.sha256(flat.tobytes()).hexdigest()[:24]


def table(model: Any) -> dict[str, Any] | None:
    """The facts of a Keras model that was trained with rounding; None for any other. `own_values`: how many of its values are
    ranges and scales rather than parameters."""
    from converters.compress.fake_quant import FIXED, OFF, FakeQuantize, is_rounded
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
                "bits": layer.weight_bits,
                "packed": layer.packed,
                "size": int(values.size),
            }
        )
    return {
        "weight_bits": max(layer.weight_bits for layer in rounded),
        "granularity": rounded[0].granularity,
        "wide_ranges": [layer.name for layer in ranges if layer.mode == OFF],
        "own_values": 2 * len(ranges) + sum(layer.scales for layer in rounded),
        "kernels": kernels,
    }


def trained_kernels(facts: Mapping[str, Any]) -> Trained | None:
    """What `table` wrote into the facts of a source; None when the model was not trained so."""
    told = facts.get(FACT_TRAINED_RANGES)
    if not told:
        return None
    kernels = tuple(
        TrainedKernel(
            each["name"],
            each["key"],
            _array(each["scales"]),
            _array(each["largest"]),
            each["bits"],
            each["packed"],
            each["size"],
        )
        for each in told["kernels"]
    )
    return Trained(told["weight_bits"], kernels, len(told["wide_ranges"]))


def _text(values: Array) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _array(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), "<f4")
