"""MnasNet-A1 (Tan et al., arXiv:1807.11626) and EfficientNet-Lite 0 to 4 (Tan and Le, arXiv:1905.11946, without squeeze-and-excitation).

Builders of `converters.networks.catalogue`, each `(images, classes, width, strides) -> logits`: stages of inverted residuals by a table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from converters.networks.parts import convolution, depthwise, head, inverted_residual, scaled

EXCITATION = 0.25


class _Stage(NamedTuple):
    """Blocks of one kind; the first may halve."""

    expansion: int
    filters: int
    blocks: int
    kernel: int
    halves: bool
    excited: bool = False


_MNASNET = (
    _Stage(6, 24, 2, 3, halves=True),
    _Stage(3, 40, 3, 5, halves=True, excited=True),
    _Stage(6, 80, 4, 3, halves=True),
    _Stage(6, 112, 2, 3, halves=False, excited=True),
    _Stage(6, 160, 3, 5, halves=True, excited=True),
    _Stage(6, 320, 1, 3, halves=False),
)
_LITE = (
    _Stage(1, 16, 1, 3, halves=False),
    _Stage(6, 24, 2, 3, halves=True),
    _Stage(6, 40, 2, 5, halves=True),
    _Stage(6, 80, 3, 3, halves=True),
    _Stage(6, 112, 3, 5, halves=False),
    _Stage(6, 192, 4, 5, halves=True),
    _Stage(6, 320, 1, 3, halves=False),
)
# Width and depth of EfficientNet-Lite 0 to 4.
_COMPOUND = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


def mnasnet(x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """A separable convolution and fifteen inverted residuals. Excitation has a quarter of a block's input channels between."""
    x = convolution(x, scaled(32, width), "stem", "relu", kernel=3, stride=strides[0])
    x = depthwise(x, "block1_depthwise", "relu")
    x = convolution(x, scaled(16, width), "block1_project", None)
    x = _stages(x, _MNASNET, width, strides[1:], "relu", first=2)
    x = convolution(x, scaled(1280, max(1.0, width)), "last", "relu")
    return head(x, classes, 0.2)


def _stages(
    x: Any, stages: Sequence[_Stage], width: float, strides: Sequence[int], activation: str, *, first: int = 1
) -> Any:
    stride, number = iter(strides), first
    for stage in stages:
        for block in range(stage.blocks):
            channels = x.shape[-1]
            x = inverted_residual(
                x,
                scaled(stage.filters, width),
                f"block{number}",
                activation,
                expanded=stage.expansion * channels,
                kernel=stage.kernel,
                stride=next(stride) if stage.halves and block == 0 else 1,
                squeezed=max(1, int(channels * EXCITATION)) if stage.excited else 0,
            )
            number += 1
    return x


def _lite(number: int, x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """Compound scaling leaves stem, head and the depth of the first and last stage alone; `width` spares only the head, below 1."""
    own, depth = _COMPOUND[number]
    ends = (_LITE[0], _LITE[-1])
    stages = [stage if stage in ends else stage._replace(blocks=math.ceil(depth * stage.blocks)) for stage in _LITE]
    # Two roundings, as two scalings: the network's own channels first, then the user's share of them.
    stages = [stage._replace(filters=scaled(stage.filters, own)) for stage in stages]
    x = convolution(x, scaled(32, width), "stem", "relu6", kernel=3, stride=strides[0])
    x = _stages(x, stages, width, strides[1:], "relu6")
    x = convolution(x, scaled(1280, max(1.0, width)), "last", "relu6")
    return head(x, classes, 0.2)


efficientnet_lite0 = functools.partial(_lite, 0)
efficientnet_lite1 = functools.partial(_lite, 1)
efficientnet_lite2 = functools.partial(_lite, 2)
efficientnet_lite3 = functools.partial(_lite, 3)
efficientnet_lite4 = functools.partial(_lite, 4)
