"""ShuffleNetV2 (Ma et al., arXiv:1807.11164): a builder of `converters.networks.catalogue`, `(images, classes, width, strides) -> logits`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from converters.networks.parts import convolution, depthwise, head

_STEM = 24
_BLOCKS = (4, 8, 4)
# Channels of the first stage at the widths of the paper's table 5; each further stage has twice as many.
_PUBLISHED = {0.0: 0, 0.5: 48, 1.0: 116, 1.5: 176, 2.0: 244}
_LAST, _WIDE_LAST = 1024, 2048
_GROUPS = 2


def shufflenet_v2(x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """Sixteen units in three stages. Between the published widths the channels are interpolated."""
    stride = iter(strides)
    x = convolution(x, _STEM, "stem", "relu", kernel=3, stride=next(stride))
    if next(stride) == 2:  # noqa: PLR2004
        x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    for stage, blocks in enumerate(_BLOCKS):
        filters = stage_filters(width) * 2**stage
        x = _first(x, filters, f"stage{stage + 2}_unit1", next(stride))
        for unit in range(2, blocks + 1):
            x = _further(x, filters, f"stage{stage + 2}_unit{unit}")
    last = _WIDE_LAST if width >= max(_PUBLISHED) else _LAST
    return head(convolution(x, last, "last", "relu"), classes, 0.0)


def stage_filters(width: float) -> int:
    """Channels of the first stage: a multiple of four, so that its halves can be shuffled by pairs."""
    widest = max(_PUBLISHED)
    exact = np.interp(min(width, widest), list(_PUBLISHED), list(_PUBLISHED.values())) * max(1.0, width / widest)
    return max(4, round(float(exact) / 4) * 4)


def _first(x: Any, filters: int, name: str, stride: int) -> Any:
    """The unit that halves: both branches take all channels."""
    left = depthwise(x, f"{name}_left_depthwise", None, stride=stride)
    left = convolution(left, filters // 2, f"{name}_left", "relu")
    return _shuffled([left, _branch(x, filters // 2, name, stride)], name)


def _further(x: Any, filters: int, name: str) -> Any:
    """The unit that keeps the size: one half of the channels passes as it is."""
    half = filters // 2
    return _shuffled(
        [_half(x, 0, half, f"{name}_keep"), _branch(_half(x, half, 0, f"{name}_take"), half, name, 1)], name
    )


def _branch(x: Any, filters: int, name: str, stride: int) -> Any:
    x = convolution(x, filters, f"{name}_enter", "relu")
    x = depthwise(x, f"{name}_depthwise", None, stride=stride)
    return convolution(x, filters, f"{name}_leave", "relu")


def _half(x: Any, before: int, after: int, name: str) -> Any:
    """The channels without the first `before` and the last `after`.

    Keras has no layer that splits channels. Seen as "channels first", the last two axes of an image are what this one crops.
    """
    return layers.Cropping2D(((0, 0), (before, after)), data_format="channels_first", name=name)(x)


def _shuffled(halves: list[Any], name: str) -> Any:
    """The halves joined, their channels taken in turns."""
    x = layers.Concatenate(name=f"{name}_join")(halves)
    height, breadth, channels = x.shape[1:]
    x = layers.Reshape((height, breadth, _GROUPS, channels // _GROUPS), name=f"{name}_groups")(x)
    x = layers.Permute((1, 2, 4, 3), name=f"{name}_shuffle")(x)
    return layers.Reshape((height, breadth, channels), name=f"{name}_shuffled")(x)
