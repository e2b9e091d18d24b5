"""Keras layers that round as integer kernels will: ranges of activations, and layers whose weights have few levels.

The building blocks of `converters.compress.quantize_aware`. While a model trains, rounding lets gradients through unchanged
(straight-through estimator: Bengio et al., arXiv:1308.3432); when training is over, `settled` gives layers whose ranges are
constants and whose weights lie on their grid, which trace to `FakeQuantWithMinMaxVars` and plain constants. Imported by workers
only, before such a model is loaded: the classes register themselves with Keras.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from converters.compress import live_norm
from converters.compress.grids import NARROWEST, PER_CHANNEL, SMALLEST_SCALE, least_error_scale, top_of

PACKAGE = "ondevice_harness"
LEVELS = 255  # of activations: 8 bits, whether an engine counts them from 0 or from −128
MOMENTUM = 0.98
OFF, MOVING, LEARNED, FIXED = "off", "moving", "learned", "fixed"
LARGEST = "largest"  # of weights: the scale follows the largest magnitude


def nudged(low: float, high: float) -> tuple[float, float]:
    """The range that 256 levels span with zero exactly on one of them, as near as can be: (−z·s, (255 − z)·s).

    Jacob et al., arXiv:1712.05877, section 3; what every engine makes of minimum and maximum.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max(high - low, NARROWEST) / LEVELS)
    zero = float(np.clip(np.round(-low / scale), 0, LEVELS))
    return float(np.float32(-zero * scale)), float(np.float32((LEVELS - zero) * scale))


