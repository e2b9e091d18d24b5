"""SqueezeNet 1.0 (Iandola et al., arXiv:1602.07360): a builder of `converters.networks.catalogue`, `(images, classes, width, strides) -> logits`.

Without batch normalization, as in the paper, so its kernels begin as He et al. (arXiv:1502.01852) have them. The last convolution has no
ReLU (the authors' code has one): logits that cannot be negative teach little in distillation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from converters.networks.parts import scaled

# Squeezed channels; the two expansions have four times as many each.
_FIRES = (16, 16, 32, 32, 48, 48, 64, 64)
# Fire modules after which the paper pools; its first is called fire2.
_POOLED = (4, 8)


def squeezenet(x: Any, classes: int, width: float, strides: Sequence[int]) -> Any:
    """Eight fire modules between two convolutions, mean over positions at the end."""
    stride = iter(strides)
    x = _convolved(x, scaled(96, width), 7, "stem", stride=next(stride))
    x = _pooled(x, next(stride), "pool1")
    for number, squeezed in enumerate(_FIRES, 2):
        x = _fire(x, scaled(squeezed, width), scaled(4 * squeezed, width), f"fire{number}")
        if number in _POOLED:
            x = _pooled(x, next(stride), f"pool{number}")
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Conv2D(classes, 1, kernel_initializer="he_normal", name="last")(x)
    return layers.GlobalAveragePooling2D(name="logits")(x)


def _convolved(x: Any, filters: int, kernel: int, name: str, *, stride: int = 1) -> Any:
    layer = layers.Conv2D(filters, kernel, stride, padding="same", kernel_initializer="he_normal", name=name)
    return layers.ReLU(name=f"{name}_relu")(layer(x))


def _fire(x: Any, squeezed: int, expanded: int, name: str) -> Any:
    x = _convolved(x, squeezed, 1, f"{name}_squeeze")
    sides = [_convolved(x, expanded, size, f"{name}_expand{size}") for size in (1, 3)]
    return layers.Concatenate(name=f"{name}_join")(sides)


def _pooled(x: Any, stride: int, name: str) -> Any:
    """Pooling halves; where nothing is to be halved it would only blur."""
    return x if stride == 1 else layers.MaxPooling2D(3, stride, padding="same", name=name)(x)
