"""From a Keras layer to the kernel that may be factorized, and from factors back to a chain of Keras layers.

Used by `converters.compress.factorize`. What a layer does beside its kernel (strides, padding, dilation, bias, activation,
dtype policy, whether it is trained) is shared out over the chain so that, at full rank, the chain does exactly the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.compress.decompose import CP, SPATIAL_SVD, SVD, TUCKER, Array
from converters.compress.ranks import Site
from converters.compress.transform_layers import FIXED, is_transform

_ONE_DIMENSION = 1
# Weights of fewer dimensions (scales, shifts, biases) are no kernels.
KERNEL_RANK = 2


def refusal(layer: Any) -> str | None:
    """Why this layer is not factorized, None if it can be, "" if it has no kernel at all that anyone would expect to be."""
    import keras

    kinds = keras.layers
    if type(layer) not in (kinds.Dense, kinds.Conv1D, kinds.Conv2D):
        if all(len(weight.shape) < KERNEL_RANK for weight in layer.trainable_weights):
            return ""
        return f"{type(layer).__name__} is {_kind(layer)}: factorize treats Dense, Conv1D and Conv2D"
    if is_transform(layer):
        return FIXED
    if getattr(layer, "quantization_mode", None):
        return "it is quantized already"
    if layer.lora_enabled:
        return "it is being adapted (LoRA)"
    if layer.kernel_constraint is not None:
        return "its kernel keeps a constraint, which factors cannot"
    if getattr(layer, "groups", 1) > 1:
        return f"its {layer.groups} groups are a factorization already"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "its channels come first"
    if not np.isfinite(_values(layer)).all():
        return "its kernel holds values that are not finite"
    return None


def _kind(layer: Any) -> str:
    import keras

    kinds = keras.layers
    if isinstance(layer, kinds.RNN | kinds.Bidirectional):
        return "recurrent"
    if isinstance(
        layer, kinds.MultiHeadAttention | kinds.GroupQueryAttention | kinds.Attention | kinds.AdditiveAttention
    ):
        return "attention"
    if isinstance(layer, kinds.DepthwiseConv1D | kinds.DepthwiseConv2D | kinds.SeparableConv1D | kinds.SeparableConv2D):
        return "depthwise"
    if not type(layer).__module__.startswith("keras."):
        return "custom"
    return "of another kind"


def site_of(layer: Any) -> Site:
    """The layer's kernel as [height, width, in, out] with strides and sizes of feature maps (free ones as small as they come)."""
    import keras

    kernel = _values(layer)
    if isinstance(layer, keras.layers.Dense):
        return Site(kernel[None, None])
    if len(layer.kernel_size) == _ONE_DIMENSION:
        kernel = kernel[:, None]
    strides = _padded(layer.strides)
    before, after = (_padded(tuple(tensor.shape[1:-1])) for tensor in (layer.input, layer.output))
    # Where a size is free only the ratio of both counts, which the strides give.
    pairs = [
        (stride, 1) if old is None or new is None else (old, new)
        for old, new, stride in zip(before, after, strides, strict=True)
    ]
    (height, height_out), (width, width_out) = pairs
    return Site(kernel, (strides[0], strides[1]), (height, width), (height_out, width_out))


def _values(layer: Any) -> Array:
    return np.asarray(layer.kernel.value).astype(np.float64)


def _padded(pair: tuple[Any, ...]) -> tuple[Any, ...]:
    return pair if len(pair) > 1 else (*pair, 1)


def methods_of(layer: Any, method: str) -> tuple[tuple[str, ...], str]:
    """The methods that may be tried on a layer when `method` was asked for, and why there are none."""
    import keras

    if isinstance(layer, keras.layers.Dense) or max(layer.kernel_size) == 1:
        return (SVD,), ""
    spatial = min(layer.kernel_size) > 1 or len(layer.kernel_size) == _ONE_DIMENSION
    # A kernel of k×1 cannot be taken apart further than the plain SVD does.
    every = (SVD, *((SPATIAL_SVD,) if spatial and len(layer.kernel_size) > 1 else ()), TUCKER)
    reason = _no_cp(layer)
    every = every if reason else (*every, CP)
    if method == "auto":
        return every, ""
    if method == SPATIAL_SVD and method not in every:
        return (SVD,), ""
    return ((method,), "") if method in every else ((), f"no CP: {reason}")


def _no_cp(layer: Any) -> str:
    """Why the depthwise layers of Keras cannot do what CP needs of them."""
    if layer.padding == "causal":
        return "Keras has no causal depthwise convolution"
    if len(set(layer.strides)) > 1:
        return "Keras has no depthwise convolution with strides that differ"
    if min(layer.kernel_size) == 1 and len(layer.kernel_size) > 1:
        return "the kernel is one-dimensional in two"
    return ""


