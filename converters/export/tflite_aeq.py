"""TFLite variants by ai-edge-quantizer: weight-only int8 and int4, dynamic int4 (tf.lite has no such modes).

Works on the source's float32 file, in a worker without TensorFlow.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from converters.errors import RefusedError, ToolError
from converters.export.base import TFLITE_MODEL, TOOLCHAINS, Exported, Source
from converters.export.tflite_file import describe
from converters.recipe import Recipe

_BITS = {"i8": 8, "i4": 4}


class AiEdgeQuantizerToolchain:
    """`Toolchain` for the modes of ai-edge-quantizer; see `converters.export.base.Toolchain`."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._seed = seed

    def versions(self) -> dict[str, str]:
        """Versions of the quantizer, LiteRT, and of what made the float file."""
        return {name: metadata.version(name) for name in TOOLCHAINS["ai_edge_quantizer"].packages}

    def export(self, recipe: Recipe, folder: Path) -> Exported:
        """Write `model.tflite`."""
        path = folder / TFLITE_MODEL
        try:
            path.write_bytes(self._quantized(recipe))
        except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError, IndexError) as error:
            raise ToolError(f"ai-edge-quantizer: {' '.join(str(error).split())[:400]}") from error
        exported = describe(path, self._source)
        integer = f"int{_BITS[recipe.weights]}"
        if integer not in exported.weight_dtypes:
            raise RefusedError(f"this model has no operator whose weights TFLite can store as {integer}")
        return exported

    def _quantized(self, recipe: Recipe) -> bytes:
        from ai_edge_quantizer import qtyping, quantizer

        granularity: Any = (
            qtyping.QuantGranularity.TENSORWISE
            if recipe.granularity == "per_tensor"
            else qtyping.QuantGranularity.CHANNELWISE
        )
        tool = quantizer.Quantizer(str(self._source.tflite))
        add = tool.add_dynamic_config if recipe.mode == "dynamic" else tool.add_weight_only_config
        add(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            num_bits=_BITS[recipe.weights],
            granularity=granularity,
        )
        return bytes(tool.quantize().quantized_model)
