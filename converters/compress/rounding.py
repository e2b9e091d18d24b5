"""Learns for each weight of one layer whether it is rounded up or down, so that the layer's outputs change least: AdaRound.

Nagel et al., arXiv:2004.10568: the share h of a step by which each weight lies above the integer below it is learnt between 0 and 1 (a
rectified sigmoid), by gradients of the squared difference between the layer's outputs from quantized inputs and the float layer's from float
inputs, both after the activation; a term that grows drives every h to 0 or 1. Used by `converters.compress.adaround`. numpy only: each
layer is a product of matrices (`converters.compress.patches`), whose gradient is another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converters.compress.context import Array

# Of the rectified sigmoid: it reaches 0 and 1 within finite values.
_STRETCH, _SHIFT = 1.2, -0.1
_LINEAR, _RELU, _RELU6 = "linear", "relu", "relu6"
ACTIVATIONS = (_LINEAR, _RELU, _RELU6)
_SIX = 6.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How it is learnt. `iterations` with `batch` patches each, by Adam with `rate`. `weight`: of the term that drives to 0 and 1, beside
    an error of 1 at nearest rounding; it begins after the share `warm` of the iterations, with its exponent falling from `steep` to
    `flat`."""

    iterations: int = 1000
    batch: int = 512
    rate: float = 1e-2
    weight: float = 1.0
    warm: float = 0.2
    steep: float = 20.0
    flat: float = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer. `kernel`: float32 [groups, values, channels]. `scale`: that of each weight, broadcastable to the kernel. `top`: the
    largest integer. `bias`: float32 [groups, 1, channels]. `activation`: one of ACTIVATIONS."""

    kernel: Array
    scale: Array
    top: int
    bias: Array
    activation: str


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """`inputs`: float32 [groups, n, values] as the quantized network gives them. `targets`: float32 [groups, n, channels], the float layer's
    answers."""

    inputs: Array
    targets: Array


def nearest(layer: Layer) -> Array:
    """Each weight rounded to the nearest integer; float32 [groups, values, channels]."""
    return np.asarray(np.clip(np.round(layer.kernel / layer.scale), -layer.top, layer.top), np.float32)


def error(layer: Layer, integers: Array, samples: Samples) -> float:
    """The mean squared difference from the targets with these integers, as a share of the targets' mean square."""
    answers = _activated(samples.inputs @ (integers * layer.scale) + layer.bias, layer.activation)
    power = float(np.mean(samples.targets.astype(np.float64) ** 2))
    return float(np.mean((answers - samples.targets).astype(np.float64) ** 2)) / max(power, 1e-30)


def learnt(layer: Layer, samples: Samples, schedule: Schedule, seed: int) -> Array:
    """The integers that learning comes to; float32 [groups, values, channels]. Weights that are exactly 0 stay so.

    The same samples and seed give the same integers on the same machine.
    """
    steps = np.clip(layer.kernel / layer.scale, -layer.top, layer.top)
    below = np.floor(steps)
    free = (layer.kernel != 0) & (below < layer.top)
    start = np.clip((steps - below - _SHIFT) / _STRETCH, 1e-4, 1 - 1e-4)
    variable = np.log(start / (1 - start)).astype(np.float32)
    before = error(layer, nearest(layer), samples)
    if before < 1e-12 or not free.any():  # noqa: PLR2004
        return nearest(layer)
    power = float(np.mean(samples.targets.astype(np.float64) ** 2))
    # The error of nearest rounding counts as one, whatever the layer's outputs are.
    norm = before * power * samples.targets.shape[0] * samples.targets.shape[2]
    descent = _Adam(variable.shape, schedule.rate)
    rng = np.random.default_rng(seed)
    rows = samples.inputs.shape[1]
    for iteration in range(schedule.iterations):
        which = rng.integers(0, rows, min(schedule.batch, rows))
        sigmoid = 1 / (1 + np.exp(-variable))
        stretched = sigmoid * _STRETCH + _SHIFT
        share = np.clip(stretched, 0, 1)
        kernel = (below + share) * layer.scale
        gradient = _gradient(layer, kernel, samples, which) * (layer.scale / (norm * len(which)))
        gradient = gradient + _driven(share, iteration, schedule) / free.sum()
        inside = (stretched > 0) & (stretched < 1) & free
        variable += descent.update(np.where(inside, gradient * sigmoid * (1 - sigmoid) * _STRETCH, 0))
    share = 1 / (1 + np.exp(-variable)) * _STRETCH + _SHIFT
    return np.asarray(np.where(free, below + (share >= 0.5), np.round(steps)), np.float32)  # noqa: PLR2004


def _gradient(layer: Layer, kernel: Array, samples: Samples, which: Array) -> Array:
    """Of the summed squared difference by the kernel."""
    inputs = np.ascontiguousarray(samples.inputs[:, which])
    answers = inputs @ kernel.astype(np.float32) + layer.bias
    passed = _passed(answers, layer.activation)
    difference = 2 * (_activated(answers, layer.activation) - samples.targets[:, which]) * passed
    return np.asarray(inputs.transpose(0, 2, 1) @ difference.astype(np.float32))


def _driven(share: Array, iteration: int, schedule: Schedule) -> Array:
    """The gradient of weight × Σ (1 − |2h − 1|^exponent), which is least at 0 and at 1."""
    done = iteration / max(schedule.iterations, 1)
    if done < schedule.warm:
        return np.zeros_like(share)
    left = 1 - (done - schedule.warm) / (1 - schedule.warm)
    exponent = schedule.flat + (schedule.steep - schedule.flat) * left
    centred = 2 * share - 1
    return np.asarray(-schedule.weight * exponent * 2 * np.abs(centred) ** (exponent - 1) * np.sign(centred))


def _activated(values: Array, activation: str) -> Array:
    if activation == _LINEAR:
        return values
    return np.asarray(np.clip(values, 0, _SIX if activation == _RELU6 else None))


def _passed(values: Array, activation: str) -> Array:
    if activation == _LINEAR:
        return np.ones_like(values)
    passed = values > 0
    return np.asarray(passed & (values < _SIX) if activation == _RELU6 else passed, np.float32)


class _Adam:
    """Kingma and Ba, arXiv:1412.6980, on one array."""

    def __init__(self, shape: tuple[int, ...], rate: float) -> None:
        self._rate, self._count = rate, 0
        self._mean, self._square = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def update(self, gradient: Array) -> Array:
        """What to add."""
        self._count += 1
        self._mean += np.float32(0.1) * (gradient - self._mean)
        self._square += np.float32(0.001) * (gradient**2 - self._square)
        mean = self._mean / (1 - 0.9**self._count)
        square = self._square / (1 - 0.999**self._count)
        return np.asarray(-self._rate * mean / (np.sqrt(square) + 1e-8), np.float32)
