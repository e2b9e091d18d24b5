"""What the compact networks are made of: convolution with batch normalization, inverted residuals, squeeze-and-excitation, the head.

Imported by the builders, so by a worker only: Keras at import. Standard layers with names of their own, `padding="same"` throughout (for
even sides that is what explicit padding before a "valid" stride does), so that every exporter and every compression step knows them.
"""

from __future__ import annotations

from typing import Any

from keras import layers

DIVISOR = 8
_MOST_LOST = 0.9
# Keras's own networks take 0.999, for long trainings on millions of images; with that, the statistics of a few hundred steps say nothing.
# After one epoch of 85 steps MobileNetV1, 27 batch norms in a row, still answered by chance with 0.95, and 65 % rightly with 0.9.
MOMENTUM, EPSILON = 0.9, 1e-3


def scaled(channels: float, width: float = 1.0, divisor: int = DIVISOR) -> int:
    """`channels` × `width`, rounded to a multiple of `divisor`, not more than a tenth less than exact (Sandler et al.'s code)."""
    exact = channels * width
    found = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return found + divisor if found < _MOST_LOST * exact else found


def normalized(x: Any, name: str, activation: str | None) -> Any:
    """Batch normalization and then "relu", "relu6", "hard_silu", or None for nothing."""
    x = layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=f"{name}_bn")(x)
    return x if activation is None else activated(x, activation, f"{name}_{activation}")


def activated(x: Any, activation: str, name: str) -> Any:
    """The activation as a layer."""
    if activation == "relu6":
        return layers.ReLU(max_value=6.0, name=name)(x)
    return layers.ReLU(name=name)(x) if activation == "relu" else layers.Activation(activation, name=name)(x)


def convolution(
    x: Any, filters: int, name: str, activation: str | None, *, kernel: int = 1, stride: int = 1, bias: bool = False
) -> Any:
    """A convolution with batch normalization."""
    layer = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=bias, name=name)
    return normalized(layer(x), name, activation)


def depthwise(x: Any, name: str, activation: str | None, *, kernel: int = 3, stride: int = 1) -> Any:
    """A depthwise convolution with batch normalization."""
    layer = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=name)
    return normalized(layer(x), name, activation)


def squeeze_excite(x: Any, reduced: int, gate: str, name: str) -> Any:
    """Each channel times a number in 0..1 that all channels' means decide; `reduced` channels between (Hu et al., arXiv:1709.01507)."""
    channels = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    y = layers.ReLU(name=f"{name}_reduce_relu")(layers.Conv2D(reduced, 1, name=f"{name}_reduce")(y))
    y = layers.Activation(gate, name=f"{name}_gate")(layers.Conv2D(channels, 1, name=f"{name}_expand")(y))
    return layers.Multiply(name=f"{name}_excite")([x, y])


def inverted_residual(
    x: Any,
    filters: int,
    name: str,
    activation: str,
    *,
    expanded: int,
    kernel: int = 3,
    stride: int = 1,
    squeezed: int = 0,
    gate: str = "sigmoid",
) -> Any:
    """Expand to `expanded` channels, convolve each alone, project to `filters` without an activation; the input is added where it fits.

    `squeezed`: channels between squeeze and excitation, 0 for none. Where `expanded` is the input's channels there is no expansion.
    Sandler et al., arXiv:1801.04381.
    """
    y = x if expanded == x.shape[-1] else convolution(x, expanded, f"{name}_expand", activation)
    y = depthwise(y, f"{name}_depthwise", activation, kernel=kernel, stride=stride)
    if squeezed:
        y = squeeze_excite(y, squeezed, gate, f"{name}_se")
    y = convolution(y, filters, f"{name}_project", None)
    return layers.Add(name=f"{name}_add")([x, y]) if stride == 1 and x.shape[-1] == filters else y


def head(x: Any, classes: int, dropout: float) -> Any:
    """The mean over all positions, dropout, and one logit per class; `dropout` 0 for none."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(classes, name="logits")(x)
