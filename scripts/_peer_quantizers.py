"""Post-training quantizers of NNCF, ONNX Runtime and ai-edge-quantizer on a float variant, each in its own best modes. Not part of the product.

Every function takes the fp32 variant that this project made of the base, calibration rows by name in the base's layout, and writes the
quantized file. On x86 CPUs without VNNI 8-bit weights saturate in 16-bit sums, so NNCF and ONNX Runtime get the option that they have
against it; NNCF's default is there beside it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _evaluate import _fed

from converters.variant import Variant

Rows = dict[str, np.ndarray]
Quantizer = Callable[[Variant, Rows, Path], None]
PER_CHANNEL, PER_TENSOR = "per_channel", "per_tensor"


def _feeds(variant: Variant, rows: Rows) -> list[Rows]:
    """One row each, as the float file wants it."""
    signature = variant.manifest.signature
    assert signature is not None  # noqa: S101  every variant of ours has one
    count = len(next(iter(rows.values())))
    return [
        {spec.name: _fed(rows[spec.source or spec.name][i : i + 1], spec) for spec in signature.inputs}
        for i in range(count)
    ]


def nncf(
    variant: Variant,
    rows: Rows,
    target: Path,
    *,
    fast: bool,
    granularity: str = PER_CHANNEL,
    half_range: bool = True,
    align: bool = False,
) -> None:
    """`fast`: fast_bias_correction; without it NNCF corrects layer by layer. `half_range`: 7-bit weights everywhere, else in the
    first layer only (NNCF's default). `align`: its equalisation of channels, off by default."""
    import nncf as tool
    import openvino as ov
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )

    advanced = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.ENABLE if half_range else OverflowFix.FIRST_LAYER, disable_channel_alignment=not align
    )
    if granularity == PER_TENSOR:
        advanced.weights_quantization_params = QuantizationParameters(per_channel=False)
    feeds = _feeds(variant, rows)
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = tool.quantize(
            ov.Core().read_model(variant.artifact),
            tool.Dataset(feeds),
            preset=tool.QuantizationPreset.MIXED,
            subset_size=len(feeds),
            fast_bias_correction=fast,
            advanced_parameters=advanced,
        )
    ov.save_model(quantized, target, compress_to_fp16=False)


def onnxruntime(
    variant: Variant, rows: Rows, target: Path, *, method: str, granularity: str = PER_CHANNEL, half_range: bool = True
) -> None:
    """`method`: MinMax, Entropy or Percentile. `half_range`: 7-bit weights (reduce_range)."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self._feeds = iter(_feeds(variant, rows))

        def get_next(self) -> Rows | None:
            return next(self._feeds, None)

    ready = target.with_suffix(".ready.onnx")
    quant_pre_process(str(variant.artifact), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=granularity == PER_CHANNEL,
        reduce_range=half_range,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, method),
    )
    ready.unlink()


def ai_edge_quantizer(
    variant: Variant,
    rows: Rows,
    target: Path,
    *,
    bits: int = 8,
    algorithm: str = "MIN_MAX_UNIFORM_QUANT",
    granularity: str = PER_CHANNEL,
) -> None:
    """Static integers with int8 activations and weights of 8 or 4 bits, by one of the tool's algorithms."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    tool = quantizer.Quantizer(str(variant.artifact))
    wise = qtyping.QuantGranularity
    tool.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=bits,
        weight_granularity=wise.CHANNELWISE if granularity == PER_CHANNEL else wise.TENSORWISE,
        algorithm_key=getattr(algorithm_manager.AlgorithmName, algorithm),
    )
    signatures = Interpreter(model_path=str(variant.artifact)).get_signature_list()
    key = next(iter(signatures))
    names = signatures[key]["inputs"]
    feeds = _feeds(variant, rows)
    # Our own names of tensors may differ from the signature's; a model of one input has no doubt about it.
    renamed = [dict(zip(names, feed.values(), strict=True)) if len(names) == 1 else feed for feed in feeds]
    found = tool.calibrate({key: renamed}, num_threads=1)
    target.write_bytes(bytes(tool.quantize(found).quantized_model))


def peers(fmt: str, granularity: str, bits: int) -> dict[str, Quantizer]:
    """The quantizers of a format by the words of a row's `method`; none where the format has no such integers."""
    if fmt == "openvino" and bits == 8:
        found = {
            "NNCF fast_bias_correction": partial(nncf, fast=True, granularity=granularity),
            "NNCF bias correction": partial(nncf, fast=False, granularity=granularity),
            "NNCF bias correction, channel alignment": partial(nncf, fast=False, align=True, granularity=granularity),
            "NNCF default": partial(nncf, fast=True, half_range=False, granularity=granularity),
        }
        return dict(found)
    if fmt == "onnx" and bits == 8:
        methods = ("MinMax", "Entropy", "Percentile")
        return {f"ONNX Runtime {m}": partial(onnxruntime, method=m, granularity=granularity) for m in methods}
    if fmt == "tflite":
        algorithms = ("MIN_MAX_UNIFORM_QUANT", "MSE", "OCTAV", "GPTQ")
        return {
            f"ai-edge-quantizer {a}": partial(ai_edge_quantizer, bits=bits, algorithm=a, granularity=granularity)
            for a in algorithms
        }
    return {}


def run_tflite(path: Path, x: np.ndarray) -> np.ndarray:
    """First output, float32 [n, …], of a file whose sole input and outputs may be integers, row by row."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (into,), out = interpreter.get_input_details(), interpreter.get_output_details()[0]
    found: list[Any] = []
    for row in x:
        fed = row[None]
        if np.issubdtype(into["dtype"], np.integer):
            scale, zero = into["quantization"]
            limits = np.iinfo(into["dtype"])
            fed = np.clip(np.rint(fed / scale) + zero, limits.min, limits.max)
        interpreter.set_tensor(into["index"], fed.astype(into["dtype"]))
        interpreter.invoke()
        y = interpreter.get_tensor(out["index"]).astype(np.float32)
        if np.issubdtype(out["dtype"], np.integer):
            scale, zero = out["quantization"]
            y = (y - zero) * scale
        found.append(y[0])
    return np.stack(found)
