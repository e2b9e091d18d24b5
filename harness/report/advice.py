"""A recommendation in plain words: the sentence that says what to deploy, and why each of the others is out.

Place in the flow: `harness.choose.recommend` → `advise` → every report. Formats only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.choose import CONFIDENT, Constraints, Exclusion, Recommendation, recommendation_to_dict
from harness.report import units
from harness.row import Row

_NAMES = {
    "max_latency_ns": "median latency",
    "max_latency_p90_ns": "p90 latency",
    "max_load_ns": "load time",
    "max_size_bytes": "size",
    "max_memory_bytes": "peak memory over the bare engine",
    "max_drop_pp": "accuracy drop",
    "min_accuracy": "accuracy",
    "max_rmse_ratio": "RMSE relative to the base model",
}
# Below this ratio two figures are said to be about the same.
_NOTABLE = 1.05
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class Advice:
    """What reports show of a recommendation. `winner`, `runner_up`, `tie` and `pareto` are variants' names; `excluded`:
    (variant, why it is out) each."""

    device: str
    winner: str | None
    sentence: str
    runner_up: str | None
    tie: tuple[str, ...]
    excluded: tuple[tuple[str, tuple[str, ...]], ...]
    pareto: tuple[str, ...]
    recommendation: Recommendation

    @property
    def qualifies(self) -> bool:
        """Whether some variant meets every limit."""
        return self.recommendation.qualifies


def advise(items: Iterable[Recommendation]) -> tuple[Advice, ...]:
    """The recommendations in words, in the same order."""
    return tuple(
        Advice(
            device=item.device,
            winner=None if item.winner is None else item.winner.variant,
            sentence=sentence(item),
            runner_up=None if item.runner_up is None else item.runner_up.variant,
            tie=item.tie,
            excluded=_excluded(item.excluded),
            pareto=item.pareto,
            recommendation=item,
        )
        for item in items
    )


def advice_to_dict(advice: Advice) -> dict[str, Any]:
    """The recommendation as JSON-compatible data, with the sentence."""
    return {"sentence": advice.sentence, **recommendation_to_dict(advice.recommendation)}


def _excluded(items: Iterable[Exclusion]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, list[str]] = {}
    for item in items:
        found.setdefault(item.variant, []).append(exclusion_words(item))
    return tuple((variant, tuple(words)) for variant, words in found.items())


def _value(limit: str, value: float | None) -> str:
    if limit.endswith("_ns"):
        return units.format_ns(value)
    if limit.endswith("_bytes"):
        return units.format_bytes(value)
    if limit == "max_drop_pp":
        return units.format_points(value, signed=False)
    return units.format_share(value) if limit == "min_accuracy" else units.format_number(value)


def exclusion_words(item: Exclusion) -> str:
    """Why a variant is out: "median latency 2.30 ms is over the limit of 2.00 ms by 0.30 ms"."""
    if item.limit == "failed":
        return f"failed: {item.reason}"
    if item.limit == "objective":
        return f"what to win by was not measured: {item.reason}"
    name = _NAMES[item.limit]
    if item.value is None:
        return f"{name} was not measured: {item.reason}"
    side = "under" if item.limit.startswith("min_") else "over"
    bound, over = _value(item.limit, item.bound), _value(item.limit, item.over)
    return f"{name} {_value(item.limit, item.value)} is {side} the limit of {bound} by {over}"


def limits_words(constraints: Constraints, defaulted: Iterable[str] = ()) -> str:
    """The limits in force: "accuracy drop ≤ 1.00 pp (default), size ≤ 500 kB"; "none" where there are none."""
    filled = set(defaulted)
    words = []
    for limit, name in _NAMES.items():
        bound = getattr(constraints, limit)
        if bound is not None:
            sign = "≥" if limit.startswith("min_") else "≤"
            words.append(f"{name} {sign} {_value(limit, bound)}{' (default)' if limit in filled else ''}")
    return ", ".join(words) or "none"


def sentence(item: Recommendation) -> str:
    """What to deploy on the device and why, or why nothing qualifies, in plain words."""
    if item.winner is None:
        return _nothing(item)
    parts = [f"Deploy {item.winner.variant} on {item.device}: {_figures(item.winner)}{_against(item)}."]
    parts += [_tie(item), _limits(item), _doubt(item)]
    return " ".join(part for part in parts if part)


def _figures(row: Row) -> str:
    words = []
    if row.latency_median_ns is not None:
        interval = units.format_ns_interval(
            row.latency_median_ns, row.latency_median_low_ns, row.latency_median_high_ns
        )
        words.append(f"median {interval.replace('[', '(95 % ').replace(']', ')')}")
    elif row.virtual_time_ns is not None:
        words.append(f"virtual time {units.format_ns(row.virtual_time_ns)} (instructions counted, no latency)")
    elif row.throughput_per_s is not None:
        interval = units.format_rate_interval(row.throughput_per_s, row.throughput_low_per_s, row.throughput_high_per_s)
        interval = interval.replace("[", "(95 % ").replace("]", ")")
        words.append(f"{interval} inferences a second in batches of {row.batch}, {row.streams} at once")
    elif row.latency_sustained_ns is not None:
        words.append(f"sustained {units.format_ns(row.latency_sustained_ns)}")
    if row.size_bytes is not None:
        words.append(units.format_bytes(row.size_bytes))
    if row.accuracy is not None:
        drop = row.accuracy_drop_pp
        change = "" if drop is None else f" ({units.format_points(-drop)} against the base model)"
        words.append(f"accuracy {units.format_share(row.accuracy)}{change}")
    elif row.rmse is not None:
        words.append(f"RMSE {units.format_number(row.rmse)}")
    return ", ".join(words)


def _against(item: Recommendation) -> str:
    row, reference = item.winner, item.reference
    if row is None or reference is None or reference.variant == row.variant:
        return ""
    words = [
        _ratio(reference.latency_median_ns, row.latency_median_ns, "faster", "slower"),
        _ratio(reference.virtual_time_ns, row.virtual_time_ns, "less virtual time", "more virtual time"),
        _ratio(row.throughput_per_s, reference.throughput_per_s, "the throughput", "less throughput"),
        _ratio(reference.latency_sustained_ns, row.latency_sustained_ns, "faster", "slower"),
        _ratio(reference.size_bytes, row.size_bytes, "smaller", "larger"),
    ]
    told = [word for word in words if word]
    return f" — {' and '.join(told)} than {reference.variant}" if told else f" — much like {reference.variant}"


def _ratio(reference: float | None, value: float | None, better: str, worse: str) -> str:
    if not reference or not value:
        return ""
    ratio = reference / value
    if ratio >= _NOTABLE:
        return f"{ratio:.1f}× {better}" if ratio >= 1.1 else f"{ratio:.2f}× {better}"  # noqa: PLR2004 - two digits show it
    if ratio <= 1 / _NOTABLE:
        return f"{1 / ratio:.1f}× {worse}" if ratio <= 1 / 1.1 else f"{1 / ratio:.2f}× {worse}"
    return ""


def _names(names: Iterable[str]) -> str:
    shown = list(names)
    if len(shown) > _MOST_NAMES:
        return f"{', '.join(shown[:_MOST_NAMES])} and {len(shown) - _MOST_NAMES} more"
    return ", ".join(shown)


def _tie(item: Recommendation) -> str:
    if not item.tie or item.winner is None:
        return ""
    others = _names(name for name in item.tie if name != item.winner.variant)
    aim = item.constraints.objective
    taken = "smallest" if aim in ("latency", "virtual_time", "throughput", "sustained") else "fastest"
    return f"A tie: by {aim.replace('_', ' ')} it cannot be told apart from {others}, so the {taken} of them is taken."


def _limits(item: Recommendation) -> str:
    runner = "" if item.runner_up is None else f"Runner-up: {item.runner_up.variant}. "
    return f"{runner}Limits: {limits_words(item.constraints, item.defaulted)}."


def _doubt(item: Recommendation) -> str:
    """What should keep the reader from relying on it too much."""
    words = []
    row = item.winner
    if row is None:
        return ""
    if item.constraints.objective == "latency" and row.latency_median_low_ns is None:
        words.append("there are too few runs for an interval, so a tie cannot be told")
    elif item.confidence is not None and item.confidence < CONFIDENT and not item.tie:
        words.append(f"it is the fastest in {item.confidence:.0%} of bootstraps only")
    bound, high = item.constraints.max_drop_pp, row.accuracy_drop_high_pp
    if bound is not None and high is not None and high > bound:
        words.append(f"the interval of its accuracy drop reaches {units.format_points(high, signed=False)}")
    if row.grade in ("C", "invalid"):
        words.append(f"its grade is {row.grade} ({'; '.join(row.grade_reasons)})")
    return f"Mind: {'; '.join(words)}." if words else ""


def _nothing(item: Recommendation) -> str:
    limits = limits_words(item.constraints, item.defaulted)
    if not item.excluded:
        return f"Nothing qualifies on {item.device}: no variant was measured there."
    counts = Counter(
        "failed" if one.limit == "failed" else _NAMES.get(one.limit, "what to win by") for one in item.excluded
    )
    why = ", ".join(
        f"{count} failed" if name == "failed" else f"{count} out by {name}" for name, count in counts.most_common()
    )
    return f"Nothing qualifies on {item.device} ({why}). Limits: {limits}.{_nearest(item)}"


def _nearest(item: Recommendation) -> str:
    """The variant that misses one limit only, and by least, relative to that limit."""
    by_variant: dict[str, list[Exclusion]] = {}
    for one in item.excluded:
        by_variant.setdefault(one.variant, []).append(one)
    near = [
        (one.over / abs(one.bound), variant, one)
        for variant, (one, *more) in by_variant.items()
        if not more and one.over is not None and one.bound
    ]
    if not near:
        return ""
    _, variant, one = min(near, key=lambda entry: entry[:2])
    return f" Nearest: {variant}, whose {exclusion_words(one)}."
