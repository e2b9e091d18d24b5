"""What can be removed from a model, in what pieces, and what would be left: units of channels, groups of units, counts.

Draws the conclusions from `converters.compress.channels`. A unit is a set of channels that can only go together (one filter, and
the filters added to it); a group is the units that live in the same layers. `converters.compress.importance` says which
units matter, `converters.compress.removal` which go, `converters.compress.rebuild` makes the model without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.compress.channel_rules import rule_of
from converters.compress.channels import MAKES, OUTPUT, TAKES, Count, Ids, Product, Shape, Site, Trace, follow
from converters.compress.graph import Graph
from converters.compress.rebuild import Cut

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Units that live in the same layers: all of them are rivals. `name`: the first layer that makes them. `units`: numbers of units.
    `layers`: all that make them, with the unit of each of their filters (int64 [filters], -1 for a filter that must stay)."""

    name: str
    units: Ids
    layers: Mapping[str, Ids]


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """All units of a model. `unit_of`: channel number → unit, -1 for channels that must stay. `groups`: in the model's order.
    `left_alone`: layers with filters that must stay, or without a rule, name → reason. `renormalised`: layers that answer
    otherwise when channels go."""

    graph: Graph
    sites: tuple[Site, ...]
    settings: Mapping[tuple[int, str], Count | Shape]
    products: tuple[Product, ...]
    unit_of: Ids
    unit_count: int
    groups: tuple[Group, ...]
    left_alone: Mapping[str, str]
    renormalised: tuple[str, ...]

    def gone(self, units: Ids) -> Mask:
        """Which channels go when these units go; bool [channels]."""
        chosen = np.zeros(self.unit_count + 1, dtype=bool)
        chosen[units] = True
        chosen[-1] = False
        return chosen[self.unit_of]

    def parameters(self, units: Ids) -> int:
        """Weights left in the model without these units."""
        gone = self.gone(units)
        sites = _by_weight(self.sites)
        total = 0
        for operation in {id(call.operation): call.operation for call in self.graph.calls}.values():
            named = {
                id(getattr(operation, name)): found for (key, name), found in sites.items() if key == id(operation)
            }
            for weight in getattr(operation, "weights", []):
                total += _size(weight, named.get(id(weight), []), gone)
        return total

    def macs(self, units: Ids) -> int | None:
        """Multiply-accumulates of a row in convolutions and dense layers, without these units; None where the input's size
        is free. Layers without a rule (recurrent, attention) are not counted."""
        gone = self.gone(units)
        sites = _by_weight(self.sites)
        total = 0
        for product in self.products:
            if product.positions is None:
                return None
            key = (id(product.operation), product.variable)
            size = _size(getattr(product.operation, product.variable), sites.get(key, []), gone)
            spread = np.prod([int((~gone[ids]).sum()) for ids in product.spread], dtype=np.int64)
            total += product.positions * size * int(spread)
        return total

    def cuts(self, units: Ids) -> dict[int, Cut]:
        """What becomes of each layer when these units go, for `converters.compress.rebuild`."""
        gone = self.gone(units)
        found: dict[int, Cut] = {}
        for site in self.sites:
            keep = ~gone[site.ids]
            if not keep.all():
                cut = found.setdefault(id(site.operation), Cut())
                cut.keep.setdefault(site.variable, {})[site.axis] = keep
        for (key, name), setting in self.settings.items():
            value, changed = setting.value(gone)
            if changed:
                found.setdefault(id(self._operation(key)), Cut()).config[name] = value
        return found

    def _operation(self, key: int) -> Any:
        return next(call.operation for call in self.graph.calls if id(call.operation) == key)

    def filters_gone(self, units: Ids) -> dict[str, list[int]]:
        """Positions of the filters that go, by the layer that makes them."""
        gone = self.gone(units)
        found = {
            site.layer: np.flatnonzero(gone[site.ids]) for site in self.sites if site.role == MAKES and site.filter
        }
        return {name: positions.tolist() for name, positions in found.items() if len(positions)}

    def takers(self, units: Ids) -> list[tuple[Site, npt.NDArray[np.int64]]]:
        """The slices of weights that these units' channels are multiplied with: with zeros there, the model answers as if they
        were gone (but for `renormalised` layers)."""
        gone = self.gone(units)
        found = [(site, np.flatnonzero(gone[site.ids])) for site in self.sites if site.role == TAKES]
        return [(site, positions) for site, positions in found if len(positions)]


