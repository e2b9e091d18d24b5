"""LiteRT (or its predecessor tflite-runtime, on devices that have only that): .tflite on the CPU.

Options in the job: `xnnpack` (default true): whether the XNNPACK delegate is applied; `profile`: see litert_profilers.py.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..protocol import Tensor
from .base import LoadOptions, Profiler, precision_facts
from .litert_profile import GraphOperator

# The operators that carry the arithmetic, and where in their inputs activations and weights stand.
_COMPUTE: dict[str, tuple[int, int]] = {
    "CONV_2D": (0, 1),
    "DEPTHWISE_CONV_2D": (0, 1),
    "CONV_3D": (0, 1),
    "FULLY_CONNECTED": (0, 1),
    "BATCH_MATMUL": (0, 1),
    "TRANSPOSE_CONV": (2, 1),
    "CONV_3D_TRANSPOSE": (2, 1),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (0, 2),
    "BIDIRECTIONAL_SEQUENCE_LSTM": (0, 2),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (0, 1),
    "LSTM": (0, 2),
    "RNN": (0, 1),
    "SVDF": (0, 1),
}


def _tensor(detail: dict[str, Any], *, free: bool) -> Tensor:
    shape = detail.get("shape_signature", detail["shape"]) if free else detail["shape"]
    quantization = detail["quantization_parameters"]
    scales, zeros = quantization["scales"], quantization["zero_points"]
    return Tensor(
        name=str(detail["name"]),
        shape=tuple(None if size < 0 else int(size) for size in shape),
        dtype=np.dtype(detail["dtype"]).name,
        scale=tuple(float(value) for value in scales),
        zero_point=tuple(int(value) for value in zeros),
        quantized_axis=int(quantization["quantized_dimension"]) if len(scales) > 1 else None,
    )


def _precision_of(activation: str, weight: str) -> str:
    if activation in ("float32", "float16", "float64"):
        plain = {"float32": "f32", "float16": "f16", "float64": "f64"}[activation]
        # A float operator on integer weights is a hybrid kernel: it quantizes its activations while running.
        return plain if weight.startswith("float") else "int8-dynamic"
    return "int16x8" if activation == "int16" else "int8"


class _Graph:
    """The operators of the main subgraph, read through the interpreter's native wrapper (no public way exists)."""

    def __init__(self, native: Any) -> None:
        names = [str(native.NodeName(index)) for index in range(native.NumNodes())]
        self.delegates = [index for index, name in enumerate(names) if "delegate" in name.lower()]
        self.nodes = [index for index in range(len(names)) if index not in set(self.delegates)]
        self.names = names
        self._native = native

    def _inputs(self, node: int) -> list[int]:
        return [int(index) for index in self._native.NodeInputs(node)]

    def _precision(self, node: int) -> str | None:
        """The precision of a compute operator; None for any other."""
        places = _COMPUTE.get(self.names[node])
        inputs = self._inputs(node)
        if places is None or len(inputs) <= max(places):
            return None
        kinds = [np.dtype(self._native.TensorType(inputs[place], 0)).name for place in places]
        return _precision_of(kinds[0], kinds[1])

    def precisions(self) -> Counter[str]:
        """Compute operators by precision."""
        found = (self._precision(node) for node in self.nodes)
        return Counter(precision for precision in found if precision is not None)

    def operators(self) -> list[GraphOperator]:
        """The graph's own operators by their number, delegates left out."""

        def named(tensors: Iterable[int]) -> tuple[str, ...]:
            return tuple(str(self._native.TensorName(int(index), 0)) for index in tensors if index >= 0)

        return [
            GraphOperator(
                self.names[node],
                named(self._inputs(node)),
                named(self._native.NodeOutputs(node)),
                self._precision(node),
            )
            for node in self.nodes
        ]

    def delegated(self) -> int:
        """How many nodes the delegates took over: all that lie between a delegate's inputs and its outputs."""
        producer = {int(out): node for node in self.nodes for out in self._native.NodeOutputs(node)}
        taken: set[int] = set()
        for delegate in self.delegates:
            borders = set(self._inputs(delegate))
            pending = [int(index) for index in self._native.NodeOutputs(delegate)]
            while pending:
                tensor = pending.pop()
                node = producer.get(tensor)
                if node is None or node in taken or tensor in borders:
                    continue
                taken.add(node)
                pending.extend(index for index in self._inputs(node) if index not in borders)
        return len(taken)


