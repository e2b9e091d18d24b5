"""What refinement and mixed precision showed, of refinement.json and mixed_precision.json: tables, and whether each claim is kept.

A section each of docs/search-results.md. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from _page_parts import (
    FORMAT_NAMES,
    FORMATS,
    NOTHING,
    Row,
    dated,
    image,
    judged,
    missing,
    number,
    points,
    stored,
    table,
)

OURS, PLAIN = "ours, refined", "ours, plain"
# No other tool may be better by more, in points.
MARGIN_PP, ROUNDING = 0.2, 1e-9
# Sizes count as equal up to these ratios of our bytes to another's. Theirs may be a little larger: in small files graphs differ by as much.
LARGEST, LEAST = 1.05, 0.8
# Models that are hard to quantize, where refinement has to gain.
HARD = ("hard",)
MODELS = {
    "fashion": "depthwise-separable CNN",
    "hard": "the same, outlier channels",
    "resnet": "residual network",
    "imu": "1-D CNN, motion",
}
GRANULARITY = {"per_channel": "channel", "per_tensor": "tensor"}
STEPS = (
    (PLAIN, "plain"),
    ("ours, equalize", "equalize"),
    ("ours, calibrate", "calibrate"),
    ("ours, equalize > calibrate", "both"),
    ("ours, equalize > calibrate > adaround", "… > adaround"),
    (OURS, "… > correct_bias"),
)
REFINEMENT = """## Refinement against other quantizers

Points of accuracy lost against the float32 file of the same format; 95 % intervals are over the test rows, paired. Every tool had the same
model, the same calibration rows (without labels) and the format named. *Best other*: that mode of the other tools which came out best *on the
test rows*, which no user could have known; ours is always `equalize > calibrate(mse) > adaround > correct_bias`, chosen beforehand. Scales: one
per channel or one per tensor. 8 bits in ONNX and OpenVINO are 7 used, by every tool
([why](decisions/0005-seven-bit-weights-for-onnx.md)), apart from "NNCF default".

{best}
{verdicts}

What each step is worth, points lost:

{steps}
{date}
"""
MIXED = """## Mixed precision

