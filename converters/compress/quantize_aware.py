"""The step `qat`: trains with the rounding of integers in the loop, and leaves a model that carries its ranges.

Jacob et al., arXiv:1712.05877: weights and activations are rounded while training computes in float, and gradients pass the
rounding unchanged. Weights have one scale per output channel or per tensor, symmetric around zero; 8-bit scales follow the largest
magnitude, those of fewer bits are trained (learned step size: Esser et al., arXiv:1902.08153). Ranges of activations are moving
averages, or trained likewise. The one trained model then goes to every format with these scales (`converters.export.trained`).
Zeros and shared values of earlier steps stay (`context.preserve`): a zero is the integer 0, and where values are shared the scales of
a layer's channels differ by its folded batch norm only, so that equal weights are equal integers. With a `teacher` the network learns its
answers beside the labels (`converters.compress.quantize_train`); everything else stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.compress.context import CLUSTERS, Context, StepResult
from converters.compress.graph import read_graph
from converters.compress.objective import score
from converters.errors import RefusedError

LEARNING_RATE = 2e-4
FULL_BITS = 8


def apply(model: Any, parameters: Mapping[str, Any], context: Context) -> StepResult:
    """Train with rounding for `epochs`; see `converters.step_catalogue` for the parameters.

    Raises RefusedError for a model without a layer whose kernel could be rounded and for a teacher that does not fit, RecipeError and
    BaseModelError for a teacher that cannot be loaded, ToolError when training comes to nothing.
    """
    from converters.compress import fake_quant
    from converters.compress.quantize_bias import settle_biases
    from converters.compress.quantize_build import Options, build, calibrate, finished
    from converters.compress.quantize_plan import make_plan
    from converters.compress.quantize_train import teacher_of, train

    data = context.needs_data("quantization-aware training")
    teacher = teacher_of(model, parameters, context)
    bits, moving = parameters["weight_bits"], parameters["ranges"] == "moving"
    shared = CLUSTERS in context.preserve
    options = Options(
        weight_bits=bits,
        granularity=parameters["granularity"],
        # The scale of shared values is one for the layer: its largest value.
        weight_mode=fake_quant.LARGEST if bits == FULL_BITS or shared else fake_quant.LEARNED,
        range_mode=fake_quant.MOVING if moving else fake_quant.LEARNED,
        keep_shared=shared,
        live_norms=True,
    )
    graph = read_graph(model)
    plan = make_plan(graph)
    rounded = build(model, graph, plan, options)
    if not rounded.layers:
        raise RefusedError(
            "qat found no convolution or dense layer that it could round: " + _listed(plan.left_alone),
            remedy="layers of your own, shared and recurrent ones stay in float",
        )
    calibrate(rounded, data.train, context.seed)
    judged = data.validation if data.validation.labels is not None and data.validation.count else None
    before = None if judged is None else score(rounded.model, judged, data.task)
    history, of_teacher = train(
        rounded.model, model, teacher, parameters, context, learning_rate=LEARNING_RATE, label="qat"
    )
    result = finished(rounded.model)
    settle_biases(result)
    figures = {
        "weight_bits": bits,
        "granularity": options.granularity,
        "ranges": parameters["ranges"],
        "rounded_layers": len(rounded.layers),
        "rounded_tensors": len({id(layer) for layer, _ in rounded.taps}),
        "validation_score_before": before,
        "validation_score": None if judged is None else score(result, judged, data.task),
        "epochs": history.epochs,
        "stopped_early": history.stopped_early,
        "seconds": history.seconds,
        **of_teacher,
    }
    return StepResult(result, figures, context.preserve, plan.left_alone)


def _listed(reasons: Mapping[str, str], most: int = 3) -> str:
    told = [f"{name} ({reason})" for name, reason in list(reasons.items())[:most]]
    return "; ".join(told) or "it has none"
