"""docs/compression-results.md of results/reference/*.json: what was measured, as tables. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _compression_verdicts import verdicts

Row = dict[str, Any]
FORMATS = ("tflite", "onnx", "openvino")
REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference"

PAGE = """# Compression: what was measured

*Made by `scripts/make_docs.py` from results/reference/compression.json, which `scripts/compression_reference.py` writes. One machine
(two x86-64 cores, without VNNI), one seed; test rows that no step, no calibration and no choice has seen.*

Accuracy: points lost against the fp32 file of the same format, with the 95 % interval in TFLite. Bytes and products are of the TFLite
file. Latency: of the fp32 file's in the same session, TFLite / ONNX Runtime / OpenVINO. Seconds: of all steps of the chain on one core.

{models}
## What it shows

{verdicts}
"""
NAMES = {
    "fashion": "Depthwise-separable CNN, Fashion-MNIST",
    "imu": "1-D CNN, a watch's motion, persons never seen",
    "lenet300": "LeNet-300-100, Fashion-MNIST",
    "lenet5": "LeNet-5, Fashion-MNIST",
    "lenet300_mnist": "LeNet-300-100, MNIST",
    "lenet5_mnist": "LeNet-5, MNIST",
    "resnet": "Residual network of 14 layers, Fashion-MNIST",
}
HEAD = (
    "| steps | points lost | ONNX | OpenVINO | parameters | bytes | gzip | entropy-coded | effective MACs | latency | seconds |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def page() -> str:
    """The whole page."""
    path = REFERENCE / "compression.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    models = [_model(name, [row for row in rows if row["model"] == name]) for name in NAMES]
    return PAGE.format(models="\n".join(text for text in models if text), verdicts=_claims(rows))


def _model(name: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    chains = sorted({row["steps"] for row in rows}, key=lambda steps: (steps != "fp32", ">" in steps, steps))
    by_chain = {chain: {row["format"]: row for row in rows if row["steps"] == chain} for chain in chains}
    lines = [f"### {NAMES[name]}", "", HEAD, *(_line(chain, found) for chain, found in by_chain.items())]
    base = next(row for row in rows if row["steps"] == "fp32")
    return "\n".join([*lines, "", f"Accuracy of the base: {base['accuracy']:.2%}. Measured on {base['date']}.", ""])


def _line(chain: str, by_format: dict[str, Row]) -> str:
    first = by_format.get("tflite") or next(iter(by_format.values()))
    drops = [_drop(by_format.get(fmt), interval=fmt == "tflite") for fmt in FORMATS]
    latency = " / ".join(_number(by_format.get(fmt, {}).get("latency_ratio"), ".2f") for fmt in FORMATS)
    sizes = [
        _number(first.get(key), ",d") for key in ("parameters", "size_bytes", "size_gzip_bytes", "size_entropy_bytes")
    ]
    seconds = sum(first["steps_seconds"])
    cells = [f"`{chain}`", *drops, *sizes, _number(first.get("effective_macs"), ",d"), latency, f"{seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def _drop(row: Row | None, *, interval: bool) -> str:
    if row is None or row["accuracy_drop_pp"] is None:
        return "–"
    low, high = row["accuracy_drop_low_pp"], row["accuracy_drop_high_pp"]
    told = f" [{low:+.1f}, {high:+.1f}]" if interval and low is not None and high is not None else ""
    return f"{row['accuracy_drop_pp']:+.2f}{told}"


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return format(int(value) if form.endswith("d") else value, form)


def _claims(rows: Sequence[Row]) -> str:
    found = verdicts(rows)
    lines = ["| claim | kept | not kept, or not told |", "| --- | --- | --- |"]
    for claim in dict.fromkeys(item.claim for item in found):
        about = [item for item in found if item.claim == claim]
        wrong = [f"{item.model}, `{item.where}`: {item.figure}" for item in about if item.kept is not True]
        lines.append(f"| {claim} | {len(about) - len(wrong)} of {len(about)} | {'<br>'.join(wrong)} |")
    return "\n".join(lines)
