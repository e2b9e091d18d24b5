"""Residual blocks that can be removed whole: what stands between a tensor and the addition that brings it back.

Used by `converters.compress.prune_structured`. Without its branch an identity shortcut is just its input (Veit et al.,
arXiv:1605.06431), so the addition's result is replaced by the shortcut and the branch is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.compress.graph import Call, Graph

_TWO = 2


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """`addition`: name of the call that ends it. `instead`: the addition's result → the shortcut, for `rebuild`. `layers`: those of
    the branch that hold weights. `parameters`: theirs."""

    addition: str
    instead: dict[int, int]
    layers: tuple[str, ...]
    parameters: int


def residual_blocks(graph: Graph) -> list[Block]:
    """The blocks whose shortcut is an identity and whose branch serves nothing else, in the graph's order."""
    maker = {tensor: call for call in graph.calls for tensor in call.outputs}
    users: dict[int, list[Call]] = graph.consumers()
    uses: dict[int, int] = {}
    for call in graph.calls:
        uses[id(call.operation)] = uses.get(id(call.operation), 0) + 1
    found = []
    for call in graph.calls:
        if type(call.operation).__name__ != "Add" or len(set(call.inputs)) != _TWO or len(call.inputs) != _TWO:
            continue
        for shortcut, end in (call.inputs, call.inputs[::-1]):
            branch = _branch(graph, maker, shortcut, end)
            if (
                branch
                and _serves_only(graph, branch, call, users, uses)
                and _same_shape(graph, shortcut, call.outputs[0])
            ):
                held = {id(each.operation): each for each in branch if getattr(each.operation, "weights", None)}
                if held:
                    size = sum(int(each.operation.count_params()) for each in held.values())
                    names = tuple(each.name for each in held.values())
                    found.append(Block(call.name, {call.outputs[0]: shortcut}, names, size))
    return found


def _branch(graph: Graph, maker: dict[int, Call], shortcut: int, end: int) -> list[Call]:
    """All calls between the shortcut's tensor and `end`; none when `end` also depends on something else."""
    found: dict[int, Call] = {}
    stack = [end]
    while stack:
        tensor = stack.pop()
        if tensor == shortcut:
            continue
        call: Any = maker.get(tensor)
        if call is None or not call.inputs or tensor in graph.inputs:
            return []
        if id(call) not in found:
            found[id(call)] = call
            stack.extend(call.inputs)
    return list(found.values())[::-1]


def _serves_only(
    graph: Graph, branch: list[Call], addition: Call, users: dict[int, list[Call]], uses: dict[int, int]
) -> bool:
    """Whether nobody outside takes what the branch makes, and no layer of it is called elsewhere."""
    inside = {id(call) for call in branch} | {id(addition)}
    own: dict[int, int] = {}
    for call in branch:
        own[id(call.operation)] = own.get(id(call.operation), 0) + 1
        for tensor in call.outputs:
            if tensor in graph.outputs or any(id(user) not in inside for user in users.get(tensor, [])):
                return False
    return all(uses[key] == number for key, number in own.items())


def _same_shape(graph: Graph, a: int, b: int) -> bool:
    return graph.shape(a) == graph.shape(b)
