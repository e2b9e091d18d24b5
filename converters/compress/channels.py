"""Follows channels through a graph: which slices of which weights must go together when one channel goes.

Every layer that makes channels gives each a number. The numbers travel with the tensors, axis by axis, through what keeps channels
apart (`converters.compress.channel_rules`); an addition makes two numbers one, a concatenation lines them up, flattening repeats
them. Where channels reach the model's output, or something unknown, they are fenced: they stay. After Fang et al.,
arXiv:2301.12900 (groups of coupled parameters), here by numbered channels instead of a matrix of dependencies.
`converters.compress.groups` draws the conclusions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.compress.graph import Call, Graph

Ids = npt.NDArray[np.int64]
# Of one tensor: per axis the numbers of its channels, or None where the axis holds none that could go.
Label = list[Ids | None]
# What a slice of a weight does with a channel: makes it, takes it, or treats it on its way.
MAKES, TAKES, TREATS = "makes", "takes", "treats"
OUTPUT = "its channels are what the model gives"


class Channels:
    """Numbers of channels, of which some are one and some must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    @property
    def count(self) -> int:
        """How many numbers were given."""
        return len(self._parent)

    def new(self, count: int) -> Ids:
        """So many new numbers."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def root(self, number: int) -> int:
        """The one number that stands for all that are one with it."""
        trail = []
        while self._parent[number] != number:
            trail.append(number)
            number = self._parent[number]
        for passed in trail:
            self._parent[passed] = number
        return number

    def unite(self, a: Ids, b: Ids) -> None:
        """Make them one, position by position."""
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            first, second = sorted((self.root(x), self.root(y)))
            if first != second:
                self._parent[second] = first
                reason = self._reasons.pop(second, None)
                if reason is not None:
                    self._reasons.setdefault(first, reason)

    def fence(self, ids: Ids, reason: str, *, first: bool = False) -> None:
        """They stay. The first reason counts, or this one where it is to be the `first`."""
        for number in set(ids.tolist()):
            root = self.root(number)
            self._reasons[root] = reason if first else self._reasons.get(root, reason)

    def roots(self) -> Ids:
        """For each number the one that stands for it."""
        return np.array([self.root(number) for number in range(self.count)], dtype=np.int64)

    def reasons(self) -> dict[int, str]:
        """Why channels stay, by the number that stands for them."""
        return {self.root(number): reason for number, reason in self._reasons.items()}


@dataclass(slots=True)
class Site:
    """One axis of one weight whose positions belong to channels. `ids`: one per position. `filter`: whether its values tell how
    much a channel matters (kernels do, biases do not). `tensor`, `tensor_axis`: where a taking layer finds the channels."""

    operation: Any
    layer: str
    variable: str
    axis: int
    ids: Ids
    role: str
    filter: bool = False
    tensor: int | None = None
    tensor_axis: int | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """Multiply-accumulates of one call: so many per value of the weight `variable` of `operation` and per channel of `spread`
    (other axes of the result that hold channels). `positions` is None where the size of the input is free."""

    operation: Any
    variable: str
    positions: int | None
    spread: tuple[Ids, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Count:
    """A setting of a layer that is the number of these channels, divided by `per`."""

    ids: Ids
    per: int = 1

    def value(self, gone: npt.NDArray[np.bool_]) -> tuple[int, bool]:
        """What it is without the channels that are `gone`, and whether that is something else than before."""
        return int((~gone[self.ids]).sum()) // self.per, bool(gone[self.ids].any())


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A setting of a layer that is a shape, with channels in the place of some of its numbers."""

    parts: tuple[int | Ids, ...]

    def value(self, gone: npt.NDArray[np.bool_]) -> tuple[list[int], bool]:
        """What it is without the channels that are `gone`, and whether that is something else than before."""
        sizes = [part if isinstance(part, int) else int((~gone[part]).sum()) for part in self.parts]
        return sizes, any(bool(gone[part].any()) for part in self.parts if not isinstance(part, int))


