"""OpenVINO runtime: .xml with its .bin (or .onnx), on the CPU unless the job names another device.

Options in the job: `device` (default "CPU"), `config` (name -> value of a compile property, over ours).

Without being asked, OpenVINO runs an fp32 model in bf16 on a CPU that has it, and quantizes the activations of
weight-compressed layers. With precision "f32" both are switched off, and what was compiled is read back. Whether it pins its
threads is left to OpenVINO: it stays on the CPUs that the process was given, and takes no more threads than those. No model
cache is used. Importing and running the runtime sends no telemetry (its conversion tools do, and they are not used here).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..protocol import Tensor
from .base import LoadOptions, Operator, precision_facts
from .openvino_profile import METHOD, operators_of
from .openvino_profile import Counter as ProfileCounter

_COMPUTE = frozenset(
    {"Convolution", "GroupConvolution", "Deconvolution", "BinaryConvolution", "DeformableConvolution"}
    | {"FullyConnected", "MatMul", "Gemm", "MHA", "ScaledDotProductAttention"}
    | {"RNNCell", "RNNSeq", "LSTMCell", "LSTMSequence", "GRUCell", "GRUSequence"}
)
_NO_OPERATORS = frozenset({"Constant", "Parameter", "Result"})
_PRECISIONS = {"i8": "int8", "u8": "int8"}
_READ_BACK = {
    "threads": "INFERENCE_NUM_THREADS",
    "streams": "NUM_STREAMS",
    "precision_hint": "INFERENCE_PRECISION_HINT",
    "cpu_pinning": "ENABLE_CPU_PINNING",
    "dynamic_quantization_group_size": "DYNAMIC_QUANTIZATION_GROUP_SIZE",
    "devices": "EXECUTION_DEVICES",
    "runtime": "RUNTIME_REQUIREMENTS",
}

_NOT_READ = {"precision": None, "precision_reason": "the runtime graph is read in probe runs only"}


def _name(port: Any) -> str:
    """A port's name; artifacts may have ports without one."""
    names = sorted(port.get_names())
    return str(port.get_any_name()) if names else str(port.get_node().get_friendly_name())


def _tensor(port: Any) -> Tensor:
    shape = tuple(int(d.get_length()) if d.is_static else None for d in port.get_partial_shape())
    return Tensor(name=_name(port), shape=shape, dtype=np.dtype(port.get_element_type().to_dtype()).name)


def _plain(value: Any) -> Any:
    """A property as JSON-compatible data."""
    if hasattr(value, "get_type_name"):
        return str(value.get_type_name())
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)


