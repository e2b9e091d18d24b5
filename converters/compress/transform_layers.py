"""The fixed layers that an input transform puts in front of a network: averaging, resizing, gray, Haar's wavelet.

Used by `converters.compress.transform_input`. Only layers of Keras that every format has: pooling, convolutions with weights that are
never trained, and resizing. Their names begin with `PREFIX`, by which later steps know that these weights are not theirs to
change (`is_transform`); the name survives files, what is trained or not may be set anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.compress.context import Array
from converters.errors import RefusedError

PREFIX = "input_transform_"
FIXED = "it is an input transform, whose weights are fixed"
# Rec. ITU-R BT.601-7, section 2.5.1: the share of red, green and blue in the luma.
LUMA = (0.299, 0.587, 0.114)
AVERAGE, LUMA_WEIGHTS, ALL_BANDS = "average", "luma", "all"
IMAGE, SIGNAL = 2, 1
_SMALLEST_BILINEAR = 0.5
# How far 1/scale may be from a whole number: 0.33 means a third.
_WHOLE = 0.05

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """Layers to call one after the other on an input. `weights`: for layers that hold some, by name: the kernel. `expand`: float32
    [channels before, channels after], how a value of the input is told from those of the transform at the same place (a gray picture
    is red, green and blue alike); None where the channels stay. `left_out`: rows and columns that no window covers, by axis."""

    layers: tuple[Any, ...]
    weights: dict[str, Array] = field(default_factory=dict)
    expand: Array | None = None
    left_out: tuple[int, ...] = ()

    def __call__(self, tensor: Any) -> Any:
        """The transformed tensor; the layers have their weights afterwards."""
        for layer in self.layers:
            tensor = layer(tensor)
            if layer.name in self.weights:
                layer.kernel.assign(self.weights[layer.name])
        return tensor


def is_transform(layer: Any) -> bool:
    """Whether a layer is part of an input transform."""
    return str(getattr(layer, "name", "")).startswith(PREFIX)


def lower_resolution(shape: Shape, scale: float, method: str, name: Callable[[str], str]) -> Transform:
    """Fewer rows and columns (or time steps). `shape`: of a row, channels last. `name`: makes a layer's name of a word.

    Averages of windows that do not overlap, for a `scale` of 1/2, 1/3 …; or bilinear interpolation between the (two by two) nearest
    values, their centres kept in line, for a scale from 0.5: below, it would pass over values. Raises RefusedError.
    """
    if method == AVERAGE:
        factor = round(1 / scale)
        if factor < 2 or abs(1 / scale - factor) > _WHOLE:  # noqa: PLR2004  a factor of one changes nothing
            raise RefusedError(
                f"averaging joins whole windows, and {scale:g} is none of 1/2, 1/3, 1/4 …",
                remedy="give 0.5, 0.33, 0.25 …, or method=bilinear",
            )
        return _averaged(shape, factor, name)
    if scale < _SMALLEST_BILINEAR:
        raise RefusedError(
            f"bilinear interpolation to {scale:g} would pass over values: it reads the nearest ones only",
            remedy="give 0.5 or more, or method=average",
        )
    return _interpolated(shape, scale, name)


def _averaged(shape: Shape, factor: int, name: Callable[[str], str]) -> Transform:
    from keras import layers

    sides = shape[:-1]
    _check_sides(sides, factor)
    kind = layers.AveragePooling2D if len(sides) == IMAGE else layers.AveragePooling1D
    pooling = kind(factor, factor, padding="valid", name=name("average"), dtype="float32")
    return Transform((pooling,), left_out=_left_out(sides, factor))


def _interpolated(shape: Shape, scale: float, name: Callable[[str], str]) -> Transform:
    from keras import layers

    sides = tuple(side for side in shape[:-1] if side is not None)
    if len(sides) < len(shape) - 1:
        raise RefusedError("bilinear interpolation needs an input of fixed size", remedy="take method=average")
    new = tuple(max(1, round(side * scale)) for side in sides)
    if new == sides:
        raise RefusedError(f"at {scale:g} of its size the input {sides} would stay as it is")
    # Keras resizes images only: a signal is an image of one column.
    resizing = layers.Resizing(*new, name=name("bilinear"), dtype="float32") if len(new) == IMAGE else None
    if resizing is not None:
        return Transform((resizing,))
    channels = shape[-1]
    return Transform(
        (
            layers.Reshape((sides[0], 1, channels), name=name("column"), dtype="float32"),
            layers.Resizing(new[0], 1, name=name("bilinear"), dtype="float32"),
            layers.Reshape((new[0], channels), name=name("signal"), dtype="float32"),
        )
    )


def grayscale(shape: Shape, weights: str, name: Callable[[str], str]) -> Transform:
    """One channel of several: the luma of red, green and blue, or a mix that is trained on (begun at the luma, or at the mean where
    there are not three channels). Raises RefusedError for what has one channel already, or is no image."""
    from keras import layers

    channels = shape[-1]
    if len(shape) - 1 != IMAGE:
        raise RefusedError("grayscale is for images, and this input is a signal")
    if channels is None or channels == 1:
        raise RefusedError("the images have one channel already: there is no colour to leave out")
    if weights == LUMA_WEIGHTS and channels != len(LUMA):
        raise RefusedError(
            f"the luma is made of red, green and blue, and the images have {channels} channels",
            remedy="take weights=trained",
        )
    mix = LUMA if channels == len(LUMA) else (1 / channels,) * channels
    trained = weights != LUMA_WEIGHTS
    layer = layers.Conv2D(1, 1, use_bias=False, name=name("gray"), dtype="float32", trainable=trained)
    kernel = np.asarray(mix, np.float32).reshape(1, 1, channels, 1)
    return Transform((layer,), {layer.name: kernel}, np.ones((channels, 1), np.float32))


def haar(shape: Shape, bands: str, name: Callable[[str], str]) -> Transform:
    """One level of Haar's wavelet: the low band alone, or all bands (low; then, of an image, what changes along the columns, along
    the rows, along both) of each channel, side by side, at half the resolution.

    Low is the mean of each window and the others are halved (or quartered) differences, so values stay in the input's range; the
    orthonormal transform is the same times √2 per axis. Raises RefusedError for sides below two.
    """
    from keras import layers

    sides, channels = shape[:-1], shape[-1]
    if channels is None:
        raise RefusedError("the input leaves the number of its channels free")
    _check_sides(sides, 2)
    filters = haar_filters(len(sides))[..., : 2 ** len(sides) if bands == ALL_BANDS else 1]
    count = filters.shape[-1]
    settings = {"padding": "valid", "use_bias": False, "name": name("haar"), "dtype": "float32", "trainable": False}
    image = len(sides) == IMAGE
    if channels == 1:
        plain = layers.Conv2D if image else layers.Conv1D
        layer = plain(count, 2, 2, **settings)
    else:
        depthwise = layers.DepthwiseConv2D if image else layers.DepthwiseConv1D
        layer = depthwise(2, 2, depth_multiplier=count, **settings)
    kernel = np.repeat(filters[..., None, :], channels, axis=-2)
    expand = None
    if count > 1:
        # The low band stands for the channel; the network has not seen the others before.
        expand = np.kron(np.eye(channels), np.eye(1, count)).astype(np.float32)
    return Transform((layer,), {layer.name: kernel}, expand, _left_out(sides, 2))


def haar_filters(axes: int) -> Array:
    """The filters of one level, float32 [2] * axes + [2 ** axes], the low band first; of two axes (rows, columns) then the
    difference along columns, along rows, along both."""
    low, high = np.array([0.5, 0.5]), np.array([0.5, -0.5])
    if axes == SIGNAL:
        return np.stack([low, high], -1).astype(np.float32)
    pairs = ((low, low), (low, high), (high, low), (high, high))
    return np.stack([np.outer(rows, columns) for rows, columns in pairs], -1).astype(np.float32)


def _check_sides(sides: Shape, factor: int) -> None:
    if any(side is not None and side < factor for side in sides):
        raise RefusedError(f"the input of {' × '.join(str(side) for side in sides)} is smaller than one window")


def _left_out(sides: Shape, factor: int) -> tuple[int, ...]:
    return tuple(0 if side is None else side % factor for side in sides)
