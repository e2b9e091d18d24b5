"""What can be blamed for a variant's latency by name: patterns of operators that have a remedy. Pure; part of `harness.explain`.

The words for each code, and what to do instead, are in `harness.report.explain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from harness.records import OperatorTimes
from harness.stats.attribution import CAST, COMPUTE, DEQUANTIZE, LAYOUT, QUANTIZE, TimedOperator

WORTH_NAMING = 0.10
_DYNAMIC_ONNX = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"})

_Row = tuple[OperatorTimes, TimedOperator, bool]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to blame that has a name and a remedy (harness.report.explain has the words): its share of the variant's
    operator time, and the types of operators concerned."""

    code: str
    share: float
    types: tuple[str, ...]


def find(
    operators: Sequence[OperatorTimes],
    timed: Sequence[TimedOperator],
    grown: Sequence[bool],
    outside_types: AbstractSet[str],
    engine: str,
) -> tuple[Finding, ...]:
    """What is to blame, the greatest share first. `grown`: for each operator, whether its layer takes longer than in the base (or
    there is none). `outside_types`: types of operators that the delegate, or the first execution provider, did not take."""
    total = sum(operator.time_ns for operator in timed) or 1.0
    rows: list[_Row] = list(zip(operators, timed, grown, strict=True))

    def finding(code: str, chosen: Sequence[_Row]) -> Finding | None:
        blamed = [mine for _, mine, longer in chosen if longer]
        share = sum(operator.time_ns for operator in blamed) / total
        kinds = tuple(dict.fromkeys(operator.type for operator in blamed))
        return Finding(code, share, kinds) if share >= WORTH_NAMING else None

    def of(*roles: str) -> list[_Row]:
        return [row for row in rows if row[1].role in roles]

    outside = [row for row in of(COMPUTE) if row[1].type in outside_types]
    wide = [row for row in outside if row[0].precision == "int16x8"]
    integer = [row for row in rows if row[1].type in _DYNAMIC_ONNX]
    convolutions = any(row[1].type == "ConvInteger" for row in integer)
    products = [row for row in of(COMPUTE) if row[0].precision == "int8-dynamic" and row not in outside]
    left = "outside_delegate" if engine == "litert" else "other_provider"
    checks = (
        finding("dynamic_onnx", integer if convolutions else []),
        finding("wide_activations", wide),
        finding(left, [] if wide else outside),
        finding("dynamic_products", products),
        finding("quantizing", [] if convolutions else of(QUANTIZE, DEQUANTIZE)),
        finding("casting", of(CAST)),
        finding("reordering", of(LAYOUT)),
    )
    return tuple(sorted((item for item in checks if item is not None), key=lambda item: -item.share))
