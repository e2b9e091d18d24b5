"""MobileNetV1 (Howard et al., arXiv:1704.04861), V2 (Sandler et al., arXiv:1801.04381), V3 small and large (Howard et al., arXiv:1905.02244).

Builders of `converters.networks.catalogue`, each `(images, classes, width, strides) -> logits`. At the papers' size they compute, weight
for weight, what `keras.applications` does, which a test holds them against. They are written out here because that one takes no image below
32 pixels, fixes every stride, and leaves some layers without a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import layers

from converters.networks.parts import activated, convolution, depthwise, head, inverted_residual, scaled


def mobilenet_v1(x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """Thirteen depthwise-separable convolutions."""
    stride = iter(strides)
    x = convolution(x, scaled(32, width), "stem", "relu6", kernel=3, stride=next(stride))
    rows = [(64, False), (128, True), (128, False), (256, True), (256, False), (512, True)]
    rows += [(512, False)] * 5 + [(1024, True), (1024, False)]
    for number, (filters, halves) in enumerate(rows, 1):
        name = f"block{number}"
        x = depthwise(x, f"{name}_depthwise", "relu6", stride=next(stride) if halves else 1)
        x = convolution(x, scaled(filters, width), f"{name}_pointwise", "relu6")
    return head(x, classes, 0.001)


def mobilenet_v2(x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """Seventeen inverted residuals. The last convolution grows with the width and does not shrink, as its paper has it."""
    stride = iter(strides)
    x = convolution(x, scaled(32, width), "stem", "relu6", kernel=3, stride=next(stride))
    stages = [(1, 16, 1, False), (6, 24, 2, True), (6, 32, 3, True), (6, 64, 4, True), (6, 96, 3, False)]
    stages += [(6, 160, 3, True), (6, 320, 1, False)]
    number = 0
    for expansion, filters, blocks, halves in stages:
        for block in range(blocks):
            number += 1
            x = inverted_residual(
                x,
                scaled(filters, width),
                f"block{number}",
                "relu6",
                expanded=expansion * x.shape[-1],
                stride=next(stride) if halves and block == 0 else 1,
            )
    x = convolution(x, scaled(1280, max(1.0, width)), "last", "relu6")
    return head(x, classes, 0.0)


class _Row(NamedTuple):
    """One block of MobileNetV3's tables: its expansion, as the table's channels over the input's at width 1."""

    expansion: float
    filters: int
    kernel: int
    excited: bool
    activation: str
    halves: bool


_R, _H = "relu", "hard_silu"
_SMALL = (
    _Row(1, 16, 3, True, _R, True),
    _Row(72 / 16, 24, 3, False, _R, True),
    _Row(88 / 24, 24, 3, False, _R, False),
    _Row(4, 40, 5, True, _H, True),
    *[_Row(6, 40, 5, True, _H, False)] * 2,
    *[_Row(3, 48, 5, True, _H, False)] * 2,
    _Row(6, 96, 5, True, _H, True),
    *[_Row(6, 96, 5, True, _H, False)] * 2,
)
_LARGE = (
    _Row(1, 16, 3, False, _R, False),
    _Row(4, 24, 3, False, _R, True),
    _Row(3, 24, 3, False, _R, False),
    _Row(3, 40, 5, True, _R, True),
    *[_Row(3, 40, 5, True, _R, False)] * 2,
    _Row(6, 80, 3, False, _H, True),
    _Row(2.5, 80, 3, False, _H, False),
    *[_Row(2.3, 80, 3, False, _H, False)] * 2,
    *[_Row(6, 112, 3, True, _H, False)] * 2,
    _Row(6, 160, 5, True, _H, True),
    *[_Row(6, 160, 5, True, _H, False)] * 2,
)


def mobilenet_v3_small(x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """Eleven blocks."""
    return _mobilenet_v3(x, classes, width, strides, _SMALL, 1024)


def mobilenet_v3_large(x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """Fifteen blocks."""
    return _mobilenet_v3(x, classes, width, strides, _LARGE, 1280)


def _mobilenet_v3(x: Any, classes: int, width: float, strides: Sequence[int], rows: Sequence[_Row], last: int) -> Any:
    """The stem keeps its 16 filters at every width, and the hidden layer before the logits does not shrink below its own."""
    stride = iter(strides)
    x = convolution(x, 16, "stem", "hard_silu", kernel=3, stride=next(stride))
    for number, row in enumerate(rows, 1):
        channels = x.shape[-1]
        expanded = channels if number == 1 else scaled(channels * row.expansion)
        x = inverted_residual(
            x,
            scaled(row.filters, width),
            f"block{number}",
            row.activation,
            expanded=expanded,
            kernel=row.kernel,
            stride=next(stride) if row.halves else 1,
            squeezed=scaled(expanded / 4) if row.excited else 0,
            gate="hard_sigmoid",
        )
    x = convolution(x, scaled(x.shape[-1] * 6), "last", "hard_silu")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = activated(layers.Dense(scaled(last, max(1.0, width)), name="hidden")(x), "hard_silu", "hidden_hard_silu")
    x = layers.Dropout(0.2, name="dropout")(x)
    return layers.Dense(classes, name="logits")(x)
