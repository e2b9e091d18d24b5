"""The contract of an engine: load a file, bind inputs, invoke. Only `invoke` is ever timed.

An engine module has `create() -> Engine`, which imports the engine's package (ImportError when it is missing). To add an
engine: write such a module, name it in `engines/__init__.py` and in `protocol.ENGINES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from ..protocol import Tensor

Shapes = tuple[tuple[int, ...], ...]


def ones_for_free(inputs: Sequence[Tensor]) -> Shapes:
    """Concrete shapes with 1 for every free dimension."""
    return tuple(tuple(1 if size is None else size for size in tensor.shape) for tensor in inputs)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load. `shapes` gives the concrete shapes for the inputs the engine reports, which may have free
    dimensions. `extra`: the job's options for this engine."""

    threads: int = 1
    precision: str = "f32"
    shapes: Callable[[Sequence[Tensor]], Shapes] = ones_for_free
    extra: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """A loaded model. `invoke` is the leanest callable that runs one inference on the bound inputs; `cpu_clock` says
    which clock sees its work: "thread" (all in the calling thread) or "process"."""

    invoke: Callable[[], object]
    cpu_clock: str

    def tensors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs and outputs in the engine's order. Concrete inputs; outputs may have free dimensions."""

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """Set the inputs, in the engine's order, for all invocations until the next `bind`; forget any state."""

    def outputs(self) -> list[NDArray[Any]]:
        """Copies of the outputs of the last invocation, in the engine's order."""

    def facts(self, *, deep: bool) -> dict[str, Any]:
        """What really runs: precision and how that is known, threads, delegate … `deep` permits what costs as much as a
        load. Unknown values are None with "<key>_reason"."""


class Engine(Protocol):
    """An imported engine."""

    name: str
    version: str

    def load(self, path: str, options: LoadOptions) -> Session:
        """Load and compile until ready to invoke. Any exception becomes an `error` message of kind "load"."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator as the engine ran it. `times_ns`: its time in each profiled inference, in time order (an operator in a loop
    counts all its turns). `inputs`, `outputs`: tensor names of the graph where known, by which layers of two variants are
    matched. `runner`: execution provider, delegate or kernel. `moved_bytes`: read and written by one inference, where told."""

    name: str
    type: str
    times_ns: list[int]
    runner: str | None = None
    precision: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    moved_bytes: int | None = None


class Profiler(Protocol):
    """A model loaded for profiling, in an engine that has a profiler: `Engine.profiler(path, options)` makes one (base.Engine
    need not have it). `method` says how operators are timed; `notes` what a reader must know of that.

    Inferences between `start` and `stop` count; `collect` is called after each of these, outside the clock."""

    method: str
    notes: tuple[str, ...]
    invoke: Callable[[], object]

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """As Session.bind."""

    def start(self) -> None:
        """Inferences count from now on."""

    def collect(self) -> None:
        """An inference has ended."""

    def stop(self) -> None:
        """Inferences no longer count."""

    def operators(self) -> list[Operator]:
        """All operators that ran, in order of execution. Called once, at the end."""

    def graph(self) -> dict[str, Any]:
        """Of the artifact's own graph, before the engine optimized it: `operators` (type -> how many), and what the engine
        tells of delegates: `nodes`, `delegated_nodes`, `delegate`."""


def precision_facts(operators: Counter[str], how: str) -> dict[str, Any]:
    """Facts from the number of compute operators (convolutions, matrix products, recurrent cells) in each precision.

    `precision` is that of most of them: "f32", "f16", "bf16", "f64", "int8" (8-bit operands known beforehand),
    "int8-dynamic" (8-bit weights, activations quantized while running), "int16x8".
    """
    if not operators:
        reason = "no convolution, matrix product or recurrent cell was found"
        return {"precision": None, "precision_reason": reason, "precision_operators": {}, "precision_how": how}
    most = max(sorted(operators), key=operators.__getitem__)
    return {"precision": most, "precision_operators": dict(sorted(operators.items())), "precision_how": how}
