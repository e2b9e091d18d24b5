"""A batch norm that goes on learning while the kernel before it is rounded, and is folded into it only when training is over.

Used by the layers of `converters.compress.fake_quant`. With one scale per output channel the integers of a kernel are the same before and
after each channel is multiplied by a positive number, so the norm need not be folded in before the training: its statistics follow what
rounding does to the sums, and the weights keep the size for which the rate of learning was meant (Krishnamoorthi, arXiv:1806.08342,
section 3.2.2, tells what training with frozen statistics costs). Imported by workers only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from converters.compress.context import Array

# Of the moving statistics, at most: few batches must be enough to follow the training.
MOMENTUM = 0.98
# The statistics of fewer rows than these say too little; the moving ones are used then.
LEAST_ROWS = 16


def arguments(norm: Any) -> dict[str, float]:
    """What a layer is told about a keras BatchNormalization that it takes in."""
    return {"epsilon": float(norm.epsilon), "momentum": min(float(norm.momentum), MOMENTUM)}


class LiveNorm:
    """The norm's variables, which belong to `layer`: gamma, beta, moving_mean, moving_variance, float32 [channels] each."""

    def __init__(self, layer: Any, channels: int, epsilon: float, momentum: float) -> None:
        options = {"shape": (channels,), "dtype": "float32"}
        self._epsilon, self._momentum = epsilon, momentum
        self.gamma = layer.add_weight(name="gamma", initializer="ones", **options)
        self.beta = layer.add_weight(name="beta", initializer="zeros", **options)
        self.mean = layer.add_weight(name="moving_mean", initializer="zeros", trainable=False, **options)
        self.variance = layer.add_weight(name="moving_variance", initializer="ones", trainable=False, **options)

    def begin(self, norm: Any) -> None:
        """Take over from the keras BatchNormalization."""
        if norm.scale:
            self.gamma.assign(norm.gamma.numpy())
        if norm.center:
            self.beta.assign(norm.beta.numpy())
        self.mean.assign(norm.moving_mean.numpy())
        self.variance.assign(norm.moving_variance.numpy())

    def __call__(self, outputs: Any, *, training: bool) -> Any:
        """The outputs [rows, …, channels] normalized, in their dtype; computed in float32."""
        x = tf.cast(outputs, tf.float32)
        mean, variance = self.mean.value, self.variance.value
        rows = outputs.shape[0]
        if training and (rows is None or rows >= LEAST_ROWS):
            mean, variance = tf.nn.moments(x, list(range(len(outputs.shape) - 1)))
            for variable, seen in ((self.mean, mean), (self.variance, variance)):
                moved = self._momentum * variable.value + (1 - self._momentum) * seen
                # A step that overflowed under a loss scale must not spoil the average.
                variable.assign(tf.where(tf.math.is_finite(moved), moved, variable.value))
        gain = self.gamma.value * tf.math.rsqrt(variance + self._epsilon)
        return tf.cast((x - mean) * gain + self.beta.value, outputs.dtype)

    def folded(self) -> tuple[Array, Array]:
        """Gain and shift [channels], float32, that the norm amounts to."""
        deviation = np.sqrt(self.variance.numpy().astype(np.float64) + self._epsilon)
        gain = self.gamma.numpy() / deviation
        return gain.astype(np.float32), (self.beta.numpy() - self.mean.numpy() * gain).astype(np.float32)
