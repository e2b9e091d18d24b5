"""Do the rows of results/reference/compression.json keep what compression promises? Each claim with its figures; used by the reference script.

A claim is judged in every format. What no row shows is told as missing, never as kept. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
INT8 = "static_wi8_ai8"
# Points of accuracy, and how many times smaller than the float32 weights (Han et al., arXiv:1510.00149, table 1).
DEEP_DROP_PP = 0.3
DEEP_RATIO = {"lenet300": 40.0, "lenet300_mnist": 40.0, "lenet5": 39.0, "lenet5_mnist": 39.0}
# NVIDIA's and others' ResNet-50 with half of its parameters: 75.1 → 72.4.
HALF_DROP_PP, HALF = 2.7, 0.5
# What a step claims to make smaller: (the step, column).
CLAIMS: tuple[tuple[str, str], ...] = (
    ("prune", "size_gzip_bytes"),
    ("prune", "size_entropy_bytes"),
    ("prune", "effective_macs"),
    ("cluster", "size_gzip_bytes"),
    ("cluster", "size_entropy_bytes"),
    ("prune_structured", "parameters"),
    ("prune_structured", "size_bytes"),
    ("prune_structured", "macs"),
    ("factorize", "parameters"),
    ("factorize", "size_bytes"),
    ("distill_0", "parameters"),
    ("distill_0", "size_bytes"),
    ("distill_0", "macs"),
    (INT8, "size_bytes"),
    (INT8, "size_gzip_bytes"),
)
# Steps that change shapes, and so must be felt in the latency, in fp32 against fp32.
FASTER = ("prune_structured", "distill_0")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim about one row. `kept` None: no row shows it, or a figure is missing."""

    claim: str
    model: str
    where: str
    kept: bool | None
    figure: str


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """All claims about all rows, in the order of the rows."""
    bases = {(row["model"], row["format"]): row for row in rows if row["steps"] == "fp32"}
    found: list[Verdict] = []
    for row in rows:
        base = bases.get((row["model"], row["format"]))
        if base is None or row is base:
            continue
        for check in (_sizes, _latency, _deep, _half):
            found.extend(check(row, base))
    return found


def _has(row: Row, step: str) -> bool:
    """Whether the step, or the precision, is in the row's chain. `distill_0`: a student narrower than the base."""
    words = row["steps"].split("+")
    other = ("prune_structured",) if step == "prune" else ()
    return any(
        word == step or (word.startswith((f"{step}_", f"{step}.")) and not word.startswith(other)) for word in words
    )


def _sizes(row: Row, base: Row) -> Iterable[Verdict]:
    for step, column in CLAIMS:
        if not _has(row, step):
            continue
        after, before = row.get(column), base.get(column)
        if after is None or before is None:
            yield _of(row, f"{step.removesuffix('_0')}: {column} smaller", None, "not told")
        else:
            yield _of(row, f"{step.removesuffix('_0')}: {column} smaller", after < before, f"{before} → {after}")


def _latency(row: Row, _base: Row) -> Iterable[Verdict]:
    if _has(row, INT8):
        return
    for step in FASTER:
        if _has(row, step):
            ratio = row["latency_ratio"]
            kept = None if ratio is None else ratio < 1.0
            figure = "not measured" if ratio is None else f"{ratio:.3f} of the base's"
            yield _of(row, f"{step.removesuffix('_0')}: latency lower", kept, figure)


def _deep(row: Row, _base: Row) -> Iterable[Verdict]:
    if row["model"] in DEEP_RATIO and _has(row, "entropy"):
        ratio, drop = row["entropy_file_ratio"], row["accuracy_drop_pp"]
        goal = DEEP_RATIO[row["model"]]
        kept = None if ratio is None or drop is None else ratio >= goal and drop <= DEEP_DROP_PP
        yield _of(row, f"{goal:g} times smaller at ≤ {DEEP_DROP_PP} points", kept, f"{ratio:.1f}×, {drop:+.2f} points")


def _half(row: Row, base: Row) -> Iterable[Verdict]:
    if row["model"] == "resnet" and row["steps"].startswith("prune_structured_0.5") and not _has(row, INT8):
        share, drop = row["parameters"] / base["parameters"], row["accuracy_drop_pp"]
        kept = share <= HALF and drop <= HALF_DROP_PP
        yield _of(
            row, f"half of the parameters at ≤ {HALF_DROP_PP} points", kept, f"{share:.1%} left, {drop:+.2f} points"
        )


def _of(row: Row, claim: str, kept: bool | None, figure: str) -> Verdict:
    return Verdict(claim, row["model"], f"{row['steps']} @ {row['format']}", kept, figure)


def summary(found: Sequence[Verdict]) -> str:
    """How many claims are kept, and each that is not."""
    kept = sum(item.kept is True for item in found)
    lines = [f"{kept} of {len(found)} claims kept"]
    for state, words in ((False, "not kept"), (None, "not told")):
        lines += [
            f"{words}: {item.model}, {item.where}: {item.claim}: {item.figure}" for item in found if item.kept is state
        ]
    return "\n".join(lines)
