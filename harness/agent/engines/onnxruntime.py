"""ONNX Runtime: .onnx, on the CPU unless the job names other execution providers.

Options in the job: `providers` (list, default CPU only; the first must really be there), `graph_optimization` ("all",
"extended", "basic", "disable"), `session_config` (name -> value of a session configuration entry).
"""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..channel import AgentError
from ..protocol import Tensor
from .base import LoadOptions, Operator, precision_facts
from .onnx_graph import compute_precisions, graph_nodes
from .onnx_profile import METHOD, operators_of, read_trace

_CPU = "CPUExecutionProvider"
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disable": "ORT_DISABLE_ALL",
}
_DTYPES = {"float": "float32", "double": "float64"}
# Above this an optimized copy is not written just to read the precision back.
_LARGEST_COPY = 512 * 1024 * 1024


def _tensor(argument: Any) -> Tensor:
    kind = str(argument.type).removeprefix("tensor(").removesuffix(")")
    # A free dimension is a name or None here.
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in argument.shape)
    return Tensor(name=str(argument.name), shape=shape, dtype=_DTYPES.get(kind, kind))


class OnnxSession:
    """One inference session with bound inputs and outputs."""

    def __init__(self, module: Any, session: Any, path: str, options: LoadOptions) -> None:
        self._module = module
        self._session = session
        self._path = path
        self._options = options
        self._binding = session.io_binding()
        self._bound: list[Any] = []
        self._names = [str(output.name) for output in session.get_outputs()]
        inputs = tuple(_tensor(argument) for argument in session.get_inputs())
        shapes = options.shapes(inputs)
        self._inputs = tuple(
            Tensor(name=tensor.name, shape=shape, dtype=tensor.dtype)
            for tensor, shape in zip(inputs, shapes, strict=True)
        )
        self.cpu_clock = "thread" if options.threads == 1 and session.get_providers() == [_CPU] else "process"
        self.invoke = self._leanest()

    def _leanest(self) -> functools.partial[object]:
        """The native call under `run_with_iobinding` where it can be reached: the wrapper costs microseconds."""
        native = getattr(getattr(self._session, "_sess", None), "run_with_iobinding", None)
        binding = getattr(self._binding, "_iobinding", None)
        if native is None or binding is None:
            return functools.partial(self._session.run_with_iobinding, self._binding)
        return functools.partial(native, binding, None)

    def tensors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """See base.Session."""
        return self._inputs, tuple(_tensor(argument) for argument in self._session.get_outputs())

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Session. The first inference allocates the outputs, all later ones write into the same memory."""
        make = self._module.OrtValue.ortvalue_from_numpy
        self._bound = [make(array) for array in inputs]
        for tensor, value in zip(self._inputs, self._bound, strict=True):
            self._binding.bind_ortvalue_input(tensor.name, value)
        self._binding.clear_binding_outputs()
        for name in self._names:
            self._binding.bind_output(name)

    def outputs(self) -> list[NDArray[Any]]:
        """See base.Session."""
        return [np.array(value.numpy()) for value in self._binding.get_outputs()]

    def facts(self, *, deep: bool) -> dict[str, Any]:
        """See base.Session. `deep` has the engine write out the graph it really runs, and reads that."""
        settings = self._session.get_session_options()
        facts: dict[str, Any] = {
            "threads": int(settings.intra_op_num_threads),
            "providers": list(self._session.get_providers()),
            "spinning": "within a run only" if self._options.threads > 1 else "no pool",
            "arena_bytes": None,
            "arena_bytes_reason": "ONNX Runtime's Python interface does not tell its arena's size",
        }
        if not deep:
            reason = "read back in probe runs only"
            return facts | {"precision": None, "precision_reason": reason}
        try:
            facts |= precision_facts(self._optimized_precisions(), "operators of the optimized graph that runs")
        except Exception as error:  # noqa: BLE001 - the engine's own classes have no common base; the reason is kept
            facts |= {"precision": None, "precision_reason": f"the optimized graph cannot be read: {error}"}
        return facts

    def _optimized_precisions(self) -> Any:
        size = Path(self._path).stat().st_size
        if size > _LARGEST_COPY:
            raise ValueError(f"the artifact has {size} bytes, too many to copy")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "optimized.onnx"
            settings = _settings(self._module, self._options)
            settings.optimized_model_filepath = str(copy)
            settings.log_severity_level = 3  # it warns that the copy fits this machine only, which is the point
            self._module.InferenceSession(self._path, settings, providers=_providers(self._options))
            return compute_precisions(copy.read_bytes())


class OnnxProfiler:
    """A session of its own with profiling on; its trace is read when it ends."""

    method = METHOD

    def __init__(self, module: Any, path: str, options: LoadOptions) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = path
        settings = _settings(module, options)
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(self._folder.name) / "trace")
        self._optimized: Path | None = None
        self.notes: tuple[str, ...] = ()
        if Path(path).stat().st_size <= _LARGEST_COPY:
            self._optimized = Path(self._folder.name) / "optimized.onnx"
            settings.optimized_model_filepath = str(self._optimized)
            settings.log_severity_level = 3  # it warns that the copy fits this machine only, which is the point
        else:
            self.notes = ("the artifact is too large to copy, so layers are not told by their tensors",)
        self._native = module.InferenceSession(path, settings, providers=_providers(options))
        self._session = OnnxSession(module, self._native, path, options)
        self._counting = False
        self._number = 0
        self._counted: list[int] = []

    def bind(self, inputs: Sequence[NDArray[Any]]) -> None:
        """See base.Profiler."""
        self._session.bind(inputs)

    def invoke(self) -> None:
        """See base.Profiler."""
        self._session.invoke()
        if self._counting:
            self._counted.append(self._number)
        self._number += 1

    def start(self) -> None:
        """See base.Profiler."""
        self._counting = True

    def collect(self) -> None:
        """See base.Profiler: the trace is written at the end."""

    def stop(self) -> None:
        """See base.Profiler."""
        self._counting = False

    def operators(self) -> list[Operator]:
        """See base.Profiler."""
        trace = Path(self._native.end_profiling())
        nodes = graph_nodes(self._optimized.read_bytes()) if self._optimized is not None else []
        found = operators_of(read_trace(trace.read_text(encoding="utf-8")), self._counted, nodes)
        self._folder.cleanup()
        return found

    def graph(self) -> dict[str, Any]:
        """See base.Profiler."""
        nodes = graph_nodes(Path(self._path).read_bytes())
        operators = dict(sorted(Counter(node.op for node in nodes).items()))
        return {"nodes": len(nodes), "operators": operators, "providers": list(self._native.get_providers())}


def _providers(options: LoadOptions) -> list[str]:
    return [str(name) for name in options.extra.get("providers", (_CPU,))]


def _settings(module: Any, options: LoadOptions) -> Any:
    settings = module.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = module.ExecutionMode.ORT_SEQUENTIAL
    level = _LEVELS[str(options.extra.get("graph_optimization", "all"))]
    settings.graph_optimization_level = getattr(module.GraphOptimizationLevel, level)
    settings.log_severity_level = 2
    if options.threads > 1:
        # Workers may spin inside a run, as in deployment, but must not burn the CPU under the next variant's block.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "1")
        settings.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in dict(options.extra.get("session_config", {})).items():
        settings.add_session_config_entry(str(key), str(value))
    return settings


class OnnxRuntime:
    """The imported package."""

    name = "onnxruntime"

    def __init__(self, module: Any) -> None:
        self._module = module
        self.version = str(module.__version__)

    def load(self, path: str, options: LoadOptions) -> OnnxSession:
        """See base.Engine."""
        self._check(options)
        providers = _providers(options)
        session = self._module.InferenceSession(path, _settings(self._module, options), providers=providers)
        if session.get_providers()[0] != providers[0]:
            raise AgentError("load", f"asked for {providers[0]}, ONNX Runtime runs on {session.get_providers()[0]}")
        return OnnxSession(self._module, session, path, options)

    def profiler(self, path: str, options: LoadOptions) -> OnnxProfiler:
        """See base.Profiler."""
        self._check(options)
        return OnnxProfiler(self._module, path, options)

    def _check(self, options: LoadOptions) -> None:
        """Raise AgentError when an execution provider asked for is not in this build."""
        missing = [name for name in _providers(options) if name not in self._module.get_available_providers()]
        if missing:
            raise AgentError(
                "load", f"this ONNX Runtime has no {', '.join(missing)}", remedy="install a build that has it"
            )


def create() -> OnnxRuntime:
    """Import ONNX Runtime and switch its telemetry off. Raises ImportError."""
    module = importlib.import_module("onnxruntime")  # absolute: not this module, which has the same name
    module.disable_telemetry_events()
    return OnnxRuntime(module)