@dataclass(slots=True)
class Trace:
    """What was seen on the way. `labels` by tensor. `sites` by (id of the operation, weight, axis). `born`: the channels that each
    layer makes, by layer name. `settings`: by (id of the operation, key of its config). `renormalised`: layers that take mean and variance over channels, and so answer otherwise when one goes.
    `unknown`: layers that touch channels or hold weights and have no rule, name → reason."""

    graph: Graph
    channels: Channels = field(default_factory=Channels)
    labels: dict[int, Label] = field(default_factory=dict)
    sites: dict[tuple[int, str, int], Site] = field(default_factory=dict)
    born: dict[str, Ids] = field(default_factory=dict)
    settings: dict[tuple[int, str], Count | Shape] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    renormalised: set[str] = field(default_factory=set)
    unknown: dict[str, str] = field(default_factory=dict)
    _fixed: set[tuple[int, str, int]] = field(default_factory=set)

    def label(self, tensor: int) -> Label:
        """The channels of a tensor."""
        return self.labels[tensor]

    def makes(self, call: Call, variable: str, axis: int, count: int, *, filters: bool = True) -> Ids:
        """The channels that a layer makes, one per position of its weight's axis; the same in every call of a shared layer."""
        if call.name not in self.born:
            self.born[call.name] = self.channels.new(count)
        ids = self.born[call.name]
        self._site(call, variable, axis, ids, MAKES, filters=filters)
        return ids

    def also_makes(self, call: Call, variable: str, ids: Ids) -> None:
        """A weight with one value per channel made, such as a bias; None in a layer without is passed over."""
        if getattr(call.operation, variable) is not None:
            self._site(call, variable, 0, ids, MAKES)

    def takes(self, call: Call, variable: str, axis: int, ids: Ids | None, tensor_axis: int) -> None:
        """A weight whose axis is multiplied with the channels `ids` of the call's first input (None: nothing that could go)."""
        self._site(call, variable, axis, ids, TAKES)
        if ids is not None and (site := self.sites.get((id(call.operation), variable, axis))):
            site.tensor, site.tensor_axis = call.inputs[0], tensor_axis

    def treats(self, call: Call, variable: str, axis: int, ids: Ids | None, *, filters: bool = False) -> None:
        """A weight with values of its own for each channel that passes through, such as a normalization's scale."""
        if getattr(call.operation, variable, None) is not None:
            self._site(call, variable, axis, ids, TREATS, filters=filters)

    def _site(self, call: Call, variable: str, axis: int, ids: Ids | None, role: str, *, filters: bool = False) -> None:
        key = (id(call.operation), variable, axis)
        known = self.sites.get(key)
        # A layer called twice has one set of weights: what it takes the first time and the second time goes together.
        if ids is None or key in self._fixed:
            self._fixed.add(key)
            for found in (ids, known.ids if known else None):
                if found is not None:
                    self.channels.fence(found, f"{call.name} is shared with tensors that keep all their channels")
        elif known is not None:
            self.channels.unite(known.ids, ids)
        else:
            self.sites[key] = Site(call.operation, call.name, variable, axis, ids, role, filters)

    def counts(self, call: Call, key: str, ids: Ids, per: int = 1) -> None:
        """A setting of the layer that is the number of these channels, divided by `per`."""
        self.settings[id(call.operation), key] = Count(ids, per)

    def shapes(self, call: Call, key: str, shape: Sequence[int | Ids]) -> None:
        """A setting of the layer that is a shape, with channels in the place of some numbers."""
        known = self.settings.setdefault((id(call.operation), key), Shape(tuple(shape)))
        for a, b in zip(known.parts if isinstance(known, Shape) else (), shape, strict=True):
            if not isinstance(a, int) and not isinstance(b, int):
                self.channels.unite(a, b)
            for one, other in ((a, b), (b, a)):
                if not isinstance(one, int) and isinstance(other, int):
                    self.channels.fence(one, f"{call.name} is shared with tensors that keep all their channels")

    def fence(self, label: Label, reason: str, besides: int | None = None) -> None:
        """All channels of a tensor stay, but for those of the axis `besides`."""
        for axis, ids in enumerate(label):
            if ids is not None and axis != besides:
                self.channels.fence(ids, reason)

    def unmoved(self, call: Call, why: str) -> list[Label]:
        """The answer of a rule that cannot treat a call: what it takes stays, what it gives holds no channels that could go."""
        reason = f"{call.name} ({type(call.operation).__name__}) {why}"
        alive = any(ids is not None for tensor in call.inputs for ids in self.labels[tensor])
        if alive or getattr(call.operation, "weights", None):
            self.unknown.setdefault(call.name, why)
        for tensor in call.inputs:
            self.fence(self.labels[tensor], reason)
        return [[None] * len(self.graph.shape(tensor)) for tensor in call.outputs]


Rule = Callable[[Trace, Call], list[Label]]


def follow(graph: Graph, rule_of: Callable[[Any], Rule | None]) -> Trace:
    """Follow the channels from the inputs to the outputs. `rule_of`: how an operation treats channels; None: unknown."""
    trace = Trace(graph)
    for tensor in graph.inputs:
        trace.labels[tensor] = [None] * len(graph.shape(tensor))
    for call in graph.calls:
        rule = rule_of(call.operation)
        if rule is None:
            found = trace.unmoved(call, graph.unopened.get(call.name, "is not a layer whose channels are known"))
        else:
            found = rule(trace, call)
        trace.labels.update(zip(call.outputs, found, strict=True))
    for ids in (ids for tensor in graph.outputs for ids in trace.labels[tensor] if ids is not None):
        trace.channels.fence(ids, OUTPUT, first=True)
    return trace