{image}
A MobileNetV2-style network on Fashion-MNIST: accuracy on 5,000 test rows against the mean bits of its weights, activations in 8 bits. *Single
precision* has the same bits in every layer; *mixed* chose them by layer on training rows set apart; *mixed + gradient* trained on for four
epochs. OpenVINO stores each of these widths as it is; the other two widen some ([which](mixed-precision.md#what-each-format-can-express)).
*Over*: points gained on the same rows. OpenVINO's bytes count its graph as XML, about 150 kB here, beside the weights.

{table}
{verdicts}

{date}
"""
METHODS = {
    "fp32": "float32",
    "single": "single precision",
    "mixed": "mixed",
    "gradient": "mixed + gradient",
    "single_gradient": "single precision + gradient",
}


def refinement(folder: Path) -> str:
    """The section about refinement.json."""
    rows: list[Row] = stored(folder / "refinement.json")
    if not rows:
        return "## Refinement against other quantizers\n\n" + missing("scripts/refinement_reference.py")
    return REFINEMENT.format(
        best=_best(rows), verdicts="\n".join(refinement_verdicts(rows)), steps=_steps(rows), date=dated(rows)
    )


def _settings(rows: Sequence[Row]) -> Iterator[tuple[list[str], dict[str, Row]]]:
    """Cells that name it, and the rows by method, of every model × format × granularity × bits below 32."""
    for model, words in MODELS.items():
        own = [row for row in rows if row["model"] == model and row["weight_bits"] < 32]
        for kind in dict.fromkeys((row["format"], row["granularity"], row["weight_bits"]) for row in own):
            fmt, granularity, bits = kind
            found = {
                row["method"]: row for row in own if (row["format"], row["granularity"], row["weight_bits"]) == kind
            }
            yield [words, FORMAT_NAMES[fmt], GRANULARITY[granularity], str(bits)], found


def _best(rows: Sequence[Row]) -> str:
    lines = []
    for cells, found in _settings(rows):
        others = [row for name, row in found.items() if not name.startswith("ours") and row["accuracy"] is not None]
        best = max(others, key=lambda row: row["accuracy"], default=None)
        ours = found.get(OURS, {})
        plain = points(found.get(PLAIN, {}), "drop")
        other = [NOTHING] * 4
        if best is not None:
            sizes = ours.get("size_bytes"), best["size_bytes"]
            ratio = sizes[1] / sizes[0] if sizes[0] and sizes[1] else None
            other = [best["method"], points(best, "drop"), points(best, "ours_better"), number(ratio, ".2f")]
        lines.append([*cells, plain, points(ours, "drop"), *other])
    head = (
        "model",
        "format",
        "scales",
        "bits",
        "ours, plain",
        "ours, refined",
        "best other",
        "it lost",
        "ours better by",
    )
    return table((*head, "its bytes / ours"), lines)


def _steps(rows: Sequence[Row]) -> str:
    lines = [
        [*cells, *(number(found.get(name, {}).get("drop_pp"), "+.2f") for name, _ in STEPS)]
        for cells, found in _settings(rows)
        if cells[2] == GRANULARITY["per_channel"]
    ]
    return table(("model", "format", "scales", "bits", *(words for _, words in STEPS)), lines)


def refinement_verdicts(rows: Sequence[Row]) -> list[str]:
    """The claims of refinement, each with where it fails: lines of Markdown."""
    kept: list[str] = []
    worse: list[str] = []
    unequal: list[str] = []
    failed: list[str] = []
    gains: tuple[list[str], list[str]] = ([], [])
    ahead: tuple[list[str], list[str]] = ([], [])
    for cells, found in _settings(rows):
        where = ", ".join(cells[:2]) + f", per {cells[2]}, {cells[3]} bits"
        ours = found.get(OURS, {})
        for name, row in found.items():
            if name.startswith("ours"):
                continue
            words = f"{where}, {name}: ours {points(row, 'ours_better')} points better"
            if row.get("ours_better_pp") is None:
                failed.append(f"{where}, {name}: {row['error'] or ours.get('error') or 'ours is missing'}")
                continue
            bad, ratio = row["ours_better_pp"] < -MARGIN_PP - ROUNDING, ours["size_bytes"] / row["size_bytes"]
            if ratio > LARGEST or (bad and ratio < LEAST):
                unequal.append(f"{words}, {ours['size_bytes']:,} against {row['size_bytes']:,} bytes")
            else:
                (worse if bad else kept).append(words)
            if row["model"] in HARD:
                ahead[row["ours_better_pp"] <= 0].append(words)
        plain, refined = found.get(PLAIN, {}).get("accuracy"), ours.get("accuracy")
        if any(row["model"] in HARD for row in found.values()) and plain is not None and refined is not None:
            gains[refined <= plain].append(f"{where}: {100 * (refined - plain):+.2f} points")
    lines = [judged(kept, worse, f"never worse than another tool by more than {MARGIN_PP} points, at equal size")]
    if any(gains):
        lines.append(judged(*gains, claim="refinement gains on the model that is hard to quantize"))
    if any(ahead):
        lines.append(judged(*ahead, claim="better there than another tool"))
    if unequal:
        lines.append("- not of equal size:" + "".join(f"\n  - {words}" for words in unequal))
    if failed:
        lines.append("- could not be compared:" + "".join(f"\n  - {words}" for words in failed))
    return lines


def mixed(folder: Path) -> str:
    """The section about mixed_precision.json."""
    rows: list[Row] = stored(folder / "mixed_precision.json")
    if not rows:
        return "## Mixed precision\n\n" + missing("scripts/mixed_precision_reference.py")
    lines = []
    for row in sorted(
        rows, key=lambda row: (FORMATS.index(row["format"]), -row["bits_wanted"], list(METHODS).index(row["method"]))
    ):
        bits = "32" if row["method"] == "fp32" else f"{row['bits_wanted']:g}"
        cells = [FORMAT_NAMES[row["format"]], bits, METHODS[row["method"]], number(row.get("mean_weight_bits"), ".2f")]
        if row["accuracy"] is None:
            lines.append([*cells, f"{row['status']}: {row['error']}", *[NOTHING] * 5])
            continue
        accuracy = f"{row['accuracy']:.2%} [{row['accuracy_low']:.1%}, {row['accuracy_high']:.1%}]"
        gains = [points(row, f"over_{name}") for name in ("single", "mixed")]
        sizes = [number(row[key], ",d") for key in ("size_bytes", "size_entropy_bytes")]
        lines.append([*cells, accuracy, *gains, *sizes, number(row["step_seconds"], ".0f")])
    head = ("format", "bits wanted", "method", "mean bits", "accuracy", "over single", "over mixed")
    head = (*head, "bytes", "entropy-coded", "seconds of the step")
    words = "Accuracy against mean weight bits, one panel per format"
    return MIXED.format(
        image=image(folder, "mixed_precision.svg", words),
        table=table(head, lines),
        verdicts="\n".join(mixed_verdicts(rows)),
        date=dated(rows),
    )


def mixed_verdicts(rows: Sequence[Row]) -> list[str]:
    """Whether the curves lie in the order promised, by format: lines of Markdown. Below 8 bits, where layers can differ."""
    found = []
    for fmt in FORMATS:
        by = {(row["method"], row["bits_wanted"]): row for row in rows if row["format"] == fmt and row["accuracy"]}
        for less, more in (("single", "mixed"), ("mixed", "gradient"), ("single_gradient", "gradient")):
            kept: list[str] = []
            wrong: list[str] = []
            for bits in sorted({bits for _, bits in by}, reverse=True):
                if bits >= 8 or (less, bits) not in by or (more, bits) not in by:
                    continue
                difference = 100 * (by[more, bits]["accuracy"] - by[less, bits]["accuracy"])
                known = by[more, bits].get(f"over_{less}_pp") is not None
                told = points(by[more, bits], f"over_{less}") if known else f"{difference:+.2f}"
                (kept if difference >= 0 else wrong).append(f"{bits:g} bits: {told} points")
            if kept or wrong:
                claim = f"{FORMAT_NAMES[fmt]}, below 8 bits: {METHODS[more]} not below {METHODS[less]}"
                found.append(judged(kept, wrong, claim))
    return found
