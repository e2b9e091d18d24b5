"""docs/search-results.md of results/reference/*.json: refinement, mixed precision, networks, transforms, search, and how long all took.

Standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _page_parts import (
    FORMAT_NAMES,
    FORMATS,
    REFERENCE,
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
from _refinement_page import mixed, refinement

TRANSFORMED = {
    "fashion": "Depthwise-separable CNN, gray images",
    "colour": "The same network for coloured images",
    "imu": "1-D CNN, a watch's motion",
}
AT = (5, 10, 20, 40, 60)
PAGE = """# Finding the best recipe: what was measured

*Made by `scripts/make_docs.py` from results/reference/*.json, which the scripts named write; every row there has its command and date. One
machine (two x86-64 cores, without VNNI), one seed unless said. Test rows are those that no training, no calibration and no choice has seen.
How to use what is measured here: [refinement](refinement.md), [mixed precision](mixed-precision.md), [networks](networks.md),
[search](search.md).*

{sections}
"""
NETWORKS = """## Compact networks

Each at a quarter of its width (ShuffleNetV2 at half), for 28×28 gray images and ten classes, from random weights: one epoch of `fine_tune` on
{rows:,} rows of Fashion-MNIST, a tenth of them for validation, then the three formats. One epoch shows that it trains, not how good it gets; its seconds
are an upper bound, since other programs may have run beside it. Milliseconds: median of one inference on one
thread, TFLite / ONNX Runtime / OpenVINO. *Error*: largest relative difference between Keras's answers and a file's.

{table}
{verdicts}

{date}
"""
TRANSFORMS = """## Input transforms

Each in front of a trained model, then trained for three epochs as it comes; *points lost* against the base trained for the same three epochs
(`fine_tune(3)`), on the same test rows in TFLite. *Alone*: time of a file that holds nothing but the transform, less that of a file that only
hands its input on; *saved* and *latency*: of the whole network, transform included, against the base's at the same precision. Triples: TFLite / ONNX Runtime / OpenVINO.

{tables}
{date}
"""
SAMPLERS = """## Samplers at an equal budget

{image}
Best validation accuracy among recipes within a limit of {limit} bytes, after so many trials: mean of {seeds} seeds and its 95 % interval, on a
table of {candidates} recipes that were all made and judged once. *Near*: seeds within half a point of the best there is ({best:.2%}) after the
last trial. *Live*: one search by `harness search` itself, with its best value and how many of its trials came out exactly as in the table.

{table}
{date}
"""
FRONTS = """## Two clocks, two fronts

{image}
One space searched twice with the same sampler and seed: for the latency measured on this host, and for instructions counted on the emulated
arm64 guest. Every recipe of both fronts was then measured on both, and judged on all test rows, which neither search had seen. Ratios are to
the float32 file, and *quotient* is the one over the other.

{table}
{differences}

The search on the host was killed (SIGKILL) after {ended} trials had ended, {working} at work, and resumed: {unchanged} of the {ended} are
unchanged in the store, {again} of the {working} were taken up again, {twice} recipes were tried twice, and {total} trials were made in all.

{date}
"""


def page(folder: Path = REFERENCE) -> str:
    """The whole page."""
    sections = (refinement, mixed, networks, transforms, samplers, fronts, wall_times)
    return PAGE.format(sections="\n".join(section(folder).rstrip() + "\n" for section in sections)).rstrip() + "\n"


def networks(folder: Path) -> str:
    """The section about compact_networks.json."""
    rows: list[Row] = stored(folder / "compact_networks.json")
    if not rows:
        return "## Compact networks\n\n" + missing("scripts/compact_networks.py networks")
    lines, kept, wrong = [], [], []
    for name in dict.fromkeys(row["network"] for row in rows):
        by = {row["format"]: row for row in rows if row["network"] == name}
        first = by.get("tflite") or next(iter(by.values()))
        errors = [row["format_relative_error"] for row in by.values() if row["format_relative_error"] is not None]
        sizes = [number(first[key], ",d") for key in ("model_parameters", "macs", "size_bytes")]
        accuracy = number(first["accuracy"], ".1%")
        error = number(max(errors, default=None), ".0e")
        lines.append([f"`{name}`", *sizes, number(first["training_seconds"], ".0f"), accuracy, _times(by), error])
        for fmt in FORMATS:
            row = by.get(fmt, {"status": "missing", "error": None, "epochs": None})
            done = row["status"] == "ok" and row["epochs"] == 1
            (kept if done else wrong).append(f"{name}, {FORMAT_NAMES[fmt]}: {row['status']}: {row['error']}")
    head = ("network", "parameters", "MACs", "bytes", "seconds of the epoch", "accuracy", "milliseconds", "error")
    claim = "trained for an epoch, converted and measured, network by format"
    return NETWORKS.format(
        rows=rows[0]["training_rows"], table=table(head, lines), verdicts=judged(kept, wrong, claim), date=dated(rows)
    )


def _times(by: dict[str, Row]) -> str:
    """Milliseconds, or why there are none."""
    found = [by.get(fmt, {}).get("latency_median_ns") for fmt in FORMATS]
    return " / ".join(number(None if value is None else value / 1e6, ".3f") for value in found)


def transforms(folder: Path) -> str:
    """The section about input_transforms.json."""
    rows: list[Row] = stored(folder / "input_transforms.json")
    if not rows:
        return "## Input transforms\n\n" + missing("scripts/compact_networks.py transforms")
    head = (
        "steps",
        "accuracy",
        "points lost",
        "ONNX",
        "OpenVINO",
        "MACs",
        "its own",
        "alone, µs",
        "saved, µs",
        "latency",
    )
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        lines = []
        for steps in dict.fromkeys(row["steps"] for row in own):
            by = {row["format"]: row for row in own if row["steps"] == steps}
            first = by.get("tflite") or next(iter(by.values()))
            lost = [number(by.get(fmt, {}).get("drop_to_control_pp"), "+.2f") for fmt in FORMATS[1:]]
            alone = " / ".join(number(_alone(by.get(fmt, {})), ".1f") for fmt in FORMATS)
            ratio = " / ".join(number(by.get(fmt, {}).get("latency_ratio"), ".2f") for fmt in FORMATS)
            saved = " / ".join(number(_saved(by.get(fmt, {})), ".1f") for fmt in FORMATS)
            macs = [number(first[key], ",d") for key in ("macs", "transform_macs")]
            figures = [number(first["accuracy"], ".2%"), points(first, "drop_to_control"), *lost, *macs]
            lines.append([f"`{steps}`", *figures, alone, saved, ratio])
        parts.append(f"### {TRANSFORMED[model]}\n\n{table(head, lines)}")
    return TRANSFORMS.format(tables="\n".join(parts), date=dated(rows))


def _alone(row: Row) -> float | None:
    """Microseconds of the transform itself; None where it was not measured alone."""
    alone, nothing = row.get("transform_alone_ns"), row.get("nothing_ns")
    return None if alone is None or nothing is None else (alone - nothing) / 1e3


def _saved(row: Row) -> float | None:
    """Microseconds by which the whole network is faster than the base, the transform included."""
    value = row.get("latency_saved_ns")
    return None if value is None else value / 1e3


def samplers(folder: Path) -> str:
    """The section about search_samplers.json."""
    rows: list[Row] = [row for row in stored(folder / "search_samplers.json") if row["source"] == "table"]
    if not rows:
        return "## Samplers at an equal budget\n\n" + missing("scripts/search_samplers.py")
    live: list[Row] = [row for row in stored(folder / "search_samplers.json") if row["source"] == "live"]
    lines = []
    last = max(row["trial"] for row in rows)
    at = [trial for trial in AT if trial < last] + [last]
    for name in dict.fromkeys(row["sampler"] for row in rows):
        by = {row["trial"]: row for row in rows if row["sampler"] == name}
        own = {row["trial"]: row for row in live if row["sampler"] == name}
        end = own[max(own)] if own else None
        told = "–" if end is None else f"{number(end['value'], '.2%')} ({_as_recorded(end)})"
        near = f"{by[last]['near_the_best']} of {by[last]['seeds']}"
        lines.append([f"`{name}`", *(_mean(by.get(trial)) for trial in at), near, told])
    head = ("sampler", *(f"{trial} trials" for trial in at), "near", "live")
    first = rows[0]
    return SAMPLERS.format(
        image=image(folder, "search_samplers.svg", "Best value found against the number of trials, six samplers"),
        limit=f"{first['size_limit_bytes']:,.0f}",
        seeds=first["seeds"],
        candidates=len(stored(folder / "search_trials.json")),
        best=first["best_there_is"],
        table=table(head, lines),
        date=dated([*rows, *live]),
    )


def _mean(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["mean"] is None:
        return f"{row['seeds_with_a_feasible_one']} of {row['seeds']} found any"
    told = "" if row["low_95"] is None else f" ± {100 * (row['mean'] - row['low_95']):.2f}"
    return f"{100 * row['mean']:.2f}{told}"


def _as_recorded(row: Row) -> str:
    return f"{row['trials_as_recorded']} of {row['trials_in_the_table']} as recorded"


def fronts(folder: Path) -> str:
    """The section about search_fronts.json."""
    found: Any = stored(folder / "search_fronts.json")
    if not found:
        return "## Two clocks, two fronts\n\n" + missing("scripts/search_fronts.py")
    rows, kill = found["rows"], found["kill"]
    head = ("recipe", "front of", "accuracy", "latency ratio", "instruction ratio", "quotient", "bytes")
    lines = []
    for row in rows:
        on = [words for key, words in (("local", "host"), ("guest", "guest")) if row[f"on_{key}_front"]]
        ratios = [f"{row[key]:.3f}" for key in ("latency_ratio", "virtual_time_ratio", "clocks_disagree")]
        accuracy = number(row["accuracy_test"], ".1%")
        lines.append([f"`{row['recipe']}`", ", ".join(on) or "neither", accuracy, *ratios, f"{row['size_bytes']:,}"])
    return FRONTS.format(
        image=image(folder, "search_fronts.svg", "Both fronts by both clocks"),
        table=table(head, lines),
        differences="\n".join(f"- {words}" for words in found["differences"]),
        ended=kill["ended_before_the_kill"],
        working=kill["at_work_when_killed"],
        unchanged=kill["unchanged"],
        again=kill["taken_up_again"],
        twice=kill["recipes_tried_twice"],
        total=kill["trials_in_the_end"],
        date=dated([kill]),
    )


def wall_times(folder: Path) -> str:
    """The section about wall_time.json."""
    rows: list[Row] = stored(folder / "wall_time.json")
    if not rows:
        return "## How long it took\n\n" + missing("each of the scripts")
    lines = [[f"`{row['command']}`", f"{row['seconds'] / 60:.1f}", str(row["cpus"]), row["date"]] for row in rows]
    total = sum(row["seconds"] for row in rows) / 60
    words = "Minutes of each script's longest call, on the cores named; what was made before is not made again.\n\n"
    text = table(("command", "minutes", "cores", "date"), [*lines, ["all", f"{total:.0f}", "", ""]])
    return f"## How long it took\n\n{words}{text}"
