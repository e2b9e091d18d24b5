"""Accuracy against mean weight bits: one precision for all layers, bits by layer, and bits by layer trained on.

    python scripts/mixed_precision_reference.py --data DIR [--work DIR] [--bits 8 6 5 4 3] [--methods single mixed gradient]

DIR holds fashion_mnist_dev.npz. Trains a small MobileNetV2-style network where there is none yet, converts it with the public command
(`harness convert`, whose cache lets a call that was killed go on), and counts right answers of every variant on all test images by plain
calls of its engine. Writes one flat row per method × bits × format to results/reference/mixed_precision.json (rows of the same three are
replaced), those that failed too, and draws them all as results/reference/mixed_precision.svg. Bits are chosen by validation rows out of
the training images; test images only test. About 15 minutes on two cores; one call for each of --bits is as good. The control `single_gradient` (one
precision, trained on as long) takes another 8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from _evaluate import outputs
from _reference_models import ROOT, prepare
from _wall_time import command, note

from converters.variant import load_variant
from harness.stats.proportions import paired_difference, wilson

OUT = ROOT / "results" / "reference" / "mixed_precision.json"
MODEL = "mobilenet_v2"
FORMATS = ("tflite", "onnx", "openvino")
BITS = (8.0, 6.0, 5.0, 4.0, 3.0)
PRECISION = "static_wi8_ai8"
EPOCHS = 4
# Method → the step for a mean of so many bits.
METHODS = {
    "single": "mixed({0:g}, candidates={0:g})",
    "mixed": "mixed({0:g})",
    "gradient": f"mixed({{0:g}}, epochs={EPOCHS})",
    "single_gradient": f"mixed({{0:g}}, candidates={{0:g}}, epochs={EPOCHS})",
}
NAMES = {
    "single": "single precision",
    "mixed": "mixed",
    "gradient": "mixed + gradient",
    "single_gradient": "single precision + gradient",
}
COLOURS = {"single": "#888888", "mixed": "#1f77b4", "gradient": "#d62728", "single_gradient": "#e6a23c"}


def convert(model: Path, data: Path, work: Path, chains: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Rows of one `harness convert --json`."""
    argv = [str(Path(sys.executable).with_name("harness")), "convert", str(model), "--data", str(data)]
    argv += ["--recipes", ", ".join(chains), "--out", str(work), "--seed", str(seed), "--json"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 4):
        raise SystemExit(f"exit code {done.returncode}\n{done.stdout[-4000:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def answered(folder: Path, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which test rows the variant has right, bool [n]."""
    variant = load_variant(folder)
    found = outputs(variant, {variant.manifest.signature.inputs[0].source: images})
    return np.asarray(found.argmax(-1) == labels)


def described(folder: Path) -> dict[str, Any]:
    """Sizes and bits of one variant."""
    manifest = load_variant(folder).manifest
    step = next((each for each in manifest.lineage if each["step"] == "mixed"), None)
    figures = {} if step is None else step["figures"]
    return {
        "recipe": manifest.recipe["name"],
        "mean_weight_bits": figures.get("mean_weight_bits"),
        "divergence_expected": figures.get("divergence_expected"),
        "validation_score": figures.get("validation_score"),
        "step_seconds": None if step is None else step["seconds"],
        "size_bytes": manifest.size_bytes,
        "size_gzip_bytes": manifest.size_gzip_bytes,
        "size_entropy_bytes": manifest.size_entropy_bytes,
        "notes": list(manifest.notes),
        "bits": figures.get("bits"),
    }


def judged(right: np.ndarray | None, others: dict[str, np.ndarray | None]) -> dict[str, Any]:
    """Accuracy with its 95 % interval, and the points gained over each other method of the same bits and format, on the same rows."""
    if right is None:
        return {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "test_rows": None}
    low, high = wilson(int(right.sum()), len(right))
    row = {"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high, "test_rows": len(right)}
    for name, other in others.items():
        gain = None if other is None else paired_difference(right, other)
        row[f"over_{name}_pp"] = None if gain is None else 100 * gain.value
        row[f"over_{name}_low_pp"] = None if gain is None else 100 * gain.low
        row[f"over_{name}_high_pp"] = None if gain is None else 100 * gain.high
    return row


def study(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows."""
    model, data = prepare(MODEL, arguments.data, arguments.work / "bases", arguments.seed)
    asked = {
        f"{METHODS[method].format(bits)} > {PRECISION} @ {fmt}": (fmt, bits, method)
        for bits in arguments.bits
        for method in arguments.methods
        for fmt in arguments.formats
    } | {f"fp32 @ {fmt}": (fmt, 32.0, "fp32") for fmt in arguments.formats}
    rows = convert(model, data, arguments.work / "variants", list(asked), arguments.seed)
    with np.load(data, allow_pickle=False) as file:
        images, labels = file["x_test"][: arguments.limit], file["y_test"][: arguments.limit]
    extra = {
        "model": MODEL,
        "seed": arguments.seed,
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    made = dict(zip(asked.values(), rows, strict=True))
    right = {kind: answered(Path(row["folder"]), images, labels) for kind, row in made.items() if row["status"] == "ok"}
    found = []
    for (fmt, bits, method), row in made.items():
        others = {} if method == "fp32" else {other: right.get((fmt, bits, other)) for other in METHODS}
        others.pop(method, None)
        own = {"format": fmt, "method": method, "bits_wanted": bits, "status": row["status"], "error": row.get("error")}
        if row["status"] == "ok":
            own |= described(Path(row["folder"]))
        found.append(own | judged(right.get((fmt, bits, method)), others) | extra)
    return found


def keep(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Put the rows beside those that are there; the same method, bits and format are replaced. All of them."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    new = {(row["format"], row["method"], row["bits_wanted"]): row for row in [*old, *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    every = [new[key] for key in sorted(new)]
    path.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
    return every


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """One panel per format: accuracy with 95 % intervals against mean bits, a line per method. Of rows that succeeded, two at least."""
    panels = [fmt for fmt in FORMATS if any(row["format"] == fmt for row in rows)]
    width, height, left, top = 380, 300, 60, 50
    every = [row for row in rows if row["method"] != "fp32"]
    low = min(row["accuracy_low"] for row in every)
    high = max(row["accuracy_high"] for row in rows)
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    across = max(width * len(panels), left + 190 * len(methods))
    size = f'viewBox="0 0 {across} {height + 75}" width="{across}" height="{height + 75}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{across}" height="{height + 75}" fill="white"/>',
    ]
    for number, fmt in enumerate(panels):
        own = [row for row in rows if row["format"] == fmt]
        parts += _panel(own, fmt, number * width + left, top, (width - left - 20, height - top), (low, high))
    for index, method in enumerate(methods):
        x = left + 190 * index
        parts.append(f'<rect x="{x}" y="{height + 53}" width="14" height="4" fill="{COLOURS[method]}"/>')
        parts.append(f'<text x="{x + 20}" y="{height + 59}">{escape(NAMES[method])}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    rows: Sequence[dict[str, Any]], title: str, x0: int, y0: int, size: tuple[int, int], span: tuple[float, float]
) -> list[str]:
    width, height = size
    bits = sorted({row["bits_wanted"] for row in rows if row["method"] != "fp32"})

    def x(value: float) -> float:
        return x0 + width * (value - bits[0] + 0.3) / (bits[-1] - bits[0] + 0.6)

    def y(value: float) -> float:
        return y0 + height * (1 - (value - span[0]) / (span[1] - span[0]))

    parts = [
        f'<text x="{x0 + width / 2}" y="{y0 - 20}" text-anchor="middle" font-weight="bold">{title}</text>',
        f'<rect x="{x0}" y="{y0}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>',
        f'<text x="{x0 + width / 2}" y="{y0 + height + 32}" text-anchor="middle">mean bits of the weights</text>',
    ]
    parts += [
        f'<text x="{x(value):.1f}" y="{y0 + height + 16}" text-anchor="middle">{value:g}</text>' for value in bits
    ]
    for value in np.linspace(*span, 5):
        parts.append(f'<text x="{x0 - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1%}</text>')
        parts.append(f'<path d="M{x0} {y(value):.1f}h{width}" stroke="#eee"/>')
    for row in (row for row in rows if row["method"] == "fp32"):
        parts.append(f'<path d="M{x0} {y(row["accuracy"]):.1f}h{width}" stroke="#444" stroke-dasharray="5 4"/>')
        parts.append(f'<text x="{x0 + 4}" y="{y(row["accuracy"]) - 4:.1f}">float32</text>')
    for index, method in enumerate(METHODS):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["bits_wanted"])
        if not own:
            continue
        aside = 4 * (index - 1)  # intervals beside each other
        points = [(x(row["bits_wanted"]) + aside, row) for row in own]
        line = " ".join(f"{at:.1f},{y(row['accuracy']):.1f}" for at, row in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[method]}" stroke-width="2"/>')
        for at, row in points:
            low, high = y(row["accuracy_low"]), y(row["accuracy_high"])
            parts.append(f'<path d="M{at:.1f} {low:.1f}V{high:.1f}" stroke="{COLOURS[method]}"/>')
            parts.append(f'<circle cx="{at:.1f}" cy="{y(row["accuracy"]):.1f}" r="3" fill="{COLOURS[method]}"/>')
    return parts


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a table."""
    columns = ("format", "method", "bits_wanted", "mean_weight_bits", "accuracy", "accuracy_low", "accuracy_high")
    columns = (*columns, "over_single_pp", "over_mixed_pp", "size_bytes", "size_entropy_bytes", "step_seconds", "error")
    print("| " + " | ".join(columns) + " |")
    for row in rows:
        cells = [row.get(name) for name in columns]
        print("| " + " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("compression-work"))
    parser.add_argument("--bits", type=float, nargs="+", default=list(BITS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["single", "mixed", "gradient"])
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only that many test rows, to try the script")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.limit is not None and arguments.out == OUT:
        parser.error("--limit is to try the script: give --out as well")
    arguments.work = arguments.work.resolve()
    begun = time.monotonic()
    rows = study(arguments)
    show(rows)
    every = keep(rows, arguments.out)
    drawn = [row for row in every if row["status"] == "ok"]
    if any(row["method"] != "fp32" for row in drawn):
        arguments.out.with_suffix(".svg").write_text(draw(drawn), encoding="utf-8")
    note(arguments.out.parent, time.monotonic() - begun)
    print(f"{time.monotonic() - begun:.0f} s; {len(rows)} rows in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
