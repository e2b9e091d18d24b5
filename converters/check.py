"""Numeric agreement of a variant with its base model on the same inputs.

Last step of a conversion: the artifact runs with its own engine (one thread, OpenVINO in float32) on the source's check
rows and its outputs are compared with the base model's. `adapt_inputs` and `restore_output` are the pure part: what a
signature's layout, dtype and quantization ask of an array. Engines are imported when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.errors import ToolError
from converters.export.base import Source
from converters.variant import Agreement, Quantization, Signature, TensorSpec

Array = npt.NDArray[Any]
Run = Callable[[list[Array]], list[Array]]

_SCORES_RANK = 2


def _along(values: Sequence[float] | Sequence[int], quantization: Quantization, rank: int) -> Array:
    """Scales or zero points, shaped to multiply a tensor of this rank."""
    flat = np.asarray(values, dtype=np.float64)
    if quantization.axis is None or flat.size == 1:
        return flat.reshape(-1)[:1] if flat.size == 1 else flat
    shape = [1] * rank
    shape[quantization.axis] = flat.size
    return flat.reshape(shape)


def quantize(real: Array, quantization: Quantization, dtype: str) -> Array:
    """Real values as the integers of `dtype`: round(x / scale) + zero_point, clipped to the dtype's range."""
    scale = _along(quantization.scale, quantization, real.ndim)
    zero = _along(quantization.zero_point, quantization, real.ndim)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.round(real / scale) + zero, limits.min, limits.max).astype(dtype))


def dequantize(integers: Array, quantization: Quantization) -> Array:
    """Integers as float32 real values: scale * (q − zero_point)."""
    scale = _along(quantization.scale, quantization, integers.ndim)
    zero = _along(quantization.zero_point, quantization, integers.ndim)
    return np.asarray((scale * (integers.astype(np.float64) - zero)).astype(np.float32))


def adapt_input(spec: TensorSpec, values: Array) -> Array:
    """One input as the artifact takes it: transposed by `axes`, then quantized or cast to `dtype`; contiguous.

    Integers are cast and must survive it; reals for an integer input need a quantization. Raises ValueError else.
    """
    moved = values if spec.axes is None else values.transpose(spec.axes)
    if spec.quantization is not None and moved.dtype.kind == "f":
        moved = quantize(moved, spec.quantization, spec.dtype)
    elif moved.dtype != np.dtype(spec.dtype):
        cast = moved.astype(spec.dtype)
        if cast.dtype.kind in "iub" and not np.array_equal(cast, moved):
            raise ValueError(f"input {spec.name!r} takes {spec.dtype} without a quantization; its values would be lost")
        moved = cast
    return np.ascontiguousarray(moved)


def adapt_inputs(signature: Signature, rows: Mapping[str, Array]) -> list[Array]:
    """The artifact's inputs in the engine's order, from arrays by base input name (rows first, base layout).

    Raises ValueError when an input is missing or its shape does not fit.
    """
    adapted = []
    for spec in signature.inputs:
        name = spec.source or spec.name
        if name not in rows:
            raise ValueError(f"no values for the input {name!r}; there are {sorted(rows)}")
        values = adapt_input(spec, rows[name])
        free = (None, *spec.shape[1:])
        if len(free) != values.ndim or any(
            want not in (None, got) for want, got in zip(free, values.shape, strict=True)
        ):
            raise ValueError(f"input {name!r} has the shape {values.shape}, but the artifact takes {spec.shape}")
        adapted.append(values)
    return adapted


def restore_output(spec: TensorSpec, values: Array) -> Array:
    """One output as the base model gives it: dequantized, float16 widened, transposed by `axes` to the base's layout."""
    if spec.quantization is not None and values.dtype.kind in "iu":
        values = dequantize(values, spec.quantization)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    return values if spec.axes is None else values.transpose(spec.axes)


def agreement(artifact: Path, fmt: str, signature: Signature, source: Source) -> Agreement:
    """Run `artifact` on the source's check rows and compare. Raises ToolError with the engine's words.

    An output that is NaN or infinite where the base's is finite is an error, not a number.
    """
    inputs, expected = source.check_rows()
    outputs = run_artifact(artifact, fmt, signature, inputs)
    return compare(outputs, expected)


