"""The step `correct_bias`: shifts each bias by the mean error that quantization makes in its channel.

Nagel et al., arXiv:1906.04721, section 4.2, the empirical variant (appendix D): rounding weights and inputs shifts the mean of a layer's
sums, channel by channel, and all later layers see that shift. Layer by layer, from the inputs on, the difference of means between the float
and the quantized network on calibration rows, before the activation, is added to the bias; later layers are measured with the earlier
ones corrected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from converters.compress.context import Array, Context, Rows, StepResult
from converters.compress.float_twin import Site, answers, chunks, gain, rounded_sites
from converters.compress.quantize_bias import settle_biases
from converters.compress.refining import begin

_NO_BIAS = "it has no bias that could be shifted"


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Shift the biases; see `converters.step_catalogue` for the parameters.

    Raises RefusedError for a model without a layer whose kernel could be rounded, ToolError without calibration rows.
    """
    started = begin(model, parameters["weight_bits"], context, "correct_bias")
    twin, rows = started.twin, started.rows
    wanted = answers(twin.model, rows)
    before = answers(started.model, rows)
    left_alone = dict(twin.plan.left_alone)
    shifts: dict[str, tuple[float, float]] = {}
    theirs = rounded_sites(twin.model)
    for name, site in rounded_sites(started.model).items():
        if not site.layer.use_bias:
            left_alone[name] = _NO_BIAS
            continue
        shifts[name] = _correct(started.model, site, twin.model, theirs[name], rows)
    settle_biases(started.model)
    found = list(shifts.values())
    figures = {
        "implied": started.made,
        "calibration_rows": rows.count,
        "corrected_layers": len(shifts),
        # Means over layers of the root mean square over channels of the shift, as a share of the channels' standard deviation.
        "mean_shift_before": float(np.mean([one for one, _ in found])) if found else None,
        "mean_shift": float(np.mean([other for _, other in found])) if found else None,
        **gain(before, answers(started.model, rows), wanted),
    }
    return StepResult(started.model, figures, context.preserve, left_alone)


def _correct(model: Any, site: Site, twin: Any, wanted: Site, rows: Rows) -> tuple[float, float]:
    """Correct one bias; the size of the shift before and after."""
    mean, spread = _moments(twin, wanted, rows)
    off = mean - _moments(model, site, rows)[0]
    site.layer.bias.assign(site.layer.bias.numpy() + off.astype(np.float32))
    left = mean - _moments(model, site, rows)[0]
    scale = max(float(np.sqrt(np.mean(spread**2))), 1e-12)
    return float(np.sqrt(np.mean(off**2))) / scale, float(np.sqrt(np.mean(left**2))) / scale


def _moments(model: Any, site: Site, rows: Rows) -> tuple[Array, Array]:
    """Mean and standard deviation [channels] of a layer's sums before the activation, over rows and places."""
    count, total, squares = 0, np.zeros(site.layer.channels), np.zeros(site.layer.channels)
    with _without_activation(site.layer):
        for (inputs,) in chunks(model, [site.taken], rows):
            sums = np.asarray(site.layer(inputs, training=False), np.float64).reshape(-1, site.layer.channels)
            count += len(sums)
            total += sums.sum(0)
            squares += (sums**2).sum(0)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


@contextlib.contextmanager
def _without_activation(layer: Any) -> Iterator[None]:
    """The layer's sums instead of its outputs; nothing but the layer itself may be asked meanwhile."""
    activation, layer.activation = layer.activation, None
    try:
        yield
    finally:
        layer.activation = activation