def _rounded(x: Any) -> Any:
    """round(x), with the gradient of x."""
    return x + tf.stop_gradient(tf.round(x) - x)


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantize(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Rounds a tensor to 256 levels of its range. Called on several tensors, it gives them one range.

    `mode`: "off" (passes everything on), "moving" (range from moving averages of each batch's extremes, as in Jacob et al.),
    "learned" (the step between levels is trained, zero's place among them is not: Esser et al., arXiv:1902.08153), "fixed".
    `low`, `high`: the range as float32 scalars. In "learned" the step is trained as a logarithm, so that one update
    changes it by a share of itself.
    """

    built: bool

    def __init__(self, mode: str = OFF, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mode = mode

    def build(self, _shape: Any) -> None:
        """Make the range's variables."""
        if self.built:
            return
        options = {"shape": (), "dtype": "float32", "autocast": False}
        self.low = self.add_weight(name="low", initializer="zeros", trainable=False, **options)
        self.high = self.add_weight(name="high", initializer="ones", trainable=False, **options)
        if self.mode == LEARNED:
            self.log_step = self.add_weight(name="log_step", initializer="zeros", **options)
            self.zero = self.add_weight(name="zero", initializer="zeros", trainable=False, **options)
        self.built = True

    def set_range(self, low: float, high: float) -> None:
        """Begin with this range, or end with it."""
        low, high = nudged(low, high)
        self.low.assign(low)
        self.high.assign(high)
        if self.mode == LEARNED:
            step = (high - low) / LEVELS
            self.log_step.assign(np.log(step))
            self.zero.assign(np.round(-low / step))

    def found_range(self) -> tuple[float, float]:
        """The range that the training has come to."""
        if self.mode == LEARNED:
            step, zero = float(np.exp(self.log_step.numpy())), float(self.zero.numpy())
            return nudged(-zero * step, (LEVELS - zero) * step)
        return nudged(float(self.low.numpy()), float(self.high.numpy()))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The tensor of the same shape and dtype, rounded."""
        if self.mode == OFF:
            return inputs
        x = tf.cast(inputs, tf.float32)
        if self.mode == LEARNED:
            step = tf.exp(self.log_step.value)
            zero = self.zero.value
            y = (_rounded(tf.clip_by_value(x / step + zero, 0.0, float(LEVELS))) - zero) * step
        else:
            if self.mode == MOVING and training:
                self._observe(x)
            low, high = self.low.value, self.high.value
            if self.mode == MOVING:
                low, high = tf.minimum(low, 0.0), tf.maximum(high, NARROWEST)
            y = tf.quantization.fake_quant_with_min_max_vars(x, low, high)
        return tf.cast(y, inputs.dtype)

    def _observe(self, x: Any) -> None:
        for variable, seen in ((self.low, tf.reduce_min(x)), (self.high, tf.reduce_max(x))):
            # A step that overflowed under a loss scale must not spoil the average.
            seen = tf.where(tf.math.is_finite(seen), seen, variable.value)  # noqa: PLW2901
            variable.assign(MOMENTUM * variable.value + (1 - MOMENTUM) * seen)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments."""
        return {**super().get_config(), "mode": self.mode}


class _RoundedKernel:
    """What the layers below share: a kernel of 2^bits − 1 levels around zero, one scale per output channel or for all.

    `weight_mode`: "largest" (scale from the largest magnitude), "learned" (trained as in `FakeQuantize`, begun where the mean
    squared error is least) or "fixed" (the kernel lies on its grid). `has_gain`: the kernel is multiplied by a constant per
    channel after rounding, so that a batch norm folded into it does not tear shared values apart. `norm`: arguments of the batch norm
    that follows while training lasts (`converters.compress.live_norm`), before the layer's own activation. `packed`: exporters store the
    kernel in as few bits as their format has for it, not in those of the recipe. `kernel_scale`: float32 [channels] or [1],
    valid when "fixed".
    """

    # What the layer of Keras brings that each class below also inherits from.
    from_config: ClassVar[Any]
    kernel: Any
    bias: Any
    use_bias: bool
    activation: Any
    compute_dtype: str
    weights: list[Any]
    strides: Any
    padding: str
    dilation_rate: Any

    def __init__(
        self,
        *args: Any,
        weight_bits: int = 8,
        granularity: str = PER_CHANNEL,
        weight_mode: str = LARGEST,
        has_gain: bool = False,
        norm: dict[str, float] | None = None,
        packed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight_bits, self.granularity = weight_bits, granularity
        self.weight_mode, self.has_gain, self.norm, self.packed = weight_mode, has_gain, norm, packed

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """As a layer's, but in float32 under any policy: scales need it."""
        kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)  # type: ignore[misc]

    def build(self, input_shape: Any) -> None:
        """Make the variables."""
        super().build(input_shape)  # type: ignore[misc]
        options = {"dtype": "float32", "shape": (self.scales,)}
        self.kernel_scale = self.add_weight(name="kernel_scale", initializer="ones", trainable=False, **options)
        if self.weight_mode == LEARNED:
            self.log_kernel_step = self.add_weight(name="log_kernel_step", initializer="zeros", **options)
        if self.has_gain:
            self.gain = self.add_weight(
                name="gain", initializer="ones", trainable=False, shape=(self.channels,), dtype="float32"
            )
        self.live_norm = live_norm.LiveNorm(self, self.channels, **self.norm) if self.norm else None

    def save_own_variables(self, store: Any) -> None:
        """Into a .keras file; convolutions of Keras would write kernel and bias only."""
        for variable in self.weights:
            store[variable.name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """What `save_own_variables` wrote."""
        for variable in self.weights:
            variable.assign(store[variable.name])

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return int(np.prod(self.kernel.shape)) // int(np.prod(self.kernel.shape[: self.shared_axes]))

    @property
    def shared_axes(self) -> int:
        """How many leading axes of the kernel share a channel's scale."""
        return len(self.kernel.shape) - 1

    @property
    def scales(self) -> int:
        """Number of scales."""
        return self.channels if self.granularity == PER_CHANNEL else 1

    @property
    def top(self) -> int:
        """The largest integer: 127 of 8 bits, 7 of 4."""
        return top_of(self.weight_bits)

    def rounded_kernel(self, *, training: bool) -> Any:
        """The kernel as the integers give it, in the layer's compute dtype."""
        kernel = self.kernel
        if self.weight_mode != FIXED or training:
            flat = tf.cast(tf.reshape(kernel, (-1, self.channels)), tf.float32)
            scale = self._scale(flat)
            flat = _rounded(tf.clip_by_value(flat / scale, -float(self.top), float(self.top))) * scale
            kernel = tf.reshape(flat * self.gain.value if self.has_gain else flat, kernel.shape)
        return tf.cast(kernel, self.compute_dtype)

    def _scale(self, flat: Any) -> Any:
        """Scales [channels] or [1] of a kernel [n, channels]."""
        if self.weight_mode == FIXED:
            return self.kernel_scale.value
        if self.weight_mode == LEARNED:
            return tf.exp(self.log_kernel_step.value)
        largest = tf.reduce_max(tf.abs(flat), axis=0 if self.granularity == PER_CHANNEL else None)
        scale = tf.reshape(largest / float(self.top), (-1,))
        return tf.stop_gradient(tf.maximum(scale, tf.maximum(tf.reduce_max(scale) * SMALLEST_SCALE, NARROWEST)))

    def begin(self) -> None:
        """Choose where learned steps begin."""
        if self.weight_mode != LEARNED:
            return
        flat = self.kernel.numpy().reshape(-1, self.channels).astype(np.float64)
        if self.granularity != PER_CHANNEL:
            flat = flat.reshape(-1, 1)
        self.log_kernel_step.assign(np.log(least_error_scale(flat, self.top)))

    def settle(self, trained: Any) -> None:
        """Take over from the layer that was trained: the kernel on its grid, and the scales of that grid."""
        kernel = trained.kernel.numpy()
        flat = kernel.reshape(-1, self.channels).astype(np.float32)
        scale = np.asarray(trained._scale(tf.constant(flat)).numpy())  # noqa: SLF001  its own class
        integers = np.clip(np.round(flat / scale), -self.top, self.top)
        bias = trained.bias.numpy() if trained.use_bias else np.zeros(self.channels, np.float32)
        gain, shift = (trained.gain.numpy() if trained.has_gain else None), np.zeros(self.channels, np.float32)
        if trained.live_norm is not None:
            gain, shift = trained.live_norm.folded()
            bias = bias * gain
        if gain is not None:
            # A scale is positive: a negative gain turns the integers' signs.
            integers, scale = integers * np.sign(gain), np.maximum(scale * np.abs(gain), NARROWEST * SMALLEST_SCALE)
        self.kernel_scale.assign(scale)
        self.kernel.assign((integers.astype(np.float32) * scale).reshape(kernel.shape))
        if self.use_bias:
            self.bias.assign(bias + shift)

    def biased(self, outputs: Any, *, training: bool) -> Any:
        """Bias, batch norm and activation."""
        if self.use_bias:
            outputs = outputs + tf.cast(self.bias.value, outputs.dtype)
        if self.live_norm is not None:
            outputs = self.live_norm(outputs, training=training)
        return self.activation(outputs) if self.activation is not None else outputs

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments."""
        own = ("weight_bits", "granularity", "weight_mode", "has_gain", "norm", "packed")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}  # type: ignore[misc]


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantConv1D(_RoundedKernel, keras.layers.Conv1D):  # type: ignore[misc]  # Keras has no types
    """Conv1D with a rounded kernel."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """As Conv1D's."""
        padding = self.padding
        if padding == "causal":
            inputs = tf.pad(inputs, [[0, 0], [self.dilation_rate[0] * (self.kernel_size[0] - 1), 0], [0, 0]])
            padding = "valid"
        kernel = self.rounded_kernel(training=bool(training))
        return self.biased(
            keras.ops.conv(inputs, kernel, list(self.strides), padding, dilation_rate=self.dilation_rate),
            training=bool(training),
        )


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantConv2D(_RoundedKernel, keras.layers.Conv2D):  # type: ignore[misc]  # Keras has no types
    """Conv2D with a rounded kernel."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """As Conv2D's."""
        kernel = self.rounded_kernel(training=bool(training))
        return self.biased(self.convolution_op(inputs, kernel), training=bool(training))


class _RoundedDepthwise(_RoundedKernel):
    """A depthwise kernel [..., channels, multiplier]: both last axes make the output's channels."""

    @property
    def shared_axes(self) -> int:
        return len(self.kernel.shape) - 2

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """As DepthwiseConv's."""
        return self.biased(
            keras.ops.depthwise_conv(
                inputs,
                self.rounded_kernel(training=bool(training)),
                self.strides,
                self.padding,
                dilation_rate=self.dilation_rate,
            ),
            training=bool(training),
        )


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantDepthwiseConv1D(_RoundedDepthwise, keras.layers.DepthwiseConv1D):  # type: ignore[misc]  # Keras has no types
    """DepthwiseConv1D with a rounded kernel."""


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantDepthwiseConv2D(_RoundedDepthwise, keras.layers.DepthwiseConv2D):  # type: ignore[misc]  # Keras has no types
    """DepthwiseConv2D with a rounded kernel."""


@keras.saving.register_keras_serializable(PACKAGE)
class FakeQuantDense(_RoundedKernel, keras.layers.Dense):  # type: ignore[misc]  # Keras has no types
    """Dense with a rounded kernel; more than one row per example is multiplied as one matrix."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """As Dense's."""
        rows = tf.reshape(inputs, (-1, inputs.shape[-1])) if len(inputs.shape) > 2 else inputs  # noqa: PLR2004
        outputs = tf.matmul(rows, self.rounded_kernel(training=bool(training)))
        outputs = self.biased(outputs, training=bool(training))
        return outputs if rows is inputs else tf.reshape(outputs, (-1, *inputs.shape[1:-1], self.units))


# What each layer of Keras becomes.
ROUNDED: dict[str, type[Any]] = {
    "Conv1D": FakeQuantConv1D,
    "Conv2D": FakeQuantConv2D,
    "DepthwiseConv1D": FakeQuantDepthwiseConv1D,
    "DepthwiseConv2D": FakeQuantDepthwiseConv2D,
    "Dense": FakeQuantDense,
}


def settled(layer: Any) -> Any:
    """The same layer without anything left to be trained by itself, in float32 and not yet built; other layers as they are,
    unless they compute in another dtype."""
    config = layer.get_config()
    if isinstance(layer, FakeQuantize):
        return FakeQuantize.from_config(config | {"mode": OFF if layer.mode == OFF else FIXED, "dtype": "float32"})
    if isinstance(layer, _RoundedKernel):
        # A gain goes into the scales, which then differ from channel to channel.
        granularity = PER_CHANNEL if layer.has_gain or layer.norm else layer.granularity
        fixed = {"weight_mode": FIXED, "has_gain": False, "norm": None, "granularity": granularity, "dtype": "float32"}
        fixed["use_bias"] = layer.use_bias or layer.norm is not None
        return type(layer).from_config(config | fixed)
    if (
        isinstance(layer, keras.layers.Layer)
        and layer.compute_dtype in ("float16", "bfloat16")
        and layer.variable_dtype == "float32"
    ):
        return type(layer).from_config(config | {"dtype": "float32"})
    return layer


def take_over(new: Any, trained: Any) -> None:
    """Give a layer made by `settled`, built, what its predecessor has come to."""
    if new is trained:
        return
    if isinstance(new, FakeQuantize):
        new.set_range(*trained.found_range())
    elif isinstance(new, _RoundedKernel):
        new.settle(trained)
    else:
        for target, source in zip(new.variables, trained.variables, strict=True):
            target.assign(source.numpy())


def is_rounded(layer: Any) -> bool:
    """Whether a layer's kernel has few levels."""
    return isinstance(layer, _RoundedKernel)
