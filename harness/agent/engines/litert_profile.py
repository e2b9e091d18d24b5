"""LiteRT's profile → operators with their times, whichever way the times were had.

Either from the events of LiteRT's own profiler (litert_native.py), or by ablation (tflite_cut.py): the model is cut after ever
more of its operators, and what a cut takes longer than the one before is what the operators between them take. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .base import Operator

METHOD = "LiteRT's profiler: kernel times of each node, and of each operator inside XNNPACK"
ABLATION = (
    "ablation: the model cut after ever more operators; a segment takes what its end takes longer than its beginning"
)
# Types of event, from LiteRT's litert_profiler_event.h.
NODE, DELEGATE_NODE, INSIDE_DELEGATE = 2, 4, 8
_DELEGATE = "XNNPACK"
# Convolutions and products, in XNNPACK's words and in TFLite's.
_COMPUTING = (
    *("Convolution", "Fully Connected", "Deconvolution", "Batch Matrix Multiply"),
    *("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"),
)
_PRECISIONS = {
    "QD8": "int8-dynamic",
    "QS8": "int8",
    "QU8": "int8",
    "QC8": "int8",
    "F32": "f32",
    "F16": "f16",
    "PF32": "f32",
}


class UnreachableError(Exception):
    """This LiteRT's profiler cannot be reached from Python; its words are the reason."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of LiteRT's profiler: what, of which type, how long, and the number of the node in its graph (for one inside a
    delegate: its number in the delegate's part)."""

    tag: str
    type: int
    elapsed_ns: int
    node: int


@dataclass(frozen=True, slots=True)
class GraphOperator:
    """An operator of the loaded graph: its type and the names of its tensors."""

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: str | None = None


def _inside(tag: str) -> str | None:
    """The precision in XNNPACK's name of an operator: "Fully Connected (NC, QD8, F32, QC8W) GEMM"."""
    words = tag.partition("(")[2].partition(")")[0].replace(",", " ").split()
    return next((_PRECISIONS[word] for word in words if word in _PRECISIONS), None)


def operators_of(runs: Sequence[Sequence[Event]], graph: Sequence[GraphOperator]) -> list[Operator]:
    """Operators from the events of each inference. `graph`: the operators by node number.

    Which node an operator inside a delegate stands for is not told. Where a graph has as many convolutions and products as the
    events tell of, they are taken to be the same in the same order, and get the node's name and tensors; what lies between
    them stays nameless. Raises ValueError when an inference has other operators than the first.
    """
    found: list[Operator] = []
    keys: list[tuple[str, int, int]] = []
    for number, run in enumerate(runs):
        kernels = [event for event in run if event.type in (NODE, DELEGATE_NODE, INSIDE_DELEGATE)]
        # A delegate's own event holds those inside it: count it only where it tells of none.
        inside = any(event.type == INSIDE_DELEGATE for event in kernels)
        kernels = [event for event in kernels if event.type != DELEGATE_NODE or not inside]
        seen = [(event.tag, event.type, event.node) for event in kernels]
        if number == 0:
            keys = seen
            found = [_operator(event, place, graph) for place, event in enumerate(kernels)]
        elif seen != keys:
            raise ValueError(
                f"LiteRT's profiler told of {len(seen)} operators in one inference and {len(keys)} in another"
            )
        for operator, event in zip(found, kernels, strict=True):
            operator.times_ns.append(event.elapsed_ns)
    return _named(found, graph)


def _named(found: list[Operator], graph: Sequence[GraphOperator]) -> list[Operator]:
    computing = [place for place, operator in enumerate(found) if operator.type.startswith(_COMPUTING)]
    nodes = [node for node in graph if node.type.startswith(_COMPUTING)]
    if len(computing) != len(nodes):
        return found
    named = list(found)
    for place, node in zip(computing, nodes, strict=True):
        if node.outputs and not named[place].outputs:
            named[place] = replace(named[place], name=node.outputs[0], inputs=node.inputs, outputs=node.outputs)
    return named


def _operator(event: Event, place: int, graph: Sequence[GraphOperator]) -> Operator:
    if event.type != NODE:
        return Operator(f"{event.tag} #{place}", event.tag, [], _DELEGATE, _inside(event.tag))
    node = graph[event.node] if 0 <= event.node < len(graph) else GraphOperator(event.tag, (), ())
    name = node.outputs[0] if node.outputs else f"{event.tag} #{event.node}"
    return Operator(name, event.tag, [], "LiteRT kernel", node.precision, node.inputs, node.outputs)


def by_ablation(cuts: Sequence[int], passes: Sequence[Sequence[int]], graph: Sequence[GraphOperator]) -> list[Operator]:
    """Operators from the times of ever longer beginnings of the model.

    `cuts`: after how many operators each beginning ends, rising, the last after all. `passes`: for each pass over the cuts the
    time of each, ns. Of each cut the shortest time counts, and no beginning takes longer than a longer one: noise only adds. A
    segment of several operators bears the name of its last one and the types of all.
    """
    times = [min(taken) for taken in zip(*passes, strict=True)]
    for place in range(len(times) - 2, -1, -1):
        times[place] = min(times[place], times[place + 1])
    found = []
    start = before_ns = 0
    for end, until_ns in zip(cuts, times, strict=True):
        part = graph[start:end]
        kinds = list(dict.fromkeys(node.type for node in part))
        last = part[-1]
        precision = next((node.precision for node in part if node.precision is not None), None)
        name = last.outputs[0] if last.outputs else f"{last.type} #{end - 1}"
        taken = [until_ns - before_ns]
        found.append(Operator(name, " + ".join(kinds), taken, None, precision, part[0].inputs, last.outputs))
        start, before_ns = end, until_ns
    return found
