"""The step `calibrate`: chooses the ranges of activations and the scales of weights, outlier-aware, for every format alike.

It builds the fake-quantised network of `converters.compress.quantize_build` without training it: ranges from the values that calibration
rows give the float network (`converters.compress.range_search`), scales of kernels from their largest or from least squared error. What is
chosen here goes into all formats (`converters.export.trained`), and is what `adaround` and `correct_bias` refine further.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.compress import range_search
from converters.compress.context import CLUSTERS, Context, Rows, StepResult
from converters.compress.float_twin import FloatTwin, answers, calibration_rows, chunks, float_twin, gain
from converters.compress.range_search import DEFAULT_PERCENTILE, MSE, Histogram

DEFAULT_BITS = 8
LARGEST, LEAST_ERROR = "largest", "mse"


@dataclass(frozen=True, slots=True)
class Settings:
    """`method`, `percentile`: of `range_search`. `weight_bits`: 2 to 8. `granularity`: of weights. `weight_scales`: LARGEST or
    LEAST_ERROR. `keep_shared`: weights that share values go on sharing them."""

    method: str = MSE
    percentile: float = DEFAULT_PERCENTILE
    weight_bits: int = DEFAULT_BITS
    granularity: str = "per_channel"
    weight_scales: str = LEAST_ERROR
    keep_shared: bool = False


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Choose ranges and scales; see `converters.step_catalogue` for the parameters.

    Raises RefusedError for a model without a layer whose kernel could be rounded, ToolError without calibration rows.
    """
    rows = calibration_rows(context, "calibrate")
    settings = Settings(**parameters, keep_shared=CLUSTERS in context.preserve)
    twin = float_twin(model)
    seen = histograms(twin, rows)
    result = quantized(model, twin, seen, settings)
    plain = quantized(model, twin, seen, Settings(**(dict(parameters) | PLAIN), keep_shared=settings.keep_shared))
    ranges = {
        name: range_search.chosen_range(each, settings.method, settings.percentile) for name, each in seen.items()
    }
    errors = [range_search.relative_error(each, *ranges[name]) for name, each in seen.items()]
    largest = [range_search.relative_error(each, each.low, each.high) for each in seen.values()]
    narrowed = [name for name, each in seen.items() if _width(*ranges[name]) < 0.99 * _width(each.low, each.high)]
    figures = {
        **parameters,
        "calibration_rows": rows.count,
        "rounded_layers": len(twin.network.layers),
        "rounded_tensors": len(seen),
        "narrowed_tensors": len(narrowed),
        # Mean over tensors of the squared error of rounding, as a share of the tensor's mean square.
        "tensor_error_before": float(np.mean(largest)) if largest else None,
        "tensor_error": float(np.mean(errors)) if errors else None,
        **gain(answers(plain, rows), answers(result, rows), answers(twin.model, rows)),
    }
    return StepResult(result, figures, context.preserve, twin.plan.left_alone)


# What the gain is told against: extremes of activations, largest weights.
PLAIN: dict[str, Any] = {"method": range_search.MINMAX, "weight_scales": LARGEST}


def histograms(twin: FloatTwin, rows: Rows) -> dict[str, Histogram]:
    """The values of each range's tensors on the rows, by the range's name."""
    names = [layer.name for layer, _ in twin.network.taps]
    tensors = [tensor for _, tensor in twin.network.taps]
    extremes: dict[str, tuple[float, float]] = {}
    for values in chunks(twin.model, tensors, rows):
        for name, each in zip(names, values, strict=True):
            low, high = extremes.get(name, (np.inf, -np.inf))
            extremes[name] = min(low, float(each.min())), max(high, float(each.max()))
    found = {name: Histogram(*ends) for name, ends in extremes.items()}
    for values in chunks(twin.model, tensors, rows):
        for name, each in zip(names, values, strict=True):
            found[name].add(each)
    return found


def quantized(model: Any, twin: FloatTwin, seen: Mapping[str, Histogram], settings: Settings) -> Any:
    """The fake-quantised network of the float `model` that `twin` was made of, with ranges by what was `seen`, and kernels rounded to
    the nearest."""
    from converters.compress import fake_quant
    from converters.compress.quantize_bias import settle_biases
    from converters.compress.quantize_build import Options, build, finished

    largest = settings.weight_scales == LARGEST or settings.keep_shared
    options = Options(
        weight_bits=settings.weight_bits,
        granularity=settings.granularity,
        weight_mode=fake_quant.LARGEST if largest else fake_quant.LEARNED,
        range_mode=fake_quant.FIXED,
        keep_shared=settings.keep_shared,
    )
    rounded = build(model, twin.graph, twin.plan, options)
    for layer in {id(each): each for each, _ in rounded.taps}.values():
        layer.set_range(*range_search.chosen_range(seen[layer.name], settings.method, settings.percentile))
    result = finished(rounded.model)
    settle_biases(result)
    return result


def _width(low: float, high: float) -> float:
    return max(high, 0.0) - min(low, 0.0)
