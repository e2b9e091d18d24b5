"""Outputs of a variant over many rows by plain calls of its engine: a second opinion, independent of the agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from converters.variant import Quantization, TensorSpec, Variant

BATCH = 250
Runner = Callable[[list[np.ndarray]], list[np.ndarray]]


def outputs(variant: Variant, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """First output, float32 [n, …] in the base's layout, for `inputs` [n, …] in the base's layout."""
    signature = variant.manifest.signature
    if signature is None:
        raise ValueError(f"{variant.name}: no signature")
    batch = BATCH if all(spec.shape[0] is None for spec in signature.inputs) else 1
    run = {"tflite": _litert, "onnx": _onnxruntime, "openvino": _openvino}[variant.manifest.format](variant)
    rows = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, rows, batch):
        fed = [_fed(inputs[spec.source or spec.name][start : start + batch], spec) for spec in signature.inputs]
        parts.append(_read(run(fed)[0], signature.outputs[0]))
    return np.concatenate(parts)


def _fed(x: np.ndarray, spec: TensorSpec) -> np.ndarray:
    x = x if spec.axes is None else np.transpose(x, spec.axes)
    if spec.quantization is not None:
        scale, zero = _affine(spec.quantization)
        limits = np.iinfo(spec.dtype)
        x = np.clip(np.rint(x / scale) + zero, limits.min, limits.max)
    return np.ascontiguousarray(x.astype(spec.dtype))


def _read(y: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.quantization is not None:
        scale, zero = _affine(spec.quantization)
        y = (y.astype(np.float32) - zero) * scale
    y = y.astype(np.float32)
    return y if spec.axes is None else np.transpose(y, spec.axes)


def _affine(quantization: Quantization) -> tuple[float, int]:
    """Scale and zero point of an input or output, which have one each."""
    (scale,), (zero,) = quantization.scale, quantization.zero_point
    return scale, zero


def _litert(variant: Variant) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(variant.artifact), num_threads=1)
    interpreter.allocate_tensors()
    signature = variant.manifest.signature
    have = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    gives = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}

    def run(fed: list[np.ndarray]) -> list[np.ndarray]:
        for spec, x in zip(signature.inputs, fed, strict=True):
            interpreter.set_tensor(have[spec.name], x)
        interpreter.invoke()
        return [interpreter.get_tensor(gives[spec.name]) for spec in signature.outputs]

    return run


def _onnxruntime(variant: Variant) -> Runner:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(variant.artifact), options, providers=["CPUExecutionProvider"])
    signature = variant.manifest.signature
    names = [spec.name for spec in signature.inputs]
    wanted = [spec.name for spec in signature.outputs]

    def run(fed: list[np.ndarray]) -> list[np.ndarray]:
        return list(session.run(wanted, dict(zip(names, fed, strict=True))))

    return run


def _openvino(variant: Variant) -> Runner:
    import openvino as ov

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(str(variant.artifact), "CPU", settings)

    def run(fed: list[np.ndarray]) -> list[np.ndarray]:
        results = compiled(fed)
        return [results[output] for output in compiled.outputs]

    return run