def chain(layer: Any, method: str, factors: tuple[Array, ...]) -> tuple[Any, ...]:
    """Built layers that do what `layer` does with its kernel replaced by the product of `factors`; the last one has its name."""
    import keras

    if isinstance(layer, keras.layers.Dense):
        kernels = [factors[0][0, 0], factors[1][0, 0]]
        parts = [_dense(layer, kernels[0].shape[-1]), _copy(layer, {})]
    else:
        parts, kernels = _CHAINS[method](layer, factors)
        if len(layer.kernel_size) == _ONE_DIMENSION:
            kernels = [kernel[:, 0] for kernel in kernels]
    shape = layer.input.shape
    for part, kernel in zip(parts, kernels, strict=True):
        part.build(shape)
        shape = part.compute_output_shape(shape)
        target = part.kernel
        target.assign(kernel.reshape(tuple(target.shape)))
        part.trainable = layer.trainable
    if layer.use_bias:
        parts[-1].bias.assign(layer.bias)
    return tuple(parts)


def _copy(layer: Any, changes: dict[str, Any]) -> Any:
    """A new layer of the same kind: the last of its chain."""
    return type(layer).from_config(layer.get_config() | changes)


def _dense(layer: Any, rank: int) -> Any:
    import keras

    return keras.layers.Dense(rank, use_bias=False, name=f"{layer.name}_svd", **_common(layer))


def _common(layer: Any) -> dict[str, Any]:
    return {"dtype": layer.dtype_policy, "kernel_regularizer": layer.kernel_regularizer}


_PLAIN = {"strides": 1, "dilation_rate": 1, "padding": "valid"}


def _conv(layer: Any, filters: int, suffix: str, **given: Any) -> Any:
    """A convolution of the layer's dimensions without bias and activation, 1×1 unless `given` says otherwise."""
    options = {"kernel_size": 1, **_PLAIN, **given}
    return type(layer)(filters, use_bias=False, name=f"{layer.name}_{suffix}", **options, **_common(layer))


def _geometry(layer: Any) -> dict[str, Any]:
    names = ("kernel_size", "strides", "dilation_rate", "padding")
    return {name: getattr(layer, name) for name in names}


def _last(layer: Any) -> Any:
    return _copy(layer, {"kernel_size": (1,) * len(layer.kernel_size), **_PLAIN})


def _svd_chain(layer: Any, factors: tuple[Array, ...]) -> tuple[list[Any], list[Array]]:
    return [_conv(layer, factors[0].shape[-1], "svd", **_geometry(layer)), _last(layer)], list(factors)


def _spatial_chain(layer: Any, factors: tuple[Array, ...]) -> tuple[list[Any], list[Array]]:
    """Padding and stride of each direction depend on that direction alone, so they go with it."""
    down, across = _directions(layer)
    vertical = _conv(layer, factors[0].shape[-1], "vertical", **down)
    return [vertical, _copy(layer, across)], list(factors)


def _directions(layer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    geometry = _geometry(layer)
    pairs = {name: value for name, value in geometry.items() if name != "padding"}
    down = {name: (value[0], 1) for name, value in pairs.items()}
    across = {name: (1, value[1]) for name, value in pairs.items()}
    padding = {"padding": geometry["padding"]}
    return down | padding, across | padding


def _tucker_chain(layer: Any, factors: tuple[Array, ...]) -> tuple[list[Any], list[Array]]:
    first = _conv(layer, factors[0].shape[-1], "in")
    core = _conv(layer, factors[1].shape[-1], "core", **_geometry(layer))
    return [first, core, _last(layer)], list(factors)


def _cp_chain(layer: Any, factors: tuple[Array, ...]) -> tuple[list[Any], list[Array]]:
    """Keras's depthwise layers stride alike in both directions, so a strided one does both at once."""
    import keras

    first, vertical, horizontal, last = factors
    options = {"use_bias": False, "dtype": layer.dtype_policy, "depthwise_regularizer": layer.kernel_regularizer}
    if len(layer.kernel_size) == _ONE_DIMENSION:
        middle = [keras.layers.DepthwiseConv1D(name=f"{layer.name}_depthwise", **_geometry(layer), **options)]
        kernels = [vertical * horizontal]
    elif set(layer.strides) != {1}:
        middle = [keras.layers.DepthwiseConv2D(name=f"{layer.name}_depthwise", **_geometry(layer), **options)]
        kernels = [vertical * horizontal]
    else:
        down, across = _directions(layer)
        middle = [
            keras.layers.DepthwiseConv2D(name=f"{layer.name}_vertical", **down, **options),
            keras.layers.DepthwiseConv2D(name=f"{layer.name}_horizontal", **across, **options),
        ]
        kernels = [vertical, horizontal]
    return [_conv(layer, first.shape[-1], "in"), *middle, _last(layer)], [first, *kernels, last]


_CHAINS = {SVD: _svd_chain, SPATIAL_SVD: _spatial_chain, TUCKER: _tucker_chain, CP: _cp_chain}
