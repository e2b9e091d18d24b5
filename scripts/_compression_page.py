"""docs/compression-results.md of results/reference/*.json: what was measured, as tables. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from _compression_verdicts import verdicts
from _page_parts import FORMATS, NOTHING, REFERENCE, Row, number, stored

PAGE = """# Compression: what was measured

*Made by `scripts/make_docs.py` from results/reference/*.json, which the scripts named write; models and steps by `scripts/compression_reference.py`, compression.json. One
machine (two x86-64 cores, without VNNI), one seed unless said; test rows that no step, no calibration and no choice has seen.*

Accuracy: points lost against the fp32 file of the same format, with the 95 % interval in TFLite. Bytes and products are of the TFLite
file. Latency: of the fp32 file's in the same session, TFLite / ONNX Runtime / OpenVINO. Seconds: of all steps of the chain on one core.

{models}
## A student and its teacher

`scripts/distill_reference.py`, results/reference/distill.json: a narrower network taught by the base, and the same network from the same
beginning with the labels alone; TFLite in fp32 on all test rows; means over seeds with Student's 95 % interval.

{distilled}

## Training for integers

`scripts/qat_reference.py`, results/reference/qat.json (its cases are explained there): points that quantization-aware training is right on more of the test rows
than post-training quantization of the same file, and, in TFLite, than TFMOT's training of the same model on the same rows for as long.

{trained}

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
    rows = stored(REFERENCE / "compression.json")
    models = [_model(name, [row for row in rows if row["model"] == name]) for name in NAMES]
    return PAGE.format(
        models="\n".join(text for text in models if text),
        distilled=_distilled(stored(REFERENCE / "distill.json")),
        trained=_trained(stored(REFERENCE / "qat.json")),
        verdicts=_claims(rows),
    )


def _distilled(rows: Sequence[Row]) -> str:
    lines = [
        "| model | student | seeds | parameters | of the teacher's accuracy | labels alone | points over labels alone | advantage shown |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["method"] != "summary":
            continue
        kept = f"{row['accuracy_kept']:.1%} [{row['accuracy_kept_low']:.1%}, {row['accuracy_kept_high']:.1%}]"
        gain = f"{row['advantage_pp']:+.2f} [{row['advantage_low_pp']:+.2f}, {row['advantage_high_pp']:+.2f}]"
        cells = [NAMES[row["model"]], f"`distill({row['settings']})`", str(len(row["seeds"]))]
        cells += [f"{row['parameters_share']:.1%}", kept, f"{row['accuracy_kept_by_labels_only']:.1%}", gain]
        lines.append("| " + " | ".join([*cells, "yes" if row["beats_control"] else "no"]) + " |")
    return "\n".join(lines)


def _trained(rows: Sequence[Row]) -> str:
    lines = [
        "| case | format | method | seed | right | lost by post-training | over post-training | over TFMOT | only integers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lost = {(row["case"], row["format"], row["seed"]): row["drop_pp"] for row in rows if row["method"] == "ptq"}
    for row in rows:
        if not row["held"]:
            continue
        over = [_points(row, "over_ptq"), _points(row, "over_tfmot")]
        whole = {None: NOTHING, True: "yes", False: "no"}[row["integer_only"]]
        cells = [row["case"], row["format"], f"`{row['method']}`", str(row["seed"]), f"{row['accuracy']:.2%}"]
        cells += [f"{lost[row['case'], row['format'], row['seed']]:+.2f}", *over, whole]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _points(row: Row, name: str) -> str:
    if row[f"{name}_pp"] is None:
        return NOTHING
    return f"{row[f'{name}_pp']:+.2f} [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]"


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
    latency = " / ".join(number(by_format.get(fmt, {}).get("latency_ratio"), ".2f") for fmt in FORMATS)
    sizes = [
        number(first.get(key), ",d") for key in ("parameters", "size_bytes", "size_gzip_bytes", "size_entropy_bytes")
    ]
    seconds = sum(first["steps_seconds"])
    cells = [f"`{chain}`", *drops, *sizes, number(first.get("effective_macs"), ",d"), latency, f"{seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def _drop(row: Row | None, *, interval: bool) -> str:
    if row is None or row["accuracy_drop_pp"] is None:
        return NOTHING
    low, high = row["accuracy_drop_low_pp"], row["accuracy_drop_high_pp"]
    told = f" [{low:+.1f}, {high:+.1f}]" if interval and low is not None and high is not None else ""
    return f"{row['accuracy_drop_pp']:+.2f}{told}"


def _claims(rows: Sequence[Row]) -> str:
    found = verdicts(rows)
    lines = ["| claim | kept | not kept, or not told |", "| --- | --- | --- |"]
    for claim in dict.fromkeys(item.claim for item in found):
        about = [item for item in found if item.claim == claim]
        wrong = [f"{item.model}, `{item.where}`: {item.figure}" for item in about if item.kept is not True]
        lines.append(f"| {claim} | {len(about) - len(wrong)} of {len(about)} | {'<br>'.join(wrong)} |")
    return "\n".join(lines)
