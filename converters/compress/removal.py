"""Chooses the units that go: in the order of their importance, until the share that is asked for is really gone.

Between `converters.compress.importance` and `converters.compress.rebuild`. Pure arithmetic over a `Structure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.compress.channels import Ids
from converters.compress.groups import Group, Structure

Scores = npt.NDArray[np.float64]
PARAMETERS, MACS = "parameters", "macs"
LAYER, GLOBAL = "layer", "global"
# While anything else can go, every layer keeps this share of its filters: a layer of one filter is a bottleneck for all.
LEAST_SHARE = 0.1
# Layers lose filters by fours from this width on: ONNX Runtime's blocked convolutions take channels in fours, and fall back to
# slower ones otherwise (a ResNet with half of its MACs gone at odd widths was no faster there). By eights, where eight are a
# small share of the model: that fills vector registers.
FOURS_FROM, EIGHTS_FROM, SMALL_SHARE = 16, 64, 0.01
# How many of the last pieces are looked at again, to give back what was more than asked for.
LOOKED_AT_AGAIN = 64


@dataclass(frozen=True, slots=True)
class Removal:
    """`units` that go, in order. `left`: parameters (or MACs) without them. `reached`: whether that is at most what was asked for."""

    units: Ids
    left: int
    reached: bool


def counted(structure: Structure, target: str) -> Callable[[Ids], int]:
    """What is left without some units, as `target` counts."""

    def parameters(units: Ids) -> int:
        return structure.parameters(units)

    def macs(units: Ids) -> int:
        left = structure.macs(units)
        if left is None:
            raise ValueError("the model leaves the size of its input free, so its MACs are unknown")
        return left

    return macs if target == MACS else parameters


def choose(structure: Structure, scores: Scores, goal: float, *, target: str, scope: str) -> Removal:
    """The least important units whose removal leaves at most `goal` parameters or MACs, or all that may go.

    `scores`: float64 [units], higher matters more. `scope`: "global" ranks all units together; "layer" takes the same share of
    each group. No layer is emptied. The goal is met within one piece: a unit, or a few of a wide layer's.
    """
    count = counted(structure, target)
    pieces = sequence(structure, scores, scope, count)
    low, high = 0, len(pieces)

    def first(number: int) -> Ids:
        return np.concatenate([np.empty(0, np.int64), *pieces[:number]])

    while low < high:
        middle = (low + high) // 2
        if count(first(middle)) <= goal:
            high = middle
        else:
            low = middle + 1
    chosen = pieces[:low]
    if count(first(low)) <= goal:
        chosen = _given_back(chosen, count, goal)
    units = np.concatenate([np.empty(0, np.int64), *chosen])
    left = count(units)
    return Removal(units, left, left <= goal)


def choose_numbers(structure: Structure, scores: Scores, wanted: Mapping[str, float], *, target: str) -> Removal:
    """The least important units of each group, `wanted` (by the group's name) of them, or the nearest number that leaves its layers whole
    vectors and at least one filter. Groups that are not named stay. `scores`: float64 [units], higher matters more."""
    count = counted(structure, target)
    whole = count(np.empty(0, np.int64))
    chosen = [np.empty(0, np.int64)]
    for group in structure.groups:
        taken = 0
        for piece in _ordered_pieces(group, scores, count, whole)[0]:
            # Half of a piece more or less is as near.
            if taken + len(piece) / 2 > wanted.get(group.name, 0.0):
                break
            chosen.append(piece)
            taken += len(piece)
    units = np.concatenate(chosen)
    return Removal(units, count(units), reached=True)


def _given_back(pieces: list[Ids], count: Callable[[Ids], int], goal: float) -> list[Ids]:
    """Without the most important pieces that the goal is met without: one large piece may be worth several small ones."""
    kept = list(pieces)
    for index in range(len(pieces) - 1, max(len(pieces) - LOOKED_AT_AGAIN, 0) - 1, -1):
        without = kept[:index] + kept[index + 1 :]
        if without and count(np.concatenate(without)) <= goal:
            kept = without
    return kept


def sequence(structure: Structure, scores: Scores, scope: str, count: Callable[[Ids], int]) -> list[Ids]:
    """Pieces in the order in which they go; all of them together leave every layer one filter. `count`: see `counted`."""
    whole = count(np.empty(0, np.int64))
    keyed: list[tuple[bool, float, int, Ids]] = []
    for group in structure.groups:
        pieces, spared = _ordered_pieces(group, scores, count, whole)
        taken, highest = 0, -np.inf
        for piece in pieces:
            taken += len(piece)
            # A piece never goes before a less important one of its group.
            highest = max(highest, float(scores[piece].mean()))
            key = taken / len(group.units) if scope == LAYER else highest
            keyed.append((taken > spared, key, len(keyed), piece))
    return [piece for *_, piece in sorted(keyed, key=lambda item: item[:3])]


def _ordered_pieces(group: Group, scores: Scores, count: Callable[[Ids], int], whole: int) -> tuple[list[Ids], int]:
    """See `_pieces`: with the least important unit first, and by as many at once as the group's width allows."""
    order = group.units[np.argsort(scores[group.units], kind="stable")]
    small = len(order) >= EIGHTS_FROM and whole - count(order[:8]) <= SMALL_SHARE * whole
    return _pieces(group, order, 8 if small else 4 if len(order) >= FOURS_FROM else 1)


def _pieces(group: Group, order: Ids, stride: int) -> tuple[list[Ids], int]:
    """A group's units cut into pieces, least important first, and how many may go before other groups must give more. Units
    that would leave a layer without filters are left out."""
    left = {name: int((units >= 0).sum()) + int((units < 0).sum()) for name, units in group.layers.items()}
    holders: dict[int, list[tuple[str, int]]] = {}
    for name, units in group.layers.items():
        for unit, number in zip(*np.unique(units[units >= 0], return_counts=True), strict=True):
            holders.setdefault(int(unit), []).append((name, int(number)))
    may_go: list[int] = []
    for unit in order.tolist():
        if all(left[name] - number >= 1 for name, number in holders[unit]):
            for name, number in holders[unit]:
                left[name] -= number
            may_go.append(unit)
    # The first piece makes the rest a multiple.
    first = len(order) % stride or stride
    cuts = list(range(first, len(may_go), stride))
    spared = int(len(order) * (1 - LEAST_SHARE))
    return [piece for piece in np.split(np.array(may_go, dtype=np.int64), cuts) if len(piece)], spared
