"""The two profilers of LiteRT: its own, where its library can be reached, or ablation.

Used by litert.py. `options.extra["profile"]`: "auto" (LiteRT's own, else ablation), "profiler" or "ablation".
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..channel import AgentError
from .base import LoadOptions, Operator, Profiler, Session
from .litert_profile import ABLATION, METHOD, Event, GraphOperator, UnreachableError, by_ablation, operators_of
from .tflite_cut import Cutter

if TYPE_CHECKING:
    from .litert_native import NativeModel

_FEWEST_CUTS, _MOST_CUTS, _PASSES, _CUT_SAMPLES, _CUT_WARMUP = 8, 160, 3, 8, 2
_BUDGET_S = 60.0

Facts = dict[str, Any]
Open = Callable[[str], Session]


class NativeProfiler:
    """LiteRT's own profiler."""

    method = METHOD
    notes: tuple[str, ...] = (
        "LiteRT tells times in whole µs, rounded down: short operators come out shorter than they are",
    )

    def __init__(self, model: NativeModel, names: Sequence[str], graph: Sequence[GraphOperator], facts: Facts) -> None:
        self._model = model
        self._names = names
        self._graph = graph
        self._facts = facts
        self._runs: list[list[Event]] = []
        self.invoke: Callable[[], object] = model.invoke

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Profiler."""
        self._model.bind(dict(zip(self._names, inputs, strict=True)))

    def start(self) -> None:
        """See base.Profiler."""
        self._model.start()

    def collect(self) -> None:
        """See base.Profiler."""
        self._model.stop()
        self._runs.append(self._model.events())
        self._model.start()

    def stop(self) -> None:
        """See base.Profiler."""
        self._model.stop()

    def operators(self) -> list[Operator]:
        """See base.Profiler."""
        return operators_of(self._runs, self._graph)

    def graph(self) -> Facts:
        """See base.Profiler."""
        return _graph_facts(self._graph, self._facts)


class AblationProfiler:
    """No profiler at all: ever longer beginnings of the model are loaded and timed, one after the other."""

    method = ABLATION

    def __init__(self, path: str, whole: Session, graph: Sequence[GraphOperator], facts: Facts, load: Open) -> None:
        self._cutter = Cutter(Path(path).read_bytes())
        self._graph = graph
        self._facts = facts
        self._load = load
        self._whole = whole
        self._inputs: list[NDArray[Any]] = []
        self.invoke = whole.invoke
        count = self._cutter.operators
        if count != len(graph):
            raise AgentError("load", f"the file has {count} operators, the loaded graph {len(graph)}")
        self._passes: list[list[int]] = []
        self._cuts: list[int] = []
        self.notes: tuple[str, ...] = ()

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Profiler."""
        self._inputs = list(inputs)
        self._whole.bind(inputs)

    def start(self) -> None:
        """See base.Profiler."""

    def collect(self) -> None:
        """See base.Profiler."""

    def stop(self) -> None:
        """See base.Profiler."""

    def operators(self) -> list[Operator]:
        """See base.Profiler. Forward, then backward: what drifts in between is shared by both ends.

        A slow model gets fewer cuts and passes: the host takes an agent that is silent for minutes for one that hangs.
        """
        count = self._cutter.operators
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cut.tflite"
            self._time(path, count)
            fitting = int(_BUDGET_S / max(time.monotonic() - started, 1e-3))
            step = -(-count // min(max(fitting, _FEWEST_CUTS), _MOST_CUTS))
            self._cuts = [*range(step, count, step), count]
            while len(self._passes) < _PASSES and (not self._passes or time.monotonic() - started < _BUDGET_S):
                forward = len(self._passes) % 2 == 0
                order = self._cuts if forward else self._cuts[::-1]
                times = [self._time(path, cut) for cut in order]
                self._passes.append(times if forward else times[::-1])
        cut = f"cut after every {step} operators" if step > 1 else "cut after every operator"
        self.notes += (
            f"{cut}, the shortest of {_CUT_SAMPLES * len(self._passes)} inferences each; differences of times are noisier than the times",
        )
        return by_ablation(self._cuts, self._passes, self._graph)

    def _time(self, path: Path, count: int) -> int:
        """The shortest of a few inferences of the first `count` operators, ns: what disturbs one would pass for an operator's time. Of CPU time, where one thread
        does all the work: that does not run while others do."""
        path.write_bytes(self._cutter.after(count))
        session = self._load(str(path))
        session.bind(self._inputs)
        for _ in range(_CUT_WARMUP):
            session.invoke()
        clock = time.thread_time_ns if session.cpu_clock == "thread" else time.perf_counter_ns
        taken = []
        for _ in range(_CUT_SAMPLES):
            before = clock()
            session.invoke()
            taken.append(clock() - before)
        return min(taken)

    def graph(self) -> Facts:
        """See base.Profiler. With the raw times of each cut, for each pass."""
        return {**_graph_facts(self._graph, self._facts), "cut_after": self._cuts, "cut_times_ns": self._passes}


def _graph_facts(graph: Sequence[GraphOperator], facts: Facts) -> Facts:
    kept = {key: facts[key] for key in ("nodes", "delegated_nodes", "delegate") if facts.get(key) is not None}
    return {**kept, "operators": dict(sorted(Counter(node.type for node in graph).items()))}


def _native(
    package: str, path: str, options: LoadOptions, whole: Session, graph: Sequence[GraphOperator], facts: Facts
) -> NativeProfiler:
    from .litert_native import NativeModel

    model = NativeModel(package, path, options.threads)
    inputs = whole.tensors()[0]
    sizes = {t.name: math.prod(int(d or 1) for d in t.shape) * np.dtype(t.dtype).itemsize for t in inputs}
    model.check(sizes)
    return NativeProfiler(model, [tensor.name for tensor in inputs], graph, facts)


def open_profiler(
    package: str, path: str, options: LoadOptions, whole: Session, graph: Sequence[GraphOperator], load: Open
) -> Profiler:
    """LiteRT's own profiler where it can be had and was not excluded; else ablation, with the reason among its notes.

    Raises AgentError of kind "load" when only the profiler was wanted and it cannot be had.
    """
    wanted = str(options.extra.get("profile", "auto"))
    facts = whole.facts(deep=False)
    reason = "asked for"
    if wanted != "ablation":
        try:
            if not options.extra.get("xnnpack", True):
                raise UnreachableError("LiteRT's C interface always applies XNNPACK")
            return _native(package, path, options, whole, graph, facts)
        except (UnreachableError, ImportError) as error:  # small Pythons have no ctypes
            if wanted == "profiler":
                remedy = "pip install -U ai-edge-litert, or profile by ablation: --method ablation"
                message = f"LiteRT's profiler cannot be reached: {error}"
                raise AgentError("load", message, name="NoProfilerError", remedy=remedy) from error
            reason = str(error)
    profiler = AblationProfiler(path, whole, graph, facts, load)
    profiler.notes = (f"by ablation, not LiteRT's profiler: {reason}", *profiler.notes)
    return profiler
