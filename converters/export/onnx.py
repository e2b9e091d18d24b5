"""ONNX variants: float32, float16, dynamic int8, static int8 (QDQ) and weight-only int4, for ONNX Runtime.

A toolchain of `converters.export.base`: one worker process holds an `OnnxToolchain` for the whole matrix. The graph is
prepared once (`onnx_graph`), activations are measured once (`onnx_ranges`), and each recipe then quantizes a copy.
TensorFlow is never imported here.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from converters.errors import RefusedError
from converters.export.base import Exported, Source
from converters.export.onnx_graph import (
    F16_MAX,
    F16_MIN,
    Prepared,
    constant_tensors,
    count_ops,
    nodes,
    prepare,
    signature,
    values_outside_float16,
    weight_dtypes,
)
from converters.export.onnx_ranges import ActivationRanges
from converters.export.onnx_rewrites import share_equal_constants
from converters.export.onnx_trained import WIDTHS, WIDTHS_WHY, with_trained_scales
from converters.export.tool_words import with_words
from converters.export.trained import trained_kernels
from converters.recipe import Recipe

ARTIFACT = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxslim", "numpy")
# Operators whose inputs and outputs static quantization turns to 8 bits: those that compute, and those that pass on.
STATIC_OPS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Relu", "Clip", "LeakyRelu"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Pad", "Resize", "Split", "Slice"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"),
)
# In a convolutional network also these, or residuals and gates would go back to float between integer layers. Elsewhere
# they belong to layer norm, gelu and attention, where 8 bits made the file half larger and the graph no faster.
CONVOLUTIONAL_OPS = ("Add", "Mul", "Sigmoid")
_INT8_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class OnnxToolchain:
    """Makes every ONNX variant of one base model."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._seed = seed
        self._scratch = Path(tempfile.mkdtemp(prefix="onnx-toolchain-"))
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)

    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide the result."""
        return {name: metadata.version(name) for name in PACKAGES}

    @cached_property
    def _prepared(self) -> Prepared:
        return prepare(self._source, self._scratch / "prepare")

    @cached_property
    def _static_ops(self) -> tuple[str, ...]:
        ops = count_ops(self._prepared.model)
        return (*STATIC_OPS, *CONVOLUTIONAL_OPS) if ops["Conv"] or ops["ConvTranspose"] else STATIC_OPS

    @cached_property
    def _ranges(self) -> ActivationRanges:
        rows, _ = self._source.calibration_rows()
        axes = self._prepared.input_axes
        moved = {name: x.transpose(axes[name]) if name in axes else x for name, x in rows.items()}
        return ActivationRanges(self._prepared.model, self._static_ops, moved, self._scratch / "ranges")

    def export(self, recipe: Recipe, folder: Path) -> Exported:
        """Make one variant in `folder`. Raises RefusedError with the reason, or ToolError with the tool's words."""
        import onnx

        makers: dict[str, Callable[[Recipe], tuple[Any, list[str]]]] = {
            "float": self._half if recipe.weights == "f16" else self._float,
            "dynamic": self._dynamic,
            "static": self._static,
            "weight_only": self._int4,
        }
        model, notes = makers[recipe.mode](recipe)
        onnx.save(model, folder / ARTIFACT)
        return Exported(
            ARTIFACT,
            (ARTIFACT,),
            signature(model, self._source, self._prepared),
            weight_dtypes(model),
            (*self._prepared.notes, *notes),
        )

    def _copy(self) -> Any:
        return copy.deepcopy(self._prepared.model)

    def _float(self, _recipe: Recipe) -> tuple[Any, list[str]]:
        before, after = self._prepared.transposes_before, self._prepared.transposes
        return self._copy(), [f"{after} Transpose nodes ({before} in the exported graph)"] if before else []

    def _half(self, _recipe: Recipe) -> tuple[Any, list[str]]:
        # onnxconverter-common writes invalid graphs where there are loops or casts; ONNX Runtime's own copy does not.
        from onnxruntime.transformers.float16 import convert_float_to_float16

        notes = ["inputs and outputs stay float32; ONNX Runtime's CPU provider computes most operators in float32"]
        outside = values_outside_float16(self._prepared.model)
        if outside:
            notes.append(f"{outside} weights lie outside float16's range and were clipped to it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the clipping, which the note counts
            return with_words(
                "ONNX Runtime's float16 converter",
                lambda: convert_float_to_float16(
                    self._copy(), min_positive_val=F16_MIN, max_finite_val=F16_MAX, keep_io_types=True
                ),
            ), notes

    def _dynamic(self, recipe: Recipe) -> tuple[Any, list[str]]:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata

        # Whole-model dynamic quantization would turn Conv into ConvInteger, which has no fast kernel.
        before = count_ops(self._prepared.model)
        target = self._scratch / "dynamic.onnx"
        model = _without_gemm(self._copy())
        if not _constant_products(model) and not before["LSTM"]:
            raise RefusedError(
                "dynamic int8 applies to MatMul, Gemm and LSTM with constant weights, and this model has none; "
                "convolutions are left out because ONNX Runtime runs dynamic ones (ConvInteger) far slower than float"
            )
        add_pre_process_metadata(model)  # the graph is prepared: no advice needed
        # Unsigned weights keep all 8 bits: u8×u8 products cannot saturate on x86 CPUs without VNNI, u8×s8 can. An LSTM's
        # weights are signed whatever is asked for, so there 7 bits have to do.
        reduced = recipe.reduce_range or before["LSTM"] > 0
        with_words(
            "ONNX Runtime's quantize_dynamic",
            lambda: quantize_dynamic(
                model,
                target,
                op_types_to_quantize=["MatMul", "LSTM"],
                per_channel=recipe.granularity == "per_channel",
                reduce_range=reduced,
                weight_type=QuantType.QInt8 if reduced else QuantType.QUInt8,
                extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
            ),
        )
        made = _load(target)
        return made, _dynamic_notes(count_ops(made), weight_dtypes(made))

    def _static(self, recipe: Recipe) -> tuple[Any, list[str]]:
        import numpy as np
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        trained = trained_kernels(self._source.facts)
        if trained is not None:
            model = self._copy()
            found = with_trained_scales(model, trained, signed=recipe.activations == "i8")
            notes = [trained.note(found), *trained.storage_notes(WIDTHS, WIDTHS_WHY)]
            return model, [*notes, *trained.overflow_notes()]
        if not any(count_ops(self._prepared.model)[op] for op in _INT8_OPS):
            raise RefusedError("static int8 applies to convolutions and matrix products, and this model has none")
        ranges = {
            name: (np.array(low, np.float32), np.array(high, np.float32))
            for name, (low, high) in self._ranges.get(recipe.calibration).items()
        }
        quantizer = QDQQuantizer(
            self._copy(),
            recipe.granularity == "per_channel",
            recipe.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8 if recipe.activations == "i8" else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, ranges),
            [],
            [],
            list(self._static_ops),
            {"ActivationSymmetric": recipe.symmetric_activations, "WeightSymmetric": True},
        )
        with_words("ONNX Runtime's QDQ quantizer", quantizer.quantize_model)
        model = quantizer.model.model
        share_equal_constants(model)
        return model, _static_notes(recipe, count_ops(model), weight_dtypes(model))

    def _int4(self, recipe: Recipe) -> tuple[Any, list[str]]:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        model = _without_gemm(self._copy())
        if not _constant_products(model):
            raise RefusedError(
                "weight-only int4 needs a MatMul or Gemm with a constant weight (MatMulNBits), and this model has none; "
                "convolutions and recurrent layers have no 4-bit form in ONNX Runtime"
            )
        quantizer = MatMulNBitsQuantizer(
            model,
            block_size=recipe.group_size or 32,
            is_symmetric=recipe.symmetric_weights,
            op_types_to_quantize=("MatMul",),
        )
        with_words("ONNX Runtime's MatMulNBits quantizer", quantizer.process)
        made = quantizer.model.model
        held = weight_dtypes(made)
        note = f"{held.get('int4', 0)} weights of MatMul have 4 bits; {held.get('float32', 0)} other constants stay float32"
        return made, [note]


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def _without_gemm(model: Any) -> Any:
    """Gemm as MatMul + Add, so that quantizers which only know MatMul reach the weights of Dense layers."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    return wrapped.model


def _constant_products(model: Any) -> int:
    """MatMul nodes whose second input is a constant matrix."""
    constants = {tensor.name for tensor in constant_tensors(model.graph) if len(tensor.dims) >= 2}  # noqa: PLR2004
    return sum(node.op_type == "MatMul" and node.input[1] in constants for node in nodes(model.graph))


def _dynamic_notes(ops: Any, held: dict[str, int]) -> list[str]:
    small = held.get("int8", 0) + held.get("uint8", 0)
    notes = [
        f"{small} weights have 8 bits (MatMul, Gemm and LSTM only); {held.get('float32', 0)} constants stay float32"
    ]
    if ops["Conv"]:
        notes.append("convolutions stay float32: ONNX Runtime's dynamic ConvInteger is many times slower than float")
    return notes


def _static_notes(recipe: Recipe, ops: Any, held: dict[str, int]) -> list[str]:
    notes = []
    if not recipe.reduce_range:
        notes.append(
            "8-bit signed weights saturate in 16-bit sums on x86 CPUs without VNNI; exact on ARM and with VNNI"
        )
    recurrent = sum(ops[op] for op in ("LSTM", "GRU", "RNN", "Loop"))
    if recurrent:
        notes.append(f"{recurrent} recurrent or loop nodes stay float32; {held.get('int8', 0)} weights have 8 bits")
    return notes
