"""OpenVINO IR variants: float32, float16, static int8 (with accuracy control if asked), weight-only int8 and int4.

A toolchain of `converters.export.base`: one worker process holds an `OpenvinoToolchain` for the whole matrix. The base is
read once (`openvino_graph`); every recipe compresses a clone with NNCF. TensorFlow is never imported here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from converters.errors import RefusedError, ToolError
from converters.export.base import Array, Exported, Source
from converters.export.openvino_graph import count_types, has_attention, read_base, signature, weight_dtypes
from converters.export.openvino_metric import CalibrationMetric
from converters.export.openvino_trained import WIDTHS, WIDTHS_WHY, with_trained_scales
from converters.export.tool_words import with_words
from converters.export.trained import trained_kernels
from converters.recipe import Recipe

ARTIFACT, WEIGHTS = "model.xml", "model.bin"
PACKAGES = ("openvino", "nncf", "numpy")
# Both packages report their use over the network unless they believe they run in CI; a conversion stays offline.
OFFLINE = {"CI": "true", "NNCF_CI": "1"}
PERCENTILE_CUT = 1e-4
WHOLE_CHANNEL = -1
_COMPRESSIBLE = ("MatMul", "Convolution", "GroupConvolution", "Gather", "Einsum")


class OpenvinoToolchain:
    """Makes every OpenVINO variant of one base model."""

    def __init__(self, source: Source, seed: int) -> None:
        for name, value in OFFLINE.items():
            os.environ.setdefault(name, value)
        self._source = source
        self._seed = seed

    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide the result."""
        return {name: metadata.version(name) for name in PACKAGES}

    @cached_property
    def _base(self) -> tuple[Any, list[str]]:
        return read_base(self._source)

    def export(self, recipe: Recipe, folder: Path) -> Exported:
        """Make one variant in `folder`. Raises RefusedError with the reason, or ToolError with the tool's words."""
        import openvino as ov

        base, base_notes = self._base
        makers: dict[str, Callable[[Recipe, Any], tuple[Any, list[str]]]] = {
            "float": _float,
            "static": self._controlled if recipe.accuracy_control else self._static,
            "weight_only": _weight_only,
        }
        with _quiet():
            model, notes = makers[recipe.mode](recipe, base.clone())
            target = folder / ARTIFACT
            with_words("OpenVINO", lambda: ov.save_model(model, target, compress_to_fp16=recipe.weights == "f16"))
            _compact(target)
            made, read = signature(target, self._source)
        held = weight_dtypes(read)
        del read  # it maps the weights file
        if recipe.mode == "weight_only":
            notes.append(_held_note(recipe, held))
        return Exported(ARTIFACT, (ARTIFACT, WEIGHTS), made, held, (*base_notes, *notes))

    def _feeds(self) -> tuple[list[dict[str, Array]], Array | None]:
        """Calibration rows one by one (NNCF's statistics are per item), and their labels."""
        rows, labels = self._source.calibration_rows()
        count = len(next(iter(rows.values())))
        return [{name: x[i : i + 1] for name, x in rows.items()} for i in range(count)], labels

    def _static(self, recipe: Recipe, model: Any) -> tuple[Any, list[str]]:
        import nncf

        trained = trained_kernels(self._source.facts)
        if trained is not None:
            found = with_trained_scales(model, trained)
            notes = [trained.note(found), *trained.storage_notes(WIDTHS, WIDTHS_WHY)]
            return model, [*notes, *trained.overflow_notes()]
        feeds, _ = self._feeds()
        options = _static_options(recipe, model)
        quantized = with_words(
            "NNCF",
            lambda: nncf.quantize(
                model,
                nncf.Dataset(feeds),
                subset_size=len(feeds),
                advanced_parameters=options.pop("advanced"),
                **options,
            ),
        )
        return quantized, _static_notes(recipe, quantized)

    def _controlled(self, recipe: Recipe, model: Any) -> tuple[Any, list[str]]:
        import nncf

        feeds, labels = self._feeds()
        metric = CalibrationMetric(model, feeds, labels, self._source)
        options = _static_options(recipe, model)
        drop = recipe.max_drop if recipe.max_drop is not None else 0.01
        quantized = with_words(
            "NNCF",
            lambda: nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset(feeds),
                # The validation function gets these items as they are, not transformed.
                nncf.Dataset(list(range(len(feeds)))),
                metric.validate,
                max_drop=drop,
                drop_type=nncf.DropType.ABSOLUTE,
                subset_size=len(feeds),
                advanced_quantization_parameters=options.pop("advanced"),
                **options,
            ),
        )
        before, after = metric.of(model), metric.of(quantized)
        if before - after > drop:
            raise ToolError(
                f"NNCF's accuracy control did not keep the drop of {drop:g}: {metric.name} on the calibration rows fell"
                f" from {before:.4f} to {after:.4f}"
            )
        kept = f"{metric.name} on {len(feeds)} calibration rows: {before:.4f} in float32, {after:.4f} here"
        return quantized, [*_static_notes(recipe, quantized), kept]


