"""Puts the biases of a network that was trained with rounding where integer kernels have them, so that all formats compute the same.

Last stage of quantization-aware training, on the model of `converters.compress.quantize_build.finished`. TFLite and ONNX
Runtime add an int32 bias that counts in steps of the input times steps of the kernel (Jacob et al., arXiv:1712.05877, section 2.4).
Ordinarily these are a hundredth of a step of the output. Where channels of very different size share a range, as much as a fifth, and
an engine that keeps biases in float would compute another network than one that does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.compress.fake_quant import FIXED, LEVELS, FakeQuantize, is_rounded
from converters.compress.graph import Call, read_graph
from converters.compress.quantize_plan import PASSING

# Of a concatenation all parts have one range.
_PASSING_ON = PASSING | {"Concatenate"}


def settle_biases(model: Any) -> list[str]:
    """Round the biases of layers with rounded kernels and rounded inputs, in place; the names of these layers."""
    graph = read_graph(model)
    makers = {tensor: call for call in graph.calls for tensor in call.outputs}
    done = []
    for call in graph.calls:
        layer = call.operation
        if not is_rounded(layer) or layer.weight_mode != FIXED or not layer.use_bias:
            continue
        step = _step(makers.get(call.inputs[0]), makers)
        if step is None:
            continue
        steps = step * layer.kernel_scale.numpy().astype(np.float64)
        layer.bias.assign((np.round(layer.bias.numpy() / steps) * steps).astype(np.float32))
        done.append(layer.name)
    return done


def _step(call: Call | None, makers: dict[int, Call]) -> float | None:
    """The step between levels of the tensor that a call gives; None where it is not rounded, or not known to be."""
    while call is not None and type(call.operation).__name__ in _PASSING_ON:
        call = makers.get(call.inputs[0])
    if call is None or not isinstance(call.operation, FakeQuantize) or call.operation.mode != FIXED:
        return None
    low, high = call.operation.found_range()
    return (high - low) / LEVELS
