"""Builds a network of the catalogue for an input of any size: checks the wish, chooses the strides, adds the resolution multiplier.

Between `converters.networks.catalogue` and the builders, one module per family. Keras is imported at call time only.

Strides. The networks were made for 224 × 224 pixels and halve them five times, to 7 × 7; the smallest input in their papers,
96 × 96, ends as 3 × 3. Of a 28 × 28 image nothing would be left after that. So halvings are left out, the earliest first (the stem's,
then that of the first stage), until the shorter side keeps `LEAST_SIDE` pixels or more before rounding up: 28 and 32 pixels are halved
three times and end as 4 × 4, 64 pixels four times. From 96 pixels on all strides are the paper's. Weights keep their shapes, so the
number of parameters does not depend on the size of the input; the number of products does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from converters.errors import ConversionInputError
from converters.networks.catalogue import network

LEAST_SIDE = 3
MOST_WIDTH, MOST_RESOLUTION = 4.0, 4.0
_RANK = 3
_SEED_RANGE = 2**32


def build(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    resolution: float = 1.0,
    *,
    seed: int | None = None,
) -> Any:
    """A new `keras.Model`: input "image" float32 [n, *input_shape], output "logits" float32 [n, classes], weights begun anew.

    `input_shape`: (height, width, channels) of the images as they come. `width` multiplies the channels as the network's paper says,
    0 < width ≤ 4. `resolution` multiplies the sides, 0 < resolution ≤ 4: the first layers then resize the images (means of whole patches,
    and bilinear where that does not come out even), so that data and devices need not know. The same `seed` gives the same
    weights; with None they follow Keras's own state. Names of layers depend on the network alone.

    Raises ConversionInputError for an unknown name and for a number that makes no sense. Nothing is ever downloaded.
    """
    found = network(name)
    _check(input_shape, classes, width, resolution)
    import keras

    if seed is not None:
        keras.utils.set_random_seed(seed % _SEED_RANGE)
    image = keras.Input(tuple(input_shape), name="image")
    x = resized(image, resolution)
    module, _, function = found.target.partition(":")
    builder: Callable[..., Any] = getattr(importlib.import_module(module), function)
    logits = builder(x, classes, width, strides(min(x.shape[1:3]), found.reductions))
    return keras.Model(image, logits, name=name)


def strides(side: int, reductions: int) -> tuple[int, ...]:
    """The strides, 1 or 2, of a network's `reductions` halvings in order, for an input whose shorter side is `side` pixels."""
    left = reductions
    while left and side / 2**left < LEAST_SIDE:
        left -= 1
    return (1,) * (reductions - left) + (2,) * left


def resized(image: Any, resolution: float) -> Any:
    """The images with their sides times `resolution`, rounded, at least one pixel."""
    from keras import layers

    sides = [int(side) for side in image.shape[1:3]]
    wanted = [max(1, round(side * resolution)) for side in sides]
    # Bilinear interpolation reads the nearest pixels only and would pass over the others: first the means of as many as fit.
    patch = [max(1, side // new) for side, new in zip(sides, wanted, strict=True)]
    if max(patch) > 1:
        image = layers.AveragePooling2D(patch, name="resize_mean")(image)
    if list(image.shape[1:3]) != wanted:
        image = layers.Resizing(*wanted, interpolation="bilinear", name="resize")(image)
    return image


def _check(input_shape: Sequence[int], classes: int, width: float, resolution: float) -> None:
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in input_shape)
    if len(input_shape) != _RANK or not whole:
        raise ConversionInputError(
            f"the input {tuple(input_shape)} is no (height, width, channels)", remedy="for example 28x28x1"
        )
    if classes < 1:
        raise ConversionInputError(f"{classes} classes: at least one is needed")
    for what, value, most in (("width", width, MOST_WIDTH), ("resolution", resolution, MOST_RESOLUTION)):
        if not 0 < value <= most:
            raise ConversionInputError(f"{what} is {value:g}, but must be above 0 and at most {most:g}")
