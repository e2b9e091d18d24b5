"""Operators of two profiles held against each other: which belong to the same layer, and what each takes. Pure.

Between `harness.records` (raw times of each operator) and `harness.explain` (what they add up to). A *layer* here is an operator
of the base with everything that the variant runs in its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# What an operator is there for. "compute": convolutions, products, recurrent cells: the arithmetic that a model is made of.
COMPUTE, QUANTIZE, DEQUANTIZE, CAST, LAYOUT, OTHER = "compute", "quantize", "dequantize", "cast", "layout", "other"
# Roles that compute nothing: they only bring numbers into another type, scale or order.
MOVING = frozenset({QUANTIZE, DEQUANTIZE, CAST, LAYOUT})

# The first line with a beginning that fits (of the type in small letters) speaks; then the first with a part that does.
_BEGINNINGS: tuple[tuple[str, str], ...] = (
    ("dynamicquantizelinear", QUANTIZE),
    ("dynamicquantize", COMPUTE),  # DynamicQuantizeMatMul, DynamicQuantizeLSTM
    ("quantize", QUANTIZE),
    ("fakequantize", QUANTIZE),
    ("dequantize", DEQUANTIZE),
    ("convert", CAST),
    ("cast", CAST),
)
_PARTS: tuple[tuple[str, str], ...] = (
    ("conv", COMPUTE),
    ("gemm", COMPUTE),
    ("matmul", COMPUTE),
    ("fully", COMPUTE),
    ("lstm", COMPUTE),
    ("gru", COMPUTE),
    ("rnn", COMPUTE),
    ("attention", COMPUTE),
    ("einsum", COMPUTE),
    ("svdf", COMPUTE),
    ("transpose", LAYOUT),
    ("reorder", LAYOUT),
    ("reshape", LAYOUT),
    ("copy", LAYOUT),
    ("flatten", LAYOUT),
    ("squeeze", LAYOUT),
)
# What engines add to a node's name when they rewrite it.
_ENDINGS = ("_nchwc", "_quant", "_quantized", "/WithoutBiases")

BY_NAME, BY_ORDER = "tensor and node names", "the order of convolutions and products"
# Names match two graphs when they cover so many of the base's compute operators; the least, where their order is no help.
_ENOUGH, _LEAST = 0.9, 0.5
QUIET, _FEWEST = 0.95, 5


@dataclass(frozen=True, slots=True)
class TimedOperator:
    """An operator with one time, ns, for one inference (`central_ns` of its raw times)."""

    name: str
    type: str
    time_ns: float
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """What it is there for."""
        return role_of(self.type)


def role_of(type_: str) -> str:
    """The role of a type of operator, in any engine's words. A name that fits nothing is OTHER.

    XNNPACK's "Convert (NC, F32, QD8)" quantizes: its last word before the end is not a float.
    """
    small = type_.lower()
    if small.startswith("convert (") and any(word in small for word in ("qd8", "qs8", "qu8")):
        return QUANTIZE if small.find("f32") < max(small.find(word) for word in ("qd8", "qs8", "qu8")) else DEQUANTIZE
    for beginning, role in _BEGINNINGS:
        if small.startswith(beginning):
            return role
    for part, role in _PARTS:
        if part in small:
            return role
    return OTHER


def central_ns(times_ns: Sequence[int]) -> float:
    """The mean of the middle half of the times, ns; 0.0 for none.

    Engines tell whole µs: a median of few values would round an operator of 3.4 µs to 3, and a plain mean would carry what
    disturbed one inference.
    """
    if not times_ns:
        return 0.0
    ordered = np.sort(np.asarray(times_ns, dtype=np.float64))
    quarter = ordered.size // 4
    return float(ordered[quarter : ordered.size - quarter].mean())


def quiet(wall_ns: Sequence[int], cpu_ns: Sequence[int]) -> list[int]:
    """Which inferences had the CPU nearly for themselves (CPU time ≥ 95 % of wall time), by their places in time order.

    Where fewer than five had, the five (or all) with the largest share. Operators' times add up only within an inference that
    nothing interrupted: a pause falls into one operator, or between two.
    """
    shares = [cpu / wall if wall > 0 else 0.0 for wall, cpu in zip(wall_ns, cpu_ns, strict=True)]
    found = [place for place, share in enumerate(shares) if share >= QUIET]
    if len(found) < _FEWEST:
        found = sorted(sorted(range(len(shares)), key=lambda place: -shares[place])[:_FEWEST])
    return found


def _stem(name: str) -> str:
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name


def _keys(operator: TimedOperator) -> set[str]:
    return {_stem(name) for name in (operator.name, *operator.outputs)}


def _downstream(operators: Sequence[TimedOperator], anchors: Mapping[int, int]) -> dict[int, int]:
    """Operators without a layer get that of the nearest operator that reads, over others if need be, what they write."""
    readers: dict[str, list[int]] = {}
    for index, operator in enumerate(operators):
        for tensor in operator.inputs:
            readers.setdefault(tensor, []).append(index)
    found = dict(anchors)
    for index in range(len(operators)):
        if index in found:
            continue
        seen, queue = {index}, deque([index])
        while queue and index not in found:
            for tensor in operators[queue.popleft()].outputs:
                for reader in readers.get(tensor, ()):
                    if reader in anchors:
                        found.setdefault(index, anchors[reader])
                    elif reader not in seen:
                        seen.add(reader)
                        queue.append(reader)
    return found


def _filled(count: int, anchors: Mapping[int, int]) -> dict[int, int]:
    """What still has no layer gets that of the next operator in order of execution that has one, else of the last before."""
    found = dict(anchors)
    for order in (reversed(range(count)), range(count)):
        nearest: int | None = None
        for index in order:
            nearest = found.get(index, nearest)
            if nearest is not None:
                found.setdefault(index, nearest)
    return found


def _computing(operators: Sequence[TimedOperator]) -> list[int]:
    return [index for index, operator in enumerate(operators) if operator.role == COMPUTE]


def _by_name(variant: Sequence[TimedOperator], base: Sequence[TimedOperator]) -> tuple[dict[int, int], dict[int, int]]:
    """Layers by names alone: a base operator whose names the variant has too is a layer; what leads to it belongs to it."""
    shared = set().union(*map(_keys, variant)) & set().union(*map(_keys, base))
    owner: dict[str, int] = {}
    base_anchors: dict[int, int] = {}
    for index, operator in enumerate(base):
        for key in sorted(_keys(operator) & shared):
            owner.setdefault(key, index)
            base_anchors[index] = index
    variant_anchors: dict[int, int] = {}
    for index, operator in enumerate(variant):
        layers = [owner[key] for key in sorted(_keys(operator) & shared)]
        if layers:
            variant_anchors[index] = max(layers)
    return _downstream(variant, variant_anchors), _downstream(base, base_anchors)


def _by_order(operators: Sequence[TimedOperator]) -> dict[int, int]:
    """Layer numbers by the order of compute operators; what quantizes or moves goes with the next of them, the rest with the last."""
    computing = _computing(operators)
    anchors = {index: number for number, index in enumerate(computing)}
    found = dict(anchors)
    for index, operator in enumerate(operators):
        if index in found:
            continue
        later = next((place for place in computing if place > index), None)
        earlier = next((place for place in reversed(computing) if place < index), None)
        place = later if (operator.role in (QUANTIZE, LAYOUT) and later is not None) or earlier is None else earlier
        if place is not None:
            found[index] = anchors[place]
    return found


def match_layers(
    variant: Sequence[TimedOperator], base: Sequence[TimedOperator]
) -> tuple[str | None, dict[int, int], dict[int, int]]:
    """Layer of each operator of the variant and of the base, by their indices; and by what they were matched.

    By tensor and node names where nine tenths of the base's compute operators are matched so; else, where both have the same
    number of compute operators, by their order; else by names if half are; else nothing is matched: (None, {}, {}).
    """
    if not variant or not base:
        return None, {}, {}
    mine, its = _by_name(variant, base)
    computing = _computing(base)
    layers = {its[i] for i in computing if i in its} & {mine[i] for i in _computing(variant) if i in mine}
    share = len(layers) / len(computing) if computing else 0.0
    if share < _ENOUGH and computing and len(_computing(variant)) == len(computing):
        return BY_ORDER, _by_order(variant), _by_order(base)
    if share >= _LEAST:
        return BY_NAME, _filled(len(variant), mine), _filled(len(base), its)
    return None, {}, {}