def read_structure(graph: Graph) -> Structure:
    """The units and groups of a graph."""
    trace = follow(graph, rule_of)
    roots, reasons = trace.channels.roots(), trace.channels.reasons()
    free = [root for root in np.unique(roots).tolist() if root not in reasons]
    unit_of = np.full(trace.channels.count, -1, dtype=np.int64)
    index = {root: number for number, root in enumerate(free)}
    for number, root in enumerate(roots.tolist()):
        unit_of[number] = index.get(root, -1)
    groups = _groups(trace, unit_of, len(free))
    return Structure(
        graph,
        tuple(trace.sites.values()),
        trace.settings,
        tuple(trace.products),
        unit_of,
        len(free),
        groups,
        _left_alone(trace, roots, unit_of, reasons),
        tuple(sorted(trace.renormalised)),
    )


def _groups(trace: Trace, unit_of: Ids, count: int) -> tuple[Group, ...]:
    """Layers that share a unit, directly or through others, are one group."""
    layer_units = {name: unit_of[ids] for name, ids in trace.born.items() if (unit_of[ids] >= 0).any()}
    group_of = {name: name for name in layer_units}

    def first(name: str) -> str:
        while group_of[name] != name:
            name = group_of[name]
        return name

    owner: dict[int, str] = {}
    for name, units in layer_units.items():
        for unit in np.unique(units[units >= 0]).tolist():
            group_of[first(name)] = first(owner.setdefault(unit, name))
    members: dict[str, dict[str, Ids]] = {}
    for name, units in layer_units.items():
        members.setdefault(first(name), {})[name] = units
    found = []
    for layers in members.values():
        units = np.unique(np.concatenate(list(layers.values())))
        found.append(Group(next(iter(layers)), units[units >= 0], layers))
    if sum(len(group.units) for group in found) != count:
        raise AssertionError("every unit belongs to exactly one group")
    return tuple(found)


def _left_alone(trace: Trace, roots: Ids, unit_of: Ids, reasons: Mapping[int, str]) -> dict[str, str]:
    """Layers without a rule; and those that make channels which must stay, but for the layers at the model's end."""
    found = dict(trace.unknown)
    for name, ids in trace.born.items():
        fenced = [reasons[root] for root in roots[ids].tolist() if root in reasons]
        told = [reason for reason in fenced if reason != OUTPUT]
        if told and name not in found:
            found[name] = (
                told[0] if len(fenced) == len(ids) else f"{len(told)} of its {len(ids)} filters stay: {told[0]}"
            )
    treated = {site.layer for site in trace.sites.values() if (unit_of[site.ids] >= 0).any()}
    for name, ids in trace.born.items():
        if name not in found and name not in treated and len(ids):
            found[name] = OUTPUT
    return found


def _by_weight(sites: tuple[Site, ...]) -> dict[tuple[int, str], list[Site]]:
    found: dict[tuple[int, str], list[Site]] = {}
    for site in sites:
        found.setdefault((id(site.operation), site.variable), []).append(site)
    return found


def _size(weight: Any, sites: list[Site], gone: Mask) -> int:
    """Values of a weight that are left."""
    shape = [int(dim) for dim in weight.shape]
    for site in sites:
        shape[site.axis] = int((~gone[site.ids]).sum())
    return int(np.prod(shape, dtype=np.int64))
