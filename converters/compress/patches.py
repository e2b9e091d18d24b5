"""What a convolution or dense layer multiplies, as matrices: patches of its input, and its kernel in the same order.

Used by `converters.compress.rounding`, for which every layer is so many products of matrices: [groups, patches, values] times
[groups, values, channels], where a depthwise layer has a group per input channel and any other layer one. numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.compress.context import Array

Positions = tuple[npt.NDArray[np.int64], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """How a layer walks over its input. `sizes`, `strides`, `dilations`: per spatial axis (none for a dense layer). `padding`:
    "valid", "same" or "causal". `depthwise`: whether each input channel has kernels of its own."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str
    depthwise: bool


def window_of(layer: Any) -> Window:
    """The window of a Keras layer Conv1D, Conv2D, DepthwiseConv1D, DepthwiseConv2D or Dense, or one that inherits from it."""
    if not hasattr(layer, "kernel_size"):
        return Window((), (), (), "valid", depthwise=False)
    return Window(
        tuple(int(size) for size in layer.kernel_size),
        tuple(int(stride) for stride in layer.strides),
        tuple(int(step) for step in layer.dilation_rate),
        layer.padding,
        hasattr(layer, "depth_multiplier"),
    )


def chosen_positions(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> Positions:
    """So many places of an output [rows, …, channels], or all of them where there are fewer: indices for all axes but the last."""
    places = int(np.prod(shape[:-1]))
    flat = np.arange(places) if places <= count else np.sort(rng.choice(places, count, replace=False))
    return tuple(np.asarray(axis, np.int64) for axis in np.unravel_index(flat, shape[:-1]))


def patches(inputs: Array, window: Window, positions: Positions) -> Array:
    """float32 [groups, patches, values] of an input [rows, …, channels] at those places of the output."""
    if not window.sizes:
        return np.ascontiguousarray(inputs[positions], np.float32)[None]
    pads = [(0, 0), *(_pad(inputs.shape[1 + axis], window, axis) for axis in range(len(window.sizes))), (0, 0)]
    padded = np.pad(np.asarray(inputs, np.float32), pads)
    parts = []
    for offset in np.ndindex(*window.sizes):
        where = [
            positions[1 + axis] * window.strides[axis] + offset[axis] * window.dilations[axis]
            for axis in range(len(window.sizes))
        ]
        parts.append(padded[(positions[0], *where)])
    stacked = np.stack(parts, axis=1)  # [patches, offsets, channels]
    if window.depthwise:
        return np.ascontiguousarray(stacked.transpose(2, 0, 1))
    return stacked.reshape(1, len(stacked), -1)


def _pad(size: int, window: Window, axis: int) -> tuple[int, int]:
    reach = (window.sizes[axis] - 1) * window.dilations[axis]
    if window.padding == "causal":
        return reach, 0
    if window.padding == "valid":
        return 0, 0
    outputs = -(-size // window.strides[axis])
    missing = max((outputs - 1) * window.strides[axis] + reach + 1 - size, 0)
    return missing // 2, missing - missing // 2


def as_matrices(kernel: Array, window: Window) -> Array:
    """A kernel as [groups, values, channels of a group], to be multiplied with `patches`."""
    if not window.depthwise:
        return kernel.reshape(1, -1, kernel.shape[-1])
    channels, multiplier = kernel.shape[-2:]
    return np.ascontiguousarray(kernel.reshape(-1, channels, multiplier).transpose(1, 0, 2))


def as_kernel(matrices: Array, window: Window, shape: tuple[int, ...]) -> Array:
    """Inverse of `as_matrices`."""
    return matrices.reshape(shape) if not window.depthwise else matrices.transpose(1, 0, 2).reshape(shape)


def by_group(values: Array, window: Window, groups: int) -> Array:
    """Values [n, channels] of a layer's output as [groups, n, channels of a group]."""
    if not window.depthwise:
        return values[None]
    return np.ascontiguousarray(values.reshape(len(values), groups, -1).transpose(1, 0, 2))
