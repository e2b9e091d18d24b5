"""ONNX Runtime's own profile: the trace it writes when a session ends → operators with their times.

Profiling is switched on with the session (`SessionOptions.enable_profiling`), so a profiled session is one of its own. The trace
is a list of events in time order: one of category "Node" for each kernel call, its time in whole µs, then a "model_run" that
closes the inference. Tensor names come from the optimized graph, which the engine writes out too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .base import Operator
from .onnx_graph import GraphNode

METHOD = "ONNX Runtime's profiler: kernel times of each node"
# Since when a node's event has this ending.
_KERNEL = "_kernel_time"
_SHORT = {"float": "f32", "float16": "f16", "double": "f64", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}


def _runs(events: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The kernel events of each inference."""
    runs: list[list[Mapping[str, Any]]] = []
    current: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith(_KERNEL):
            current.append(event)
        elif event.get("cat") == "Session" and event["name"] == "model_run":
            runs.append(current)
            current = []
    return runs


def _bytes(arguments: Mapping[str, Any]) -> int | None:
    parts = [arguments.get(key) for key in ("activation_size", "parameter_size", "output_size")]
    return None if None in parts else sum(int(str(part)) for part in parts)


def _precision(arguments: Mapping[str, Any]) -> str | None:
    """The type of the first input that is a tensor: what the kernel computes on."""
    for shapes in (arguments.get("input_type_shape", ()), arguments.get("output_type_shape", ())):
        for item in shapes:
            for kind in item:
                return _SHORT.get(kind, str(kind))
    return None


def operators_of(
    events: Iterable[Mapping[str, Any]], counted: Sequence[int], nodes: Sequence[GraphNode] = ()
) -> list[Operator]:
    """Operators from a trace. `counted`: which inferences, by number in time order; `nodes`: of the optimized graph.

    Raises ValueError when the trace has fewer inferences than that.
    """
    runs = _runs(events)
    if counted and max(counted) >= len(runs):
        raise ValueError(f"the trace has {len(runs)} inferences, not {max(counted) + 1}")
    known = {node.name: node for node in nodes}
    times: dict[str, Counter[int]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for place, number in enumerate(counted):
        for event in runs[number]:
            name = str(event["name"]).removesuffix(_KERNEL)
            first.setdefault(name, event.get("args", {}))
            times.setdefault(name, Counter())[place] += int(event["dur"]) * 1000
    found = []
    for name, arguments in first.items():
        node = known.get(name)
        operator = Operator(
            name=name,
            type=str(arguments.get("op_name", "unknown")),
            times_ns=[times[name][place] for place in range(len(counted))],
            runner=None if "provider" not in arguments else str(arguments["provider"]),
            precision=_precision(arguments),
            inputs=() if node is None else node.inputs,
            outputs=() if node is None else node.outputs,
            moved_bytes=_bytes(arguments),
        )
        found.append(operator)
    return found


def read_trace(text: str) -> list[dict[str, Any]]:
    """The events of a trace file. Raises ValueError when it is none."""
    events = json.loads(text)
    if not isinstance(events, list):
        raise ValueError("ONNX Runtime's trace is no list of events")  # noqa: TRY004 - the content is wrong, not a type
    return events
