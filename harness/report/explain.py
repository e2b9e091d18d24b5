"""An explanation in words: what takes a variant's time, what its base does instead, what to do about it.

Place in the flow: `harness.explain` → here → a string that `cli` prints. Times are for one inference.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.explain import WELL_EXPLAINED, Change, Explanation, Side
from harness.explain.findings import Finding
from harness.report import units
from harness.report.cells import clean
from harness.report.textgrid import GridColumn, Paper, print_grid
from harness.stats.attribution import LAYOUT

_MOST_TYPES, _MOST_LAYERS, _MOST_CHANGES, _MOST_NAMES = 8, 5, 3, 5
# A part of the difference below this is not worth a sentence.
_LEAST_SHARE = 0.03
_BUSY = 0.25

# What is to blame, and what to do instead. Recipes are those of docs/recipes.md.
_FINDINGS: dict[str, tuple[str, str]] = {
    "dynamic_onnx": (
        (
            "activations are quantized while running, and convolutions run as ConvInteger, an integer kernel without the fusions "
            "that float convolutions have here"
        ),
        (
            "quantize statically instead (per-channel int8, QDQ: onnx:static_wi8_au8), or quantize only MatMul and Gemm and leave "
            "convolutions in float (op_types_to_quantize=['MatMul', 'Gemm'])"
        ),
    ),
    "wide_activations": (
        "16-bit activations run in LiteRT's reference kernels, outside the delegate",
        "use 8-bit activations: tflite:static_wi8_ai8",
    ),
    "outside_delegate": (
        "the delegate does not take these operators as they are quantized, so LiteRT's own kernels run them, one by one",
        "quantize statically (tflite:static_wi8_ai8), which the delegate takes whole, or leave these layers in float",
    ),
    "other_provider": (
        "the execution provider that was asked for does not take these operators, so that another one runs them",
        "use operators and precisions that the provider supports, or the CPU provider for the whole model",
    ),
    "dynamic_products": (
        "activations are quantized while running, in every product anew",
        (
            "quantize statically (static_wi8_ai8); or, if only the file must be small, keep float arithmetic "
            "(weight_only_wi8_afp32)"
        ),
    ),
    "quantizing": (
        "numbers are turned into another type and back between operators",
        "quantize neighbouring layers alike, so that they hand on int8, or leave single layers among float ones in float",
    ),
    "casting": (
        "types are cast between operators: this engine computes part of the graph in another precision than it is stored in",
        "use fp32 on this device, or an engine that computes in the stored precision here",
    ),
    "reordering": (
        "tensors are copied into another order",
        "convert from the layout that the engine computes in, so that it need not transpose",
    ),
}


def _percent(share: float) -> str:
    value = abs(share) * 100
    text = f"{value:.1f} %" if 0.05 <= value < 1 else f"{value:.0f} %"  # noqa: PLR2004 - below it is nothing
    return f"{units.MINUS}{text}" if share < 0 and value >= 0.05 else text  # noqa: PLR2004


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times" if ratio < 10 else f"{ratio:.0f} times"  # noqa: PLR2004 - two digits are enough


def _names(types: Sequence[str]) -> str:
    shown = [clean(kind) for kind in types[:_MOST_NAMES]]
    rest = len(types) - len(shown)
    return " + ".join(shown) + (f" + {rest} more" if rest > 0 else "")


def _much(parts: Sequence[tuple[str, float]], whole: float) -> list[str]:
    """Types that take at least a thirtieth of a group's time."""
    return [kind for kind, time_ns in parts if time_ns >= _LEAST_SHARE * whole] or [kind for kind, _ in parts[:1]]


def headline(explanation: Explanation) -> str:
    """One sentence: how fast, against whom."""
    variant = explanation.variant
    own = f"{clean(variant.variant)} takes {units.format_ns(variant.latency_ns)} on {clean(explanation.device)}"
    if explanation.base is None or explanation.ratio is None:
        return f"{own} ({explanation.engine})."
    base = f"{clean(explanation.base.variant)} {units.format_ns(explanation.base.latency_ns)}"
    if explanation.direction == "alike":
        return f"{own}, {base}: about the same ({explanation.ratio:.2f}, {explanation.engine})."
    ratio = explanation.ratio if explanation.ratio > 1 else 1 / explanation.ratio
    return f"{own}, {base}: {_times(ratio)} {explanation.direction} ({explanation.engine})."