def run_artifact(artifact: Path, fmt: str, signature: Signature, rows: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by base output name, in the base model's layout and in real values. Raises ToolError."""
    try:
        feeds = adapt_inputs(signature, rows)
        results = _in_batches(_ENGINES[fmt](artifact, signature), signature, feeds)
    except Exception as error:
        raise ToolError(
            f"the {fmt} artifact does not run on the check inputs: {' '.join(str(error).split())}"
        ) from error
    return {
        spec.source or spec.name: restore_output(spec, values)
        for spec, values in zip(signature.outputs, results, strict=True)
    }


def _in_batches(run: Run, signature: Signature, feeds: list[Array]) -> list[Array]:
    """All rows at once where the batch is free, else in the artifact's own batch (the last one padded with its last row)."""
    fixed = next((spec.shape[0] for spec in signature.inputs if spec.shape and spec.shape[0] is not None), None)
    if fixed is None:
        return run(feeds)
    count = len(feeds[0])
    parts = []
    for start in range(0, count, fixed):
        rows = np.minimum(np.arange(start, start + fixed), count - 1)
        parts.append(run([np.ascontiguousarray(feed[rows]) for feed in feeds]))
    return [np.concatenate(outputs)[:count] for outputs in zip(*parts, strict=True)]


def compare(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> Agreement:
    """Errors of `outputs` against the base model's `expected`, each relative to that output's spread (max − min).

    An output that is constant has no spread; its largest magnitude stands in (or 1 when it is all zero). Raises ToolError
    for a missing output, a wrong shape, or values that are not finite where the base's are.
    """
    missing = sorted(set(expected) - set(outputs))
    if missing:
        raise ToolError(f"the artifact lacks the outputs {missing}")
    per_output = {}
    errors, references = [], []
    for name, base in expected.items():
        reference = np.asarray(base, dtype=np.float64)
        found = np.asarray(outputs[name], dtype=np.float64)
        if found.shape != reference.shape:
            raise ToolError(f"output {name!r} has the shape {found.shape}, the base model's is {reference.shape}")
        finite = np.isfinite(reference)
        found, reference = found[finite], reference[finite]
        if not np.isfinite(found).all():
            raise ToolError(f"output {name!r} is NaN or infinite where the base model's is finite")
        error = np.abs(found - reference)
        per_output[name] = float(error.max(initial=0.0)) / _spread(reference)
        errors.append(error.ravel())
        references.append(reference.ravel())
    error = np.concatenate(errors) if errors else np.zeros(0)
    reference = np.concatenate(references) if references else np.zeros(0)
    return Agreement(
        rows=len(next(iter(expected.values()), ())),
        max_abs_error=float(error.max(initial=0.0)),
        mean_abs_error=float(error.mean()) if error.size else 0.0,
        spread=float(np.ptp(reference)) if reference.size else 0.0,
        relative_error=max(per_output.values(), default=0.0),
        argmax_agreement=_argmax_agreement(outputs, expected),
        per_output=per_output,
    )


def _spread(reference: Array) -> float:
    if reference.size == 0:
        return 1.0
    return float(np.ptp(reference)) or float(np.abs(reference).max()) or 1.0


def _argmax_agreement(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float | None:
    """Share of rows with the same arg max in the first output that can be class scores: [rows, two or more]."""
    for name, base in expected.items():
        if base.ndim == _SCORES_RANK and base.shape[1] > 1 and base.dtype.kind == "f":
            return float(np.mean(base.argmax(1) == outputs[name].argmax(1)))
    return None


def _onnx(artifact: Path, signature: Signature) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in signature.inputs]
    outputs = [spec.name for spec in signature.outputs]

    def run(feeds: list[Array]) -> list[Array]:
        return [np.asarray(values) for values in session.run(outputs, dict(zip(names, feeds, strict=True)))]

    return run


def _openvino(artifact: Path, signature: Signature) -> Run:
    import openvino as ov

    # Without the hint a CPU that has bf16 computes a float32 model in bf16.
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = ov.Core().compile_model(str(artifact), "CPU", config)
    used = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    if "f32" not in used and "float32" not in used:
        raise RuntimeError(f"OpenVINO computes in {used}, not in f32")

    def run(feeds: list[Array]) -> list[Array]:
        results = compiled(feeds)
        return [np.array(results[index]) for index in range(len(signature.outputs))]

    return run


def _tflite(artifact: Path, signature: Signature) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(artifact), num_threads=1)
    ins = _details(signature.inputs, interpreter.get_input_details())
    outs = _details(signature.outputs, interpreter.get_output_details())

    def run(feeds: list[Array]) -> list[Array]:
        for detail, feed in zip(ins, feeds, strict=True):
            if tuple(detail["shape"]) != feed.shape:
                interpreter.resize_tensor_input(detail["index"], feed.shape)
        interpreter.allocate_tensors()
        for detail, feed in zip(ins, feeds, strict=True):
            interpreter.set_tensor(detail["index"], feed)
        interpreter.invoke()
        return [np.array(interpreter.get_tensor(detail["index"])) for detail in outs]

    return run


def _details(specs: tuple[TensorSpec, ...], details: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The interpreter's tensors in the signature's order: by name where the names are the interpreter's, else by position."""
    by_name = {detail["name"]: detail for detail in details}
    if all(spec.name in by_name for spec in specs):
        return [by_name[spec.name] for spec in specs]
    if len(specs) != len(details):
        raise ValueError(f"the artifact has {len(details)} tensors where its signature names {len(specs)}")
    return details


_ENGINES: dict[str, Callable[[Path, Signature], Run]] = {"onnx": _onnx, "openvino": _openvino, "tflite": _tflite}
