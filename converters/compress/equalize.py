"""The step `equalize`: gives the channels of a layer equal ranges by moving factors between layers; the function stays the same.

Cross-layer equalisation of Nagel et al., arXiv:1906.04721, section 4.1. With one scale for a tensor, a channel with large values makes the
steps coarse for all others. Where what follows a layer passes positive factors on (`converters.compress.equalize_pairs`), its channel i may
be divided by s_i and the next layer's weights for it multiplied: s_i = √(r1_i · r2_i) / r2_i makes both ranges √(r1_i · r2_i), where r1 and
r2 are the largest weights of the channel in both layers, batch norms folded in. All pairs are treated in turn until nothing moves.

Beyond the paper, a bias counts in r1 like a weight, in units of the layer's largest: a channel of tiny weights with a bias (what
pruning or training leaves of an unused one) would otherwise be blown up with that bias. Absorbing high biases (section 4.1.3) is left out,
since it changes the function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converters.compress.context import CLUSTERS, Array, Context, StepResult
from converters.compress.equalize_pairs import DEPTHWISE, Pair, find_pairs, norms_of
from converters.compress.graph import read_graph

# Factors of one round nearer to 1 than this move nothing any more.
SETTLED = 1e-3
# What a channel is multiplied or divided by at most, in all.
MOST = 2.0**14


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Equalise in place; see `converters.step_catalogue` for the parameters. A model without a pair stays as it is; `left_alone` says why."""
    graph = read_graph(model)
    pairs, left_alone = find_pairs(graph)
    error_before = _quantized_error(model, context)
    figures = equalized(pairs, norms_of(graph), parameters["rounds"])
    figures |= {"output_error_before": error_before, "output_error": _quantized_error(model, context)}
    return StepResult(model, figures, context.preserve - {CLUSTERS}, left_alone)


def equalized(pairs: Sequence[Pair], norms: Mapping[int, Any], rounds: int) -> dict[str, Any]:
    """Move factors until nothing moves, for at most so many rounds; figures. `norms`: batch norm by `id` of the layer before it."""
    before = [_precision(pair, norms) for pair in pairs]
    totals = [np.ones(pair.channels) for pair in pairs]
    done, moved = 0, np.inf
    while pairs and done < rounds and moved > SETTLED:
        done, moved = done + 1, 0.0
        for pair, total in zip(pairs, totals, strict=True):
            first, second = _ranges(pair, norms)
            both = (first > 0) & (second > 0)
            factors = np.sqrt(np.where(both, first, 1) / np.where(both, second, 1))
            factors = np.clip(factors, 1 / (MOST * total), MOST / total)
            np.multiply(total, factors, out=total)
            move(pair, factors)
            moved = max(moved, float(np.abs(np.log(factors)).max()))
    after = [_precision(pair, norms) for pair in pairs]
    return {
        "pairs": len(pairs),
        "rounds": done,
        # The paper's measure: range of a channel over range of the tensor, in the first layer times in the second; mean over channels
        # and pairs. 1: all channels of each layer have the same range.
        "channel_precision_before": float(np.mean(before)) if pairs else None,
        "channel_precision": float(np.mean(after)) if pairs else None,
        "largest_factor": float(max(max(total.max(), 1 / total.min()) for total in totals)) if pairs else None,
    }


def _ranges(pair: Pair, norms: Mapping[int, Any]) -> tuple[Array, Array]:
    """The largest magnitudes [channels] in the first layer's kernel (or bias, in units of the kernel) and in the second's."""
    gain, shift = _folded(pair.first, norms)
    kernel = np.abs(_rows(pair.first) * gain).max(0)
    bias = np.abs(shift)
    if bias.max() > 0 and kernel.max() > 0:
        kernel = np.maximum(kernel, bias * (kernel.max() / bias.max()))
    gain, _ = _folded(pair.second, norms)
    return kernel, _by_input(pair, np.abs(_rows(pair.second) * gain))


def _precision(pair: Pair, norms: Mapping[int, Any]) -> float:
    first, second = _ranges(pair, norms)
    return float(np.mean(first / max(first.max(), 1e-30) * second / max(second.max(), 1e-30)))


def _rows(layer: Any) -> Array:
    """The kernel as float64 [n, output channels]."""
    kernel = np.asarray(layer.kernel.numpy(), np.float64)
    depthwise = type(layer).__name__ in DEPTHWISE
    return kernel.reshape(-1, int(np.prod(kernel.shape[-2:])) if depthwise else kernel.shape[-1])


def _by_input(pair: Pair, magnitudes: Array) -> Array:
    """The largest of the second kernel's magnitudes [n, output channels] per channel that it takes."""
    if type(pair.second).__name__ in DEPTHWISE:
        return np.asarray(magnitudes.max(0).reshape(pair.channels, -1).max(1))
    # Kernels are [places, channels taken, channels made]; flattened maps have the channels of each place one after the other.
    return np.asarray(magnitudes.max(1).reshape(-1, pair.channels).max(0))


def _folded(layer: Any, norms: Mapping[int, Any]) -> tuple[Array, Array]:
    """Gain and bias [output channels] of a layer with its batch norm folded in."""
    bias = np.asarray(layer.bias.numpy(), np.float64) if layer.use_bias else np.zeros(_rows(layer).shape[1])
    norm = norms.get(id(layer))
    if norm is None:
        return np.ones_like(bias), bias
    gain = 1 / np.sqrt(np.asarray(norm.moving_variance.numpy(), np.float64) + norm.epsilon)
    gain = gain * norm.gamma.numpy() if norm.scale else gain
    shift = norm.beta.numpy() if norm.center else 0.0
    return gain, (bias - norm.moving_mean.numpy()) * gain + shift


def move(pair: Pair, factors: Array) -> None:
    """Divide the channels that the first layer makes, and multiply what the second makes of them."""
    if pair.norm is not None:
        _scale(pair.norm.gamma, 1 / factors)
        if pair.norm.center:
            _scale(pair.norm.beta, 1 / factors)
    else:
        shape = pair.first.kernel.shape
        made = 1 / factors
        _scale(pair.first.kernel, made.reshape(shape[-2:]) if type(pair.first).__name__ in DEPTHWISE else made)
        if pair.first.use_bias:
            _scale(pair.first.bias, made)
    # The last axis but one of any kernel is what it takes.
    taken = factors if type(pair.second).__name__ in DEPTHWISE else np.tile(factors, pair.repeats)
    _scale(pair.second.kernel, taken[:, None])


def _scale(variable: Any, factors: Array) -> None:
    variable.assign((np.asarray(variable.numpy(), np.float64) * factors).astype(np.float32))


def _quantized_error(model: Any, context: Context) -> float | None:
    """How far 8-bit integers with the ranges of extremes are from the model's own answers; None without rows to ask that of, or where
    nothing can be rounded."""
    from converters.compress.calibrate import PLAIN, Settings, histograms, quantized
    from converters.compress.float_twin import answers, calibration_rows, distance, float_twin
    from converters.errors import RefusedError

    if context.calibration is None and context.data is None:
        return None
    rows = calibration_rows(context, "equalize")
    try:
        twin = float_twin(model)
    except RefusedError:
        return None
    result = quantized(model, twin, histograms(twin, rows), Settings(**PLAIN))
    return distance(answers(result, rows), answers(twin.model, rows))
