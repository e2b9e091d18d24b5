"""What the steps that refine a quantized model begin with: the model with its ranges, and the float model that it was made of.

A step that stands first in its chain is given a float model and chooses the ranges by itself, as `calibrate` would by default; one that stands
behind another is given a fake-quantised model, and finds the float one where the chain keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.compress.calibrate import DEFAULT_BITS, Settings, histograms, quantized
from converters.compress.context import CLUSTERS, Context, Rows
from converters.compress.float_twin import FloatTwin, calibration_rows, float_twin
from converters.errors import ToolError


@dataclass(frozen=True, slots=True, eq=False)
class Refining:
    """`model`: the fake-quantised model, to be changed in place. `twin`: of the float model. `made`: the settings of ranges that were
    chosen here, or None."""

    model: Any
    twin: FloatTwin
    rows: Rows
    made: Mapping[str, Any] | None


def begin(model: Any, weight_bits: int | None, context: Context, what: str) -> Refining:
    """The model with its ranges, and its twin. `weight_bits`: where no earlier step has decided them (None: 8).

    Raises ToolError without calibration rows or when the chain kept no float model, RefusedError when nothing can be rounded.
    """
    rows = calibration_rows(context, what)
    if context.unrounded is None:
        settings = Settings(weight_bits=weight_bits or DEFAULT_BITS, keep_shared=CLUSTERS in context.preserve)
        twin = float_twin(model)
        made = {"ranges": settings.method, "weight_bits": settings.weight_bits, "granularity": settings.granularity}
        return Refining(quantized(model, twin, histograms(twin, rows), settings), twin, rows, made)
    twin = float_twin(context.unrounded())
    names = {layer.name for layer in model.layers}
    lost = [name for name in twin.network.layers if name not in names]
    if lost:
        raise ToolError(f"{what}: the quantized model has no layer {lost[0]}, which the float model has")
    return Refining(model, twin, rows, None)
