"""What a choice of bits per layer looked at and what it chose: a table and a plot beside the variant.

Written by `converters.compress.mixed_precision`. numpy only.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from converters.compress.mixed_budget import Layer
from converters.compress.mixed_sensitivity import Sensitivities
from converters.compress.svg import Cell, table

CSV, SVG = "mixed_precision.csv", "mixed_precision.svg"
# From that divergence on the cells have their full colour; each power of ten below is a shade lighter.
_FULL, _DECADES = 1.0, 6


def as_csv(layers: Sequence[Layer], found: Sensitivities, chosen: Mapping[str, int]) -> str:
    """One line per layer and number of bits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "weights", "macs", "bits", "divergence", "chosen", "rows"])
    for layer in layers:
        macs = "" if layer.macs is None else layer.macs
        for bits, value in sorted(found.layers[layer.name].items()):
            taken = int(chosen[layer.name] == bits)
            writer.writerow([layer.name, layer.weights, macs, bits, f"{value:.6g}", taken, found.rows])
    return text.getvalue()


def as_svg(layers: Sequence[Layer], found: Sensitivities, chosen: Mapping[str, int], title: str) -> str:
    """One line of cells per layer, in the model's order: its divergence by bits, the darker the larger; what was chosen is framed."""
    columns = sorted({bits for of_layer in found.layers.values() for bits in of_layer})
    says = f"divergence of the answers when that layer alone is rounded ({found.rows} rows); framed: chosen"
    lines = []
    for layer in layers:
        values = found.layers[layer.name]
        cells = [Cell(f"{values[bits]:.2g}", _depth(values[bits]), chosen[layer.name] == bits) for bits in columns]
        lines.append((layer.name, layer.weights, cells))
    return table(title, says, [f"{bits} bits" for bits in columns], lines)


def _depth(value: float) -> float:
    decades = _DECADES if value >= _FULL else _DECADES + math.log10(max(value / _FULL, 10.0**-_DECADES))
    return decades / _DECADES