def _where(explanation: Explanation) -> str:
    """What takes most of the time, by type."""
    parts: list[str] = []
    covered = 0.0
    for item in explanation.types:
        if covered >= 0.9 or len(parts) == 3 or item.share < _LEAST_SHARE:  # noqa: PLR2004 - the few that matter
            break
        parts.append(f"{clean(item.type)} ({_percent(item.share)})")
        covered += item.share
    if not parts:
        return ""
    lacking = [item.type for item in explanation.types[: len(parts)] if item.base_count == 0]
    if explanation.base is not None and len(lacking) == len(parts):
        end = ", which the base does not have"
    elif explanation.base is not None and lacking:
        end = f"; the base has no {_names(lacking)}"
    else:
        end = ""
    return f"{_percent(covered)} of the time is {' + '.join(parts)}{end}."


def change_words(change: Change) -> str:
    """What became of some layers: "52 layers: Conv (10.5 ms) runs as ConvInteger + … (30.2 ms), 2.9 times slower; …"."""
    count = f"{change.layers} layer{'s' if change.layers != 1 else ''}"
    mine = _names(_much(change.types, change.time_ns)) if change.types else "nothing"
    its = _names(_much(change.base_types, change.base_time_ns)) if change.base_types else "nothing"
    text = f"{count}: {its} ({units.format_ns(change.base_time_ns)}) in the base, here {mine} ({units.format_ns(change.time_ns)})"
    if change.base_time_ns > 0 and change.time_ns > 0:
        ratio = change.time_ns / change.base_time_ns
        text += f", {_times(ratio)} slower" if ratio >= 1 else f", {_times(1 / ratio)} faster"
    if change.difference_share is not None:
        text += f"; {_percent(change.difference_share)} of the difference"
    return text


def remedies(explanation: Explanation) -> list[tuple[str, str]]:
    """What is to blame and what to do, for each finding: (because, instead)."""

    def because(finding: Finding) -> str:
        words, _ = _FINDINGS[finding.code]
        return f"{_names(finding.types)} ({_percent(finding.share)} of the time): {words}"

    return [(because(finding), _FINDINGS[finding.code][1]) for finding in explanation.findings]


def account(side: Side) -> str:
    """Whether the operators add up: sum against latency, the rest, what profiling cost."""
    sum_words = f"{clean(side.variant)}: {side.operators} operators take {units.format_ns(side.operators_ns)} together"
    rest = abs(side.unexplained)
    where = "is not in any operator" if side.unexplained >= 0 else "is more than the latency"
    text = f"{sum_words}, the inference {units.format_ns(side.latency_ns)}: {_percent(rest)} {where}"
    if side.latency_ns > 0:
        more = side.profiled_ns / side.latency_ns - 1
        text += f"; under the profiler it takes {_percent(abs(more))} {'longer' if more >= 0 else 'less'}"
    if rest > WELL_EXPLAINED:
        text += ". The operators explain this latency badly: take their shares as indicative"
    if side.disturbed > _BUSY:
        text += f". {_percent(side.disturbed)} of the inferences had to share the CPU; only the quietest count. Profile on a quiet machine"
    return text + "."


def _layer(name: str) -> str:
    """A layer's name: without what an engine added; of what a converter joined with semicolons, the last part."""
    return clean((name.rsplit(";", maxsplit=1)[-1] or name).removesuffix("_nchwc"))


def _delegation(side: Side) -> str | None:
    nodes, delegated = side.graph.get("nodes"), side.graph.get("delegated_nodes")
    if nodes is None or delegated is None:
        if not side.outside_delegate:
            return None
        left = [f"{count} {kind} ({units.format_ns(ns)})" for kind, (count, ns) in side.outside_delegate.items()]
        return f"{clean(side.variant)}: not on {side.graph['providers'][0]}: {', '.join(left)}"
    text = f"{clean(side.variant)}: {delegated} of {nodes} nodes delegated to {side.graph.get('delegate')}"
    if side.outside_delegate:
        left = [f"{count} {kind} ({units.format_ns(ns)})" for kind, (count, ns) in side.outside_delegate.items()]
        text += f"; outside it: {', '.join(left)}"
    return text


