"""A model that answers as if some of its filters were gone, while they are still there.

Filters are not removed but zeroed where other layers take them, which answers the same and needs no new model; the weights are put
back afterwards. Used by `converters.compress.prune_structured`: to check what it removes, and for its table of sensitivities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from converters.compress.channels import Ids
from converters.compress.groups import Structure
from converters.compress.rebuild import values
from converters.compress.removal import Scores
from converters.compress.sensitivity import Part, Words

WORDS = Words(
    parts="groups",
    part="group",
    units="filters",
    gone="silenced",
    title="Score without a share of one group's filters",
    shares=(0.25, 0.5, 0.75),
)


@contextmanager
def silenced(structure: Structure, units: Ids) -> Iterator[None]:
    """While this lasts, the model that `structure` was read from answers as if these units were gone."""
    before: list[tuple[Any, Any]] = []
    for site, positions in structure.takers(units):
        weight = getattr(site.operation, site.variable)
        array = values(weight)
        before.append((weight, array.copy()))
        array[(slice(None),) * site.axis + (positions,)] = 0
        weight.assign(array)
    try:
        yield
    finally:
        for weight, array in reversed(before):
            weight.assign(array)


def group_parts(structure: Structure, scores: Scores) -> list[Part]:
    """The groups of filters, each losing those of the least score first."""

    def part(name: str, order: Ids) -> Part:
        def without(share: float) -> AbstractContextManager[None]:
            return silenced(structure, order[: round(share * len(order))])

        return Part(name, len(order), without)

    return [part(group.name, group.units[np.argsort(scores[group.units], kind="stable")]) for group in structure.groups]
