"""The grids that kernels are rounded to: how many levels a number of bits has, and which scale loses least.

numpy only. The layers that train on such grids are in `converters.compress.fake_quant`; `converters.compress.mixed_sensitivity` asks
what a kernel would be on another.
"""

from __future__ import annotations

import numpy as np

from converters.compress.context import Array

PER_CHANNEL, PER_TENSOR = "per_channel", "per_tensor"
FULL_BITS = 8  # with fewer, scales other than the largest magnitude's pay
# Narrower ranges would make scales that float32 cannot multiply.
NARROWEST = 1e-6
# A channel's scale is never below this share of the largest one, so that its int32 bias cannot overflow.
SMALLEST_SCALE = 2.0**-12
_FEW_LEVELS = 3


def top_of(bits: int) -> int:
    """The largest of the integers around zero that this many bits have: 127 of 8, 7 of 4, 1 of 2."""
    return int(2 ** (bits - 1) - 1)


def rounded_values(kernel: Array, channels: int, bits: int, granularity: str = PER_CHANNEL) -> Array:
    """A kernel [..., channels] as that many bits give it before any training: float32 of the same shape.

    With 8 bits and more the scale follows the largest magnitude, with fewer it is where the mean squared error is least.
    """
    top, flat = top_of(bits), kernel.reshape(-1, channels).astype(np.float64)
    columns = flat if granularity == PER_CHANNEL else flat.reshape(-1, 1)
    if bits < FULL_BITS:
        scale = least_error_scale(columns, top)
    else:
        scale = np.abs(columns).max(0) / top
        scale = np.maximum(scale, max(float(scale.max()) * SMALLEST_SCALE, NARROWEST))
    return np.asarray((np.clip(np.round(flat / scale), -top, top) * scale).reshape(kernel.shape), np.float32)


def least_error_scale(flat: Array, top: int) -> Array:
    """Of 40 shares of the largest magnitude, the one whose rounding has the least squared error, per column of [n, m]."""
    largest = np.maximum(np.abs(flat).max(0), NARROWEST)
    largest = np.maximum(largest, largest.max() * SMALLEST_SCALE)
    best, error = largest / top, np.full(flat.shape[1], np.inf)
    # With one to three levels on each side most weights lie far below the largest.
    for share in np.linspace(0.25 if top > _FEW_LEVELS else 0.1, 1, 40):
        scale = largest * share / top
        found = ((np.clip(np.round(flat / scale), -top, top) * scale - flat) ** 2).sum(0)
        best, error = np.where(found < error, scale, best), np.minimum(found, error)
    return np.asarray(best)
