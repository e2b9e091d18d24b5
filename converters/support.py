"""Which precision × format × parameter combinations exist, as data; and the reason when one does not.

Asked before any work, so that a combination that cannot exist costs nothing. `SUPPORTED` lists what can be made, by which
toolchain and with which parameter values; `ABSENT` gives the true reason for what cannot; `NEEDS` names what a model or
its data must have. No toolchain is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from converters.recipe import Recipe, make_recipe
from converters.step_rules import ROUNDING, chain_reason, weight_bits

# Facts about a base model and its data that refusals depend on (`Source.facts`).
FACT_CONSTANT_MATMULS = "onnx_constant_matmuls"  # MatMul/Gemm with a constant weight in the fp32 ONNX file
FACT_LOOPS = "loops"  # whether the SavedModel's graph has While loops (recurrent layers)
FACT_UNROLLED_STEPS = "unrolled_steps"  # time steps of the SavedModel without loops, where one could be made
FACT_INTEGER_INPUTS = "integer_inputs"  # names of inputs that take integers
FACT_CALIBRATION_LABELS = "calibration_labels"  # whether the calibration rows have labels
FACT_TRAINED_RANGES = "trained_ranges"  # what quantization-aware training left (`converters.export.trained`)

_TRUE_FALSE = (True, False)


@dataclass(frozen=True, slots=True)
class Support:
    """One precision of one format: who makes it, and the values its parameters may take.

    `parameters` lists only what may differ from the format's default; anything else must keep its default.
    """

    format: str
    mode: str
    weights: str
    activations: str
    toolchain: str
    parameters: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_GRANULARITY = ("per_channel", "per_tensor")
_ONNX_STATIC: dict[str, tuple[Any, ...]] = {
    "granularity": _GRANULARITY,
    "symmetric_activations": _TRUE_FALSE,
    "calibration": ("minmax", "entropy", "percentile"),
    "reduce_range": _TRUE_FALSE,
}
_GROUPS = (16, 32, 64, 128, 256)

SUPPORTED: tuple[Support, ...] = (
    Support("tflite", "float", "f32", "f32", "tflite"),
    Support("tflite", "float", "f16", "f32", "tflite"),
    Support("tflite", "dynamic", "i8", "f32", "tflite"),
    Support("tflite", "static", "i8", "i8", "tflite", {"io": ("float", "int"), "granularity": _GRANULARITY}),
    Support("tflite", "static", "i8", "i16", "tflite", {"io": ("float", "int")}),
    Support("tflite", "dynamic", "i4", "f32", "ai_edge_quantizer"),
    Support("tflite", "weight_only", "i8", "f32", "ai_edge_quantizer", {"granularity": _GRANULARITY}),
    Support("tflite", "weight_only", "i4", "f32", "ai_edge_quantizer"),
    Support("onnx", "float", "f32", "f32", "onnx"),
    Support("onnx", "float", "f16", "f16", "onnx"),
    Support("onnx", "dynamic", "i8", "f32", "onnx", {"granularity": _GRANULARITY, "reduce_range": _TRUE_FALSE}),
    Support("onnx", "static", "i8", "i8", "onnx", _ONNX_STATIC),
    Support("onnx", "static", "i8", "u8", "onnx", _ONNX_STATIC),
    Support("onnx", "weight_only", "i4", "f32", "onnx", {"symmetric_weights": _TRUE_FALSE, "group_size": _GROUPS}),
    Support("openvino", "float", "f32", "f32", "openvino"),
    Support("openvino", "float", "f16", "f32", "openvino"),
    Support(
        "openvino",
        "static",
        "i8",
        "i8",
        "openvino",
        {
            "granularity": _GRANULARITY,
            "symmetric_activations": _TRUE_FALSE,
            "calibration": ("minmax", "percentile"),
            "accuracy_control": _TRUE_FALSE,
        },
    ),
    Support("openvino", "weight_only", "i8", "f32", "openvino", {"symmetric_weights": _TRUE_FALSE}),
    Support(
        "openvino",
        "weight_only",
        "i4",
        "f32",
        "openvino",
        {"symmetric_weights": _TRUE_FALSE, "group_size": (None, *_GROUPS)},
    ),
)

# What only a model can have that was fitted to it, by the step qat or calibrate: no converter makes it afterwards.
TRAINED: tuple[Support, ...] = (Support("tflite", "static", "i4", "i8", "tflite", {"io": ("float", "int")}),)

# The reason why something is absent: the first entry whose every given field equals the recipe's speaks.
ABSENT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"mode": "dynamic", "io": "int"}, "dynamic quantization chooses activation scales at run time, so inputs stay float"),
    ({"mode": "weight_only", "io": "int"}, "weight-only quantization computes in float, so inputs and outputs stay float"),
    ({"mode": "dynamic", "calibration": "entropy"}, "dynamic quantization reads activation ranges at run time: no calibration"),
    ({"mode": "dynamic", "calibration": "percentile"}, "dynamic quantization reads activation ranges at run time: no calibration"),
    ({"mode": "weight_only", "calibration": "entropy"}, "weight-only quantization has no activation ranges to calibrate"),
    ({"mode": "weight_only", "calibration": "percentile"}, "weight-only quantization has no activation ranges to calibrate"),
    ({"format": "tflite", "activations": "u8"}, "TFLite's quantization specification has int8 activations; uint8 was its retired scheme"),
    ({"format": "tflite", "mode": "static", "weights": "i4"}, "TensorFlow Lite's post-training converter writes 8-bit weights only in static quantization"),
    ({"format": "tflite", "symmetric_weights": False}, "TFLite's quantization specification fixes the zero point of int8 and int4 weights to 0"),
    ({"format": "tflite", "activations": "i8", "symmetric_activations": True}, "TFLite's calibrator gives int8 activations a zero point of its own; only its 16x8 mode is symmetric"),
    ({"format": "tflite", "activations": "i16", "symmetric_activations": False}, "TFLite's 16x8 kernels require int16 activations with zero point 0"),
    ({"format": "tflite", "activations": "i16", "granularity": "per_tensor"}, "TFLite's 16x8 mode quantizes convolution weights per channel"),
    ({"format": "tflite", "mode": "static", "calibration": "entropy"}, "the TensorFlow Lite calibrator records minima and maxima only"),
    ({"format": "tflite", "mode": "static", "calibration": "percentile"}, "the TensorFlow Lite calibrator records minima and maxima only"),
    ({"format": "tflite", "mode": "dynamic", "weights": "i8", "granularity": "per_tensor"}, "LiteRT (2.3) computes NaN with dynamic per-tensor convolution weights"),
    ({"format": "tflite", "weights": "i4", "granularity": "per_tensor"}, "one scale for a whole 4-bit tensor has 16 levels for all channels: not offered"),
    ({"format": "onnx", "activations": "i16"}, "ONNX Runtime's CPU provider has no 16-bit integer kernels: a 16x8 graph would dequantize and compute in float"),
    ({"format": "onnx", "mode": "weight_only", "weights": "i8"}, "ONNX weight-only blocks are written with 4 bits only; 8-bit weights with float activations are dynamic_wi8_afp32"),
    ({"format": "onnx", "mode": "weight_only", "granularity": "per_tensor"}, "MatMulNBits keeps one scale per block of weights"),
    ({"format": "onnx", "mode": "weight_only"}, "MatMulNBits takes blocks of 16, 32, 64, 128 or 256 weights"),
    ({"format": "onnx", "weights": "i4"}, "ONNX Runtime has 4-bit weights only in the weight-only operator MatMulNBits"),
    ({"format": "onnx", "mode": "static", "io": "int"}, "ONNX Runtime's quantizer leaves inputs and outputs of a QDQ model in float"),
    ({"format": "onnx", "symmetric_weights": False}, "ONNX Runtime's quantizer makes int8 weights symmetric, as its kernels expect"),
    ({"format": "openvino", "mode": "dynamic"}, "in OpenVINO dynamic quantization is a run-time property of a weight-only model, not another file: use weight_only_wi8_afp32"),
    ({"format": "openvino", "activations": "u8"}, "NNCF picks signed or unsigned for each activation itself"),
    ({"format": "openvino", "activations": "i16"}, "NNCF quantizes activations to 8 bits; the OpenVINO CPU plugin has no 16-bit integer kernels"),
    ({"format": "openvino", "mode": "static", "weights": "i4"}, "NNCF's static quantization writes 8-bit weights"),
    ({"format": "openvino", "mode": "static", "io": "int"}, "NNCF keeps inputs and outputs of a quantized model in float"),
    ({"format": "openvino", "mode": "static", "calibration": "entropy"}, "NNCF's range estimators are minima, maxima, means and quantiles; it has no entropy calibration"),
    ({"format": "openvino", "mode": "static", "symmetric_weights": False}, "NNCF's static presets quantize weights symmetrically"),
    ({"format": "openvino", "mode": "weight_only", "granularity": "per_tensor"}, "NNCF compresses weights per channel or per group, never per tensor"),
    ({"format": "openvino", "mode": "weight_only", "weights": "i4"}, "NNCF is offered groups of 16, 32, 64, 128 or 256 weights, or whole channels (group 0)"),
    ({"format": "openvino", "mode": "weight_only", "weights": "i8"}, "NNCF's 8-bit weights have one scale per channel and no groups"),
    ({"accuracy_control": True}, "only NNCF's static quantization for OpenVINO has accuracy control"),
    ({"reduce_range": True}, "7-bit weights serve ONNX Runtime's u8×s8 kernels; this precision has no use for them"),
    ({"mode": "static"}, "static quantization has integer weights and integer activations, and no groups"),
    ({"mode": "dynamic"}, "dynamic quantization has integer weights and f32 activations, and no groups"),
    ({"mode": "weight_only"}, "weight-only quantization has integer weights and f32 activations"),
)  # fmt: skip


def support(recipe: Recipe) -> Support | None:
    """The line of `SUPPORTED` (or `TRAINED`) that makes this recipe, or None."""
    for line in (*SUPPORTED, *(TRAINED if _trained_bits(recipe) else ())):
        if (line.format, line.mode, line.weights, line.activations) != (
            recipe.format,
            recipe.mode,
            recipe.weights,
            recipe.activations,
        ):
            continue
        default = make_recipe(line.format, line.mode, line.weights, line.activations).to_dict()
        own = recipe.to_dict()
        free = {*line.parameters, "name", "max_drop", "steps"}
        if all(own[key] == default[key] for key in own if key not in free) and all(
            own[key] in (*values, default[key]) for key, values in line.parameters.items()
        ):
            return line
    return None


def toolchain_of(recipe: Recipe) -> str:
    """Name of the toolchain that makes this recipe. Raises KeyError for a recipe that `reason` refuses."""
    line = support(recipe)
    if line is None:
        raise KeyError(f"{recipe.key}: {reason(recipe)}")
    return line.toolchain


def _model_reason(recipe: Recipe, facts: Mapping[str, Any]) -> str | None:
    """What this recipe needs of the model or its data, where that is known to be missing."""
    if (recipe.format, recipe.mode) == ("onnx", "weight_only") and facts.get(FACT_CONSTANT_MATMULS) == 0:
        return (
            "ONNX Runtime's 4-bit MatMulNBits needs a MatMul or Gemm with a constant weight, and this model has none "
            "(convolutions and recurrent layers have no 4-bit form)"
        )
    if recipe.format == "tflite" and recipe.activations == "i16" and facts.get(FACT_INTEGER_INPUTS):
        return (
            f"TensorFlow Lite's 16x8 quantizer takes float inputs only; {facts[FACT_INTEGER_INPUTS][0]} takes integers"
        )
    if (
        (recipe.format, recipe.mode) == ("tflite", "static")
        and facts.get(FACT_LOOPS)
        and not facts.get(FACT_UNROLLED_STEPS)
    ):
        return "TensorFlow Lite's calibrator crashes on loops, and the recurrent layers of this model could not be unrolled"
    if recipe.accuracy_control and facts.get(FACT_CALIBRATION_LABELS) is False:
        return "accuracy control compares accuracies, so it needs labelled calibration data"
    return None


def _trained_bits(recipe: Recipe) -> int | None:
    """Bits of the weights that a step of the chain trains for, or fits them to, or None."""
    return weight_bits(recipe.steps)


def _trained_reason(recipe: Recipe, facts: Mapping[str, Any]) -> str | None:
    """What trained ranges do not allow, known from the model or from the chain that will make it."""
    trained = facts.get(FACT_TRAINED_RANGES)
    bits = trained["weight_bits"] if trained else _trained_bits(recipe)
    maker = "calibrate" if any(step.name in ROUNDING and step.name != "qat" for step in recipe.steps) else "qat"
    if recipe.mode == "static" and recipe.weights == "i4" and any(step.name == "mixed" for step in recipe.steps):
        return "mixed gives each layer its own bits, and TFLite stores those of 4 and fewer in 4: use static_wi8_ai8"
    if recipe.mode == "static" and recipe.weights == "i4" and bits is not None and bits > 4:  # noqa: PLR2004
        return f"the weights are trained for {bits} bits, and 4 would undo that: use {maker}(weight_bits=4)"
    if not trained:
        return None
    if recipe.mode != "static" or recipe.activations not in ("i8", "u8"):
        return (
            "the model was trained for integer kernels with 8-bit activations: static_wi8_ai8 keeps what it has learnt"
        )
    if recipe.format == "tflite" and trained["wide_ranges"]:
        return (
            f"TensorFlow Lite has 16-bit activations for whole models only, not for {len(trained['wide_ranges'])} tensors among "
            "others of 8: use mixed(activations=8), or static_wi8_ai16 without mixed"
        )
    if recipe.granularity == "per_tensor" and trained["granularity"] != "per_tensor":
        return f"the weights were trained with one scale per channel: use {maker}(granularity=per_tensor)"
    if recipe.calibration != "minmax" or recipe.accuracy_control:
        return "the ranges are trained, so that nothing is calibrated or given back to float"
    return None


def reason(recipe: Recipe, facts: Mapping[str, Any] | None = None) -> str | None:
    """Why this recipe cannot be carried out, in one line; None when it can.

    `facts` (of a `Source`, or as many as are known yet) adds the refusals that depend on the model and its data.
    """
    if support(recipe) is None:
        own = recipe.to_dict()
        return next(text for fields, text in ABSENT if all(own[key] == value for key, value in fields.items()))
    found = chain_reason(recipe.steps, recipe.mode, recipe.activations, facts)
    found = found or _trained_reason(recipe, facts or {})
    return found or (None if facts is None else _model_reason(recipe, facts))
