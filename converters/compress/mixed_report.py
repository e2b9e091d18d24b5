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
from converters.compress.svg import LINE, shortened, text

CSV, SVG = "mixed_precision.csv", "mixed_precision.svg"
_LABEL, _CELL, _TOP = 300, 78, 4
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
    width, height = _LABEL + _CELL * len(columns) + 20, LINE * (len(layers) + _TOP) + 16
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(10, 1, title, weight="bold"),
        text(10, 2, f"divergence of the answers when that layer alone is rounded ({found.rows} rows); framed: chosen"),
        *(text(_LABEL + _CELL * (k + 0.5), 3, f"{bits} bits", "middle") for k, bits in enumerate(columns)),
    ]
    for line, layer in enumerate(layers, start=_TOP):
        parts.append(text(10, line, f"{shortened(layer.name)} ({layer.weights})"))
        for column, bits in enumerate(columns):
            parts.append(_cell(line, column, found.layers[layer.name][bits], framed=chosen[layer.name] == bits))
    return "\n".join([*parts, "</svg>\n"])


def _cell(line: int, column: int, value: float, *, framed: bool) -> str:
    decades = _DECADES if value >= _FULL else _DECADES + math.log10(max(value / _FULL, 10.0**-_DECADES))
    depth = decades / _DECADES
    red, green, blue = (round(255 + (end - 255) * depth) for end in (180, 30, 40))
    x = _LABEL + _CELL * column
    stroke = 'stroke="black" stroke-width="2.5"' if framed else 'stroke="#ccc" stroke-width="0.5"'
    box = (
        f'<rect x="{x + 1}" y="{(line - 1) * LINE + 1}" width="{_CELL - 4}" height="{LINE - 4}" '
        f'fill="rgb({red},{green},{blue})" {stroke}/>'
    )
    dark = 0.6
    return box + text(x + _CELL / 2 - 1, line, f"{value:.2g}", "middle", fill="white" if depth > dark else "#222")