def _moving(side: Side) -> str:
    """Operators that compute nothing, in the artifact and as run."""
    graph = side.graph.get("operators", {})
    quantizing = {kind: count for kind, count in graph.items() if "quantize" in kind.lower()}
    parts = [
        f"{role} {count} ({units.format_ns(time_ns)})"
        for role, (count, time_ns) in side.roles.items()
        if role in ("quantize", "dequantize", "cast", LAYOUT)
    ]
    text = f"{clean(side.variant)}: {', '.join(parts) if parts else 'no operator that only moves or converts'}"
    if side.moved_bytes is not None:
        text += f"; they read and write {units.format_bytes(side.moved_bytes)}"
    if quantizing:
        text += f"; its graph has {', '.join(f'{count} {kind}' for kind, count in quantizing.items())}"
    return text


def _table(paper: Paper, explanation: Explanation) -> None:
    rows = explanation.types[:_MOST_TYPES]
    based = explanation.base is not None

    def column(header: str, texts: list[str]) -> GridColumn:
        return GridColumn(header, tuple(texts), right=True)

    columns = [
        GridColumn("operator", tuple(clean(item.type) for item in rows), folds=True),
        column("count", [str(item.count) for item in rows]),
        column("time", [units.format_ns(item.time_ns) for item in rows]),
        column("share", [_percent(item.share) for item in rows]),
    ]
    if based:
        columns += [
            column("in the base", [str(item.base_count) for item in rows]),
            column("time there", [units.format_ns(item.base_time_ns) for item in rows]),
            column(
                "of the\ndifference",
                [
                    units.NOT_AVAILABLE if item.difference_share is None else _percent(item.difference_share)
                    for item in rows
                ],
            ),
        ]
    print_grid(paper, columns, [""] * len(rows), [""] * len(rows))


def render_explanation(explanation: Explanation, *, width: int | None = None, color: bool = False) -> str:
    """The whole explanation as text. Arguments as for `render_text`."""
    paper = Paper(width, color=color)
    sides = [side for side in (explanation.variant, explanation.base) if side is not None]
    paper.paragraph(headline(explanation), "bold")
    where = _where(explanation)
    if where:
        paper.paragraph(where)
    if explanation.direction != "alike":
        # Only what goes the way of the whole explains it.
        slower = explanation.direction == "slower"
        telling = [c for c in explanation.changes if (c.time_ns > c.base_time_ns) == slower]
        for change in telling[:_MOST_CHANGES]:
            if abs(change.difference_share or 0.0) >= _LEAST_SHARE:
                paper.paragraph(change_words(change), lead="  – ")
    if explanation.direction != "faster":
        for because, instead in remedies(explanation):
            paper.paragraph(f"{because}.", lead="  ! ")
            paper.paragraph(f"{instead}.", "green", lead="    → ")
    paper.line()
    _table(paper, explanation)
    paper.line()
    for layer in explanation.layers[:_MOST_LAYERS] if explanation.base is not None else ():
        difference = layer.time_ns - layer.base_time_ns
        text = f"{_layer(layer.name)}: {units.format_ns(layer.base_time_ns)} in the base, {units.format_ns(layer.time_ns)} here"
        paper.paragraph(
            f"{text} ({'+' if difference >= 0 else units.MINUS}{units.format_ns(abs(difference))})", lead="  layer "
        )
    for side in sides:
        for words in (account(side), _delegation(side), _moving(side)):
            if words is not None:
                paper.paragraph(words, "dim", lead="  ")
    for method in dict.fromkeys(f"method: {side.method} ({side.inferences} inferences)" for side in sides):
        paper.paragraph(method, "dim", lead="  ")
    if explanation.base is not None:
        by = explanation.matched_by
        text = f"layers matched by {by}" if by else "layers could not be matched; only types of operators are compared"
        paper.paragraph(text, "dim", lead="  ")
    for note in dict.fromkeys(note for side in sides for note in side.notes):
        paper.paragraph(clean(note), "dim", lead="  ")
    return paper.text()