def _float(recipe: Recipe, model: Any) -> tuple[Any, list[str]]:
    notes = ["weights are stored as float16; the engine computes in the precision it is asked for"]
    return model, notes if recipe.weights == "f16" else []


def _static_options(recipe: Recipe, model: Any) -> dict[str, Any]:
    """NNCF's arguments for a recipe; `advanced` goes to whichever parameter the function has for it."""
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    advanced = AdvancedQuantizationParameters(
        # u8×s8 products saturate in 16-bit sums on x86 CPUs without VNNI. NNCF's default spares the first layer only, and
        # was seen to ruin a regression output that 7-bit weights in all layers kept.
        overflow_fix=OverflowFix.ENABLE,
        # SmoothQuant multiplied the error of small encoders by eight, and accuracy control gives layers back with the
        # weights they had before smoothing, which leaves them wrong.
        smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
    )
    if recipe.granularity == "per_tensor":
        advanced.weights_quantization_params = QuantizationParameters(per_channel=False)
    if recipe.calibration == "percentile":
        cut = StatisticsCollectorParameters(
            StatisticsType.QUANTILE, AggregatorType.MEAN, quantile_outlier_prob=PERCENTILE_CUT
        )
        advanced.activations_range_estimator_params = RangeEstimatorParameters(min=cut, max=cut)
    preset = nncf.QuantizationPreset.PERFORMANCE if recipe.symmetric_activations else nncf.QuantizationPreset.MIXED
    return {
        "advanced": advanced,
        "preset": preset,
        "model_type": nncf.ModelType.TRANSFORMER if has_attention(model) else None,
    }


def _static_notes(recipe: Recipe, quantized: Any) -> list[str]:
    """What was quantized. Raises RefusedError when nothing was."""
    types, held = count_types(quantized), weight_dtypes(quantized)
    notes = []
    if held.get("int8"):
        notes.append("weights use 7 of their 8 bits, so that products do not saturate on x86 CPUs without VNNI")
    elif recipe.accuracy_control:
        notes.append("accuracy control gave every weight back to float32")
    elif types["FakeQuantize"] == 0:
        raise RefusedError(
            "NNCF found no layer to quantize: it leaves loops of recurrent layers and bare arithmetic in float"
        )
    loops = types["Loop"] + types["TensorIterator"]
    if loops:
        notes.append(f"{loops} loops of recurrent layers stay float32: NNCF does not enter them")
    return notes


def _weight_only(recipe: Recipe, model: Any) -> tuple[Any, list[str]]:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

    if not any(count_types(model)[kind] for kind in _COMPRESSIBLE):
        raise RefusedError(
            "NNCF compresses weights of matrix products, convolutions and embeddings; this model has none"
        )
    modes = nncf.CompressWeightsMode
    if recipe.weights == "i8":
        mode = modes.INT8_SYM if recipe.symmetric_weights else modes.INT8_ASYM
        options: dict[str, Any] = {}
    else:
        mode = modes.INT4_SYM if recipe.symmetric_weights else modes.INT4_ASYM
        options = {
            "ratio": 1.0,
            "group_size": recipe.group_size or WHOLE_CHANNEL,
            "all_layers": True,
            # Layers whose channels a group does not divide take the largest smaller group that does, or 8 bits.
            "advanced_parameters": AdvancedCompressionParameters(
                group_size_fallback_mode=GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=16
            ),
        }
        if recipe.group_size is None:
            del options["advanced_parameters"]
    before = weight_dtypes(model)
    compressed = with_words("NNCF", lambda: nncf.compress_weights(model, mode=mode, **options))
    if weight_dtypes(compressed) == before:
        raise RefusedError(
            "NNCF found no weight to compress: it leaves loops of recurrent layers and small tensors in float"
        )
    return compressed, []


def _held_note(recipe: Recipe, held: dict[str, int]) -> str:
    """How many weights have which width."""
    four, eight = (sum(held.get(f"{sign}int{bits}", 0) for sign in ("", "u")) for bits in (4, 8))
    note = (
        f"constants hold {four} 4-bit, {eight} 8-bit and {held.get('float32', 0) + held.get('float16', 0)} float values"
    )
    if recipe.weights == "i4":
        note += "" if four else "; no weight of this model could take 4 bits"
        note += "; NNCF gives 4 bits to matrix products only, convolutions and embeddings it leaves at 8"
    return note


def _compact(path: Path) -> None:
    """Drop the indentation (a sixth of a small model) and the paths of this conversion from an .xml file.

    Attribute values hold no raw "<", so white space between ">" and "<" is indentation only.
    """
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<conversion_parameters>.*?</conversion_parameters>", "", text, flags=re.DOTALL)
    path.write_text(re.sub(r">\s+<", "><", text), encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars away and NNCF's messages to stderr, the worker's log: its stdout may carry results."""
    logger = logging.getLogger("nncf")
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