class LiteRTSession:
    """One interpreter with its tensors allocated."""

    def __init__(self, interpreter: Any, *, threads: int) -> None:
        self._interpreter = interpreter
        self._threads = threads
        self._inputs: list[dict[str, Any]] = interpreter.get_input_details()
        self._outputs: list[dict[str, Any]] = interpreter.get_output_details()
        self.cpu_clock = "thread" if threads == 1 else "process"
        # The public invoke() first checks Python's reference counts; a tiny model would show that.
        native = getattr(interpreter, "_interpreter", None)
        self.invoke: Callable[[], object] = getattr(native, "Invoke", interpreter.invoke)

    def tensors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """See base.Session."""
        inputs = tuple(_tensor(detail, free=False) for detail in self._inputs)
        return inputs, tuple(_tensor(detail, free=True) for detail in self._outputs)

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Session. LSTM and SVDF kernels keep their state in the interpreter, hence the reset."""
        self._interpreter.reset_all_variables()
        for detail, array in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], array)

    def outputs(self) -> list[NDArray[Any]]:
        """See base.Session."""
        return [np.array(self._interpreter.get_tensor(detail["index"])) for detail in self._outputs]

    def graph(self) -> list[GraphOperator]:
        """The operators of the loaded graph. Raises AttributeError, TypeError or ValueError where LiteRT does not tell."""
        return _Graph(self._interpreter._interpreter).operators()  # noqa: SLF001

    def facts(self, *, deep: bool) -> dict[str, Any]:
        """See base.Session. Types are those of the operators' tensors in the loaded graph."""
        del deep
        facts: dict[str, Any] = {"threads": self._threads}
        try:
            graph = _Graph(self._interpreter._interpreter)  # noqa: SLF001
            facts |= precision_facts(graph.precisions(), "tensor types of the operators in the loaded graph")
            facts |= {"nodes": len(graph.nodes), "delegated_nodes": graph.delegated()}
            # Only the resolver's default delegate is ever applied here, and that is XNNPACK.
            facts["delegate"] = "XNNPACK" if graph.delegates else "none"
        except (AttributeError, TypeError, ValueError) as error:
            for key in ("precision", "nodes", "delegated_nodes", "delegate"):
                facts |= {key: None, key + "_reason": f"this LiteRT does not tell: {error}"}
        facts |= {"arena_bytes": None, "arena_bytes_reason": "LiteRT's Python interface does not tell its arena's size"}
        return facts


class LiteRT:
    """The imported package."""

    name = "litert"

    def __init__(self, module: Any, package: str, version: str) -> None:
        self._module = module
        self.package = package
        self.version = version

    def load(self, path: str, options: LoadOptions) -> LiteRTSession:
        """See base.Engine."""
        resolver = self._module.OpResolverType
        kind = resolver.AUTO if options.extra.get("xnnpack", True) else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = self._module.Interpreter(
            model_path=path, num_threads=options.threads, experimental_op_resolver_type=kind
        )
        details = interpreter.get_input_details()
        shapes = options.shapes([_tensor(detail, free=True) for detail in details])
        for detail, shape in zip(details, shapes, strict=True):
            if tuple(int(size) for size in detail["shape"]) != shape:
                interpreter.resize_tensor_input(detail["index"], shape)
        interpreter.allocate_tensors()
        return LiteRTSession(interpreter, threads=options.threads)

    def profiler(self, path: str, options: LoadOptions) -> Profiler:
        """See base.Profiler. A session of its own, so that what it is bound to disturbs no other."""
        from .litert_profilers import open_profiler

        whole = self.load(path, options)
        folder = str(Path(str(self._module.__file__)).parent)
        return open_profiler(folder, path, options, whole, whole.graph(), lambda cut: self.load(cut, options))


def create() -> LiteRT:
    """Import LiteRT, or else tflite-runtime. Raises ImportError when neither is there."""
    for package in ("ai_edge_litert", "tflite_runtime"):
        try:
            module = importlib.import_module(package + ".interpreter")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != package:
                raise
            continue
        break
    else:
        raise ImportError("neither ai_edge_litert nor tflite_runtime is installed")
    if package == "tflite_runtime" and int(np.__version__.partition(".")[0]) > 1:
        raise ImportError(f"tflite_runtime was built for numpy 1 and fails under numpy {np.__version__}")
    version = getattr(importlib.import_module(package), "__version__", "unknown")
    return LiteRT(module, package, str(version))
