"""Curves with bands as one SVG, for the scripts that show what is found against what it costs. Not part of the product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLORS = ("#2f7fc4", "#d9730d", "#2b9348", "#b5179e", "#6b4f2a", "#555555")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860.0, 480.0, 70.0, 50.0, 190.0, 60.0


@dataclass(frozen=True, slots=True)
class Curve:
    """`points`: (x, y); `band`: (x, low, high); `marks`: (x, y) of single runs. Each in rising order of x."""

    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    marks: Sequence[tuple[float, float]] = ()


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between."""
    raw = (high - low) / about
    power = 10.0 ** len(str(int(1 / raw))) if raw < 1 else 1.0
    step = next(size / power * 10**k for k in range(8) for size in (1, 2, 5) if size / power * 10**k >= raw)
    first = -(-low // step) * step
    return [first + place * step for place in range(int((high - first) / step + 1e-9) + 1)]


def picture(curves: Mapping[str, Curve], title: str, x_label: str, y_label: str, best: float | None = None) -> str:
    """All curves in one frame; `best`: a line at the best there is."""
    drawn = [point for curve in curves.values() for point in (*curve.points, *curve.marks)]
    drawn += [(x, y) for curve in curves.values() for x, low, high in curve.band for y in (low, high)]
    xs, ys = [x for x, _ in drawn], [y for _, y in drawn] + ([] if best is None else [best])
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    pad = 0.04 * ((high_y - low_y) or 1.0)
    low_y, high_y = low_y - pad, high_y + pad

    def at(x: float, y: float) -> str:
        across = LEFT + (x - low_x) / ((high_x - low_x) or 1.0) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{HEIGHT - BOTTOM - (y - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [_text(LEFT, TOP - 22, title, size=16)]
    for y in ticks(low_y, high_y):
        parts.append(f'<path d="M{at(low_x, y)} L{at(high_x, y)}" stroke="#e3e6ea"/>')
        parts.append(_text(LEFT - 8, float(at(low_x, y).split(",")[1]) + 4, f"{y:g}"[:7], anchor="end"))
    parts += [
        _text(float(at(x, low_y).split(",")[0]), HEIGHT - BOTTOM + 18, f"{x:g}", anchor="middle")
        for x in ticks(low_x, high_x)
    ]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, anchor="middle"))
    parts.append(_text(LEFT, TOP - 6, y_label))
    if best is not None:
        parts.append(f'<path d="M{at(low_x, best)} L{at(high_x, best)}" stroke="#111" stroke-dasharray="2 4"/>')
    for number, (name, curve) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        if curve.band:
            upper = [at(x, high) for x, _, high in curve.band]
            lower = [at(x, low) for x, low, _ in reversed(curve.band)]
            parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{color}" opacity="0.12"/>')
        line = " ".join(at(x, y) for x, y in curve.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        if curve.marks:
            dotted = " ".join(at(x, y) for x, y in curve.marks)
            parts.append(f'<polyline points="{dotted}" fill="none" stroke="{color}" stroke-dasharray="5 4"/>')
        parts.append(_text(WIDTH - RIGHT + 14, TOP + 20 + 20 * number, f"— {name}", fill=color, size=13))
    size = f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif">'
        f'<rect width="{WIDTH:g}" height="{HEIGHT:g}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, fill: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">{escape(text)}</text>'
    )
