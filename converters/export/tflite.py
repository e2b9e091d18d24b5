"""TFLite variants by TensorFlow Lite's own converter: float, dynamic, static int8 and 16x8.

Runs in the TensorFlow worker, from the source's SavedModel. What tf.lite has no mode for is made by
`converters.export.tflite_aeq`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from converters.errors import ToolError
from converters.export.base import TFLITE_MODEL, TOOLCHAINS, Array, Exported, Source, write_whole
from converters.export.tflite_file import describe, float_operators, read_model
from converters.export.tflite_trained import WIDTHS, WIDTHS_WHY, with_trained_scales
from converters.export.trained import Trained, trained_kernels
from converters.recipe import Recipe
from converters.support import FACT_UNROLLED_STEPS


def convert_float(saved_model: Path) -> bytes:
    """The plain float32 file. Raises ToolError with the converter's words."""
    import tensorflow as tf

    return _run(tf.lite.TFLiteConverter.from_saved_model(str(saved_model)))


def _run(converter: Any) -> bytes:
    try:
        return bytes(converter.convert())
    except Exception as error:
        # tf.lite raises ConverterError, ValueError, RuntimeError and bare Exception; all of them mean the same here.
        raise ToolError(f"TensorFlow Lite: {_words(error)}") from error


def _words(error: Exception) -> str:
    """What an MLIR diagnostic says, without its locations and its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line] or lines or [type(error).__name__]
    return telling[0].rpartition("error:")[2].strip()[:400]


class TfliteToolchain:
    """`Toolchain` for the tf.lite modes; see `converters.export.base.Toolchain`."""

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._seed = seed

    def versions(self) -> dict[str, str]:
        """Versions of TensorFlow, Keras and LiteRT."""
        return {name: metadata.version(name) for name in TOOLCHAINS["tflite"].packages}

    def export(self, recipe: Recipe, folder: Path) -> Exported:
        """Write `model.tflite`."""
        path = folder / TFLITE_MODEL
        if recipe.mode == "float" and recipe.weights == "f32":
            if not self._source.tflite.is_file():
                write_whole(self._source.tflite, convert_float(self._source.saved_model))
            shutil.copyfile(self._source.tflite, path)
            return describe(path, self._source)
        notes: list[str] = []
        data = self._static(recipe, notes) if recipe.mode == "static" else _run(self._converter(recipe))
        path.write_bytes(data)
        return describe(path, self._source, notes)

    @cached_property
    def _rows(self) -> list[dict[str, Array]]:
        rows, _ = self._source.calibration_rows()
        count = len(next(iter(rows.values())))
        return [{name: x[row : row + 1] for name, x in rows.items()} for row in range(count)]

    def _converter(self, recipe: Recipe) -> Any:
        import tensorflow as tf

        unrolled = recipe.mode == "static" and self._source.unrolled_model.is_dir()
        model = self._source.unrolled_model if unrolled else self._source.saved_model
        converter = tf.lite.TFLiteConverter.from_saved_model(str(model))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if recipe.weights == "f16":
            converter.target_spec.supported_types = [tf.float16]
        if recipe.granularity == "per_tensor":
            converter._experimental_disable_per_channel = True  # noqa: SLF001  tf.lite has no public switch
        return converter

    def _static(self, recipe: Recipe, notes: list[str]) -> bytes:
        """Integer operators only; where the model has one without an integer kernel, that one stays in float."""
        trained = trained_kernels(self._source.facts)
        if trained is not None:
            return self._trained(recipe, trained, notes)
        try:
            data = _run(self._static_converter(recipe, allow_float=False))
        except ToolError as strict:
            if recipe.io == "int":
                remedy = "static_wi8_ai8 keeps the operators without an integer kernel in float"
                raise ToolError(f"no integer-only model: {strict.message}", remedy=remedy) from strict
            data = _run(self._static_converter(recipe, allow_float=True))
        steps = self._source.facts.get(FACT_UNROLLED_STEPS)
        if steps:
            notes.append(
                f"recurrent layers are unrolled over {steps} steps, since TensorFlow Lite's calibrator crashes on loops: "
                "the file grows with the steps"
            )
        left = float_operators(read_model(data))
        if left:
            notes.append(f"computed in float, for want of an integer form: {', '.join(left)}")
        return data

    def _trained(self, recipe: Recipe, trained: Trained, notes: list[str]) -> bytes:
        """With the ranges of the training: nothing is calibrated."""
        import tensorflow as tf

        converter = self._converter(recipe)
        if recipe.io == "int":
            converter.inference_input_type = converter.inference_output_type = tf.int8
        data, found = with_trained_scales(_run(converter), trained, four_bits=recipe.weights == "i4")
        notes += [trained.note(found), *trained.storage_notes(WIDTHS, WIDTHS_WHY)]
        left = float_operators(read_model(data))
        if left:
            notes.append(f"computed in float, where the training left it: {', '.join(left)}")
        return data

    def _static_converter(self, recipe: Recipe, *, allow_float: bool) -> Any:
        import tensorflow as tf

        sixteen = recipe.activations == "i16"
        ops = tf.lite.OpsSet
        integer = (
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8 if sixteen else ops.TFLITE_BUILTINS_INT8
        )
        converter = self._converter(recipe)
        converter.target_spec.supported_ops = [integer, ops.TFLITE_BUILTINS] if allow_float else [integer]
        converter.representative_dataset = self._representative
        if recipe.io == "int":
            converter.inference_input_type = converter.inference_output_type = tf.int16 if sixteen else tf.int8
        return converter

    def _representative(self) -> Iterator[dict[str, Array]]:
        yield from self._rows
