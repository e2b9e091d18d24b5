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
