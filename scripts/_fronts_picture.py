"""Both fronts of search_fronts.py in one picture, and a page of its own with the figures. Not part of the product."""

from __future__ import annotations

import html
import json
from typing import Any

LOCAL = "local"
RATIO = {LOCAL: "latency_ratio", "guest": "virtual_time_ratio"}
COLORS = {LOCAL: "#2f7fc4", "guest": "#d9730d"}


def panel(rows: list[dict[str, Any]], title: str, ratio: str, mine: str, left: float) -> str:
    """One scatter: accuracy on test rows against a ratio to the base; both fronts marked, `mine` joined."""
    width, height, top = 360.0, 300.0, 50.0
    xs, ys = [row[ratio] for row in rows], [100 * row["accuracy_test"] for row in rows]
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    span_x, span_y = (high_x - low_x) or 1.0, (high_y - low_y) or 1.0

    def at(row: dict[str, Any]) -> tuple[float, float]:
        x = left + 50 + (row[ratio] - low_x) / span_x * (width - 80)
        return x, top + height - 40 - (100 * row["accuracy_test"] - low_y) / span_y * (height - 70)

    parts = [f'<text x="{left + 50}" y="{top - 18}" font-size="15" font-weight="bold">{html.escape(title)}</text>']
    parts.append(
        f'<rect x="{left + 40}" y="{top}" width="{width - 50}" height="{height - 30}" fill="none" stroke="#7f8c99"/>'
    )
    for share in (0.0, 0.5, 1.0):
        x, y = left + 50 + share * (width - 80), top + height - 40 - share * (height - 70)
        parts.append(
            f'<text x="{x:.0f}" y="{top + height - 12}" font-size="11" text-anchor="middle">{low_x + share * span_x:.2f}</text>'
        )
        parts.append(
            f'<text x="{left + 36}" y="{y + 4:.0f}" font-size="11" text-anchor="end">{low_y + share * span_y:.1f}</text>'
        )
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 6}" font-size="12" text-anchor="middle">{ratio.replace("_", " ")} to fp32</text>'
    )
    line = sorted(at(row) for row in rows if row[f"on_{mine}_front"])
    if line:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[mine]}" stroke-dasharray="4 3"/>')
    for row in rows:
        x, y = at(row)
        title_ = f"{row['recipe']}: {ratio} {row[ratio]:.3f}, accuracy {row['accuracy_test']:.4f}"
        for name, radius in ((LOCAL, 8), ("guest", 5)):
            if row[f"on_{name}_front"]:
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>'
                )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="#1d2733"><title>{html.escape(title_)}</title></circle>'
        )
    return "".join(parts)


def picture(rows: list[dict[str, Any]]) -> str:
    body = panel(rows, "Latency on this host", RATIO[LOCAL], LOCAL, 0.0)
    body += panel(rows, "Instructions on the arm64 guest", RATIO["guest"], "guest", 380.0)
    legend = (
        f'<text x="50" y="385" font-size="12" fill="{COLORS[LOCAL]}">○ on the front found by latency</text>'
        f'<text x="300" y="385" font-size="12" fill="{COLORS["guest"]}">○ on the front found by instructions</text>'
        '<text x="560" y="385" font-size="12">up: accuracy on test rows (%)</text>'
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 400" font-family="system-ui, sans-serif">'
        f'<rect width="760" height="400" fill="#ffffff"/>{body}{legend}</svg>\n'
    )


def page(svg: str, document: dict[str, Any]) -> str:
    columns = (
        "recipe",
        "on_local_front",
        "on_guest_front",
        "accuracy_test",
        "latency_ratio",
        "virtual_time_ratio",
        "clocks_disagree",
    )
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in columns)
    lines = [
        "<tr>"
        + "".join(
            f"<td>{html.escape(f'{row[c]:.3f}' if isinstance(row[c], float) else str(row[c]))}</td>" for c in columns
        )
        + "</tr>"
        for row in document["rows"]
    ]
    words = "".join(f"<p>{html.escape(text)}</p>" for text in document["differences"])
    return (
        f'<!doctype html><meta charset="utf-8"><title>Two fronts</title>{svg}{words}'
        f"<table border=1><tr>{head}</tr>{''.join(lines)}</table><pre>{html.escape(json.dumps(document['kill'], indent=1))}</pre>\n"
    )