class OpenVINOSession:
    """One compiled model with one infer request; with `streams` > 1, one of several requests that share the compiled model."""

    def __init__(self, compiled: Any, *, reshaped: bool, cache: str, streams: int = 1) -> None:
        self._compiled = compiled
        self._streams = streams
        self._request = compiled.create_infer_request()
        self._reshaped = reshaped
        self._cache = cache
        self._stateful = bool(self._request.query_state())
        self.cpu_clock = "process"  # even one "thread" may be a worker of its pool
        self.invoke = self._leanest() if streams == 1 else self._in_stream

    def _in_stream(self) -> None:
        """One inference in one of the runtime's streams, as its AsyncInferQueue gives it out."""
        self._request.start_async()
        self._request.wait()

    def _leanest(self) -> Callable[[], object]:
        """The native synchronous call under `infer`, with views of the outputs: the wrapper copies and dispatches."""
        for base in type(self._request).__mro__:
            if base.__module__.endswith("_pyopenvino") and hasattr(base, "infer"):
                return functools.partial(base.infer, self._request, {}, True, False)
        return functools.partial(self._request.infer, share_outputs=True)

    def tensors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """See base.Session."""
        return tuple(map(_tensor, self._compiled.inputs)), tuple(map(_tensor, self._compiled.outputs))

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Session. Values go into the request's own input memory, which the engine has aligned."""
        if self._stateful:
            self._request.reset_state()
        for index, array in enumerate(inputs):
            self._request.get_input_tensor(index).data[...] = array

    def outputs(self) -> list[NDArray[Any]]:
        """See base.Session."""
        count = len(self._compiled.outputs)
        return [np.array(self._request.get_output_tensor(index).data) for index in range(count)]

    def facts(self, *, deep: bool) -> dict[str, Any]:
        """See base.Session. `deep` reads precisions and kernels from the compiled graph, which costs tens of ms."""
        facts: dict[str, Any] = {"reshaped_to_fixed": self._reshaped, "model_cache": self._cache or "off"}
        for key, name in _READ_BACK.items():
            try:
                facts[key] = _plain(self._compiled.get_property(name))
            except (RuntimeError, TypeError) as error:
                facts |= {key: None, key + "_reason": str(error).strip()[:200]}
        if self._streams > 1 and isinstance(facts["threads"], int):
            facts |= {"threads_of_all_streams": facts["threads"], "threads": facts["threads"] // self._streams}
        try:
            facts |= self._runtime_graph() if deep else _NOT_READ
        except (RuntimeError, TypeError, KeyError) as error:
            facts |= {"precision": None, "precision_reason": f"no runtime graph: {str(error).strip()[:200]}"}
        facts |= {"arena_bytes": None, "arena_bytes_reason": "OpenVINO does not tell the memory of its tensors"}
        return facts

    def counters(self) -> list[ProfileCounter]:
        """Performance counters of the last inference; the model must have been compiled with them."""
        return [
            ProfileCounter(
                name=str(info.node_name),
                type=str(info.node_type),
                kernel=str(info.exec_type),
                real_ns=round(info.real_time.total_seconds() * 1e9),
                executed=str(info.status).endswith(".EXECUTED"),
            )
            for info in self._request.get_profiling_info()
        ]

    def runtime_nodes(self) -> dict[str, dict[str, str]]:
        """Runtime info of each node of the compiled graph, by its name."""
        keys = ("runtimePrecision", "originalLayersNames", "outputLayouts")
        found = {}
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            found[str(node.get_friendly_name())] = {key: _rt(info, key) for key in keys if key in info}
        return found

    def _runtime_graph(self) -> dict[str, Any]:
        operators: Counter[str] = Counter()
        kernels: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if "layerType" not in info or _rt(info, "layerType") not in _COMPUTE:
                continue
            precision = _rt(info, "runtimePrecision")
            operators[_PRECISIONS.get(precision, precision)] += 1
            kernels[_rt(info, "primitiveType")] += 1
        return precision_facts(operators, "runtime graph of the compiled model") | {
            "kernels": dict(sorted(kernels.items()))
        }


def _rt(info: Any, key: str) -> str:
    value = info[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)


class OpenVINOProfiler:
    """A compiled model of its own with performance counters on."""

    method = METHOD
    notes: tuple[str, ...] = ()

    def __init__(self, session: OpenVINOSession, operators: Counter[str]) -> None:
        self._session = session
        self._operators = operators
        self._runs: list[list[ProfileCounter]] = []
        self.invoke = session.invoke

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Profiler."""
        self._session.bind(inputs)

    def start(self) -> None:
        """See base.Profiler."""

    def collect(self) -> None:
        """See base.Profiler."""
        self._runs.append(self._session.counters())

    def stop(self) -> None:
        """See base.Profiler."""

    def operators(self) -> list[Operator]:
        """See base.Profiler."""
        return operators_of(self._runs, self._session.runtime_nodes())

    def graph(self) -> dict[str, Any]:
        """See base.Profiler. Constants and results are no operators."""
        found = {name: count for name, count in self._operators.items() if name not in _NO_OPERATORS}
        return {"nodes": sum(found.values()), "operators": dict(sorted(found.items()))}


class OpenVINO:
    """The imported package with one Core."""

    name = "openvino"

    def __init__(self, module: Any) -> None:
        self._module = module
        self._core: Any = None
        self.version = str(module.__version__)

    def load(self, path: str, options: LoadOptions) -> OpenVINOSession:
        """See base.Engine. Free dimensions are fixed before compiling: a batch-1 graph is what a device would deploy."""
        return self.load_streams(path, options, 1)[0]

    def load_streams(self, path: str, options: LoadOptions, streams: int) -> list[OpenVINOSession]:
        """One compiled model with that many of the runtime's own streams, `options.threads` each, and a request for each."""
        if self._core is None:  # inside the first load: a cold start pays for it
            self._core = self._module.Core()
        model = self._core.read_model(path)
        inputs = [_tensor(port) for port in model.inputs]
        reshaped = any(None in tensor.shape for tensor in inputs)
        if reshaped:
            shapes = options.shapes(inputs)
            model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
        device = str(options.extra.get("device", "CPU"))
        compiled = self._core.compile_model(model, device, self._config(device, options, streams))
        cache = str(self._core.get_property("CACHE_DIR"))
        return [OpenVINOSession(compiled, reshaped=reshaped, cache=cache, streams=streams) for _ in range(streams)]

    def profiler(self, path: str, options: LoadOptions) -> OpenVINOProfiler:
        """See base.Profiler."""
        config = {**options.extra.get("config", {}), "PERF_COUNT": True}
        session = self.load(path, dataclasses.replace(options, extra={**options.extra, "config": config}))
        operators = Counter(str(op.get_type_name()) for op in self._core.read_model(path).get_ordered_ops())
        return OpenVINOProfiler(session, operators)

    def _config(self, device: str, options: LoadOptions, streams: int) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": options.threads * streams,
        }
        if options.precision == "f32":
            wanted |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        supported = set(self._core.get_property(device, "SUPPORTED_PROPERTIES"))
        return {key: value for key, value in wanted.items() if key in supported} | dict(options.extra.get("config", {}))


def create() -> OpenVINO:
    """Import OpenVINO. Raises ImportError.

    The package imports its model converter where it can (two thirds of the time its import takes, telemetry among it), and
    does without where it cannot. The agent converts nothing, so meanwhile there is no converter.
    """
    absent = "openvino.tools" not in sys.modules
    if absent:
        sys.modules["openvino.tools"] = None  # type: ignore[assignment] # what Python takes for "cannot be imported"
    try:
        return OpenVINO(importlib.import_module("openvino"))  # absolute: not this module, which has the same name
    finally:
        if absent:
            del sys.modules["openvino.tools"]
