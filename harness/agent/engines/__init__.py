"""One module per engine, behind the contract in `base.py`; `open_engine` imports the one that a job names."""

from __future__ import annotations

import importlib

from ..channel import AgentError
from .base import Engine

# engine name -> module here, and the extra of the distribution that installs the engine's package
_MODULES: dict[str, tuple[str, str | None]] = {
    "litert": ("litert", "litert"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
    "fault": ("faults", None),
}


def open_engine(name: str) -> Engine:
    """Import an engine. Raises AgentError: kind "job" for an unknown name, "engine_missing" with the remedy."""
    if name not in _MODULES:
        raise AgentError("job", f"unknown engine {name!r}; there are {', '.join(_MODULES)}")
    module_name, extra = _MODULES[name]
    module = importlib.import_module(f".{module_name}", __package__)
    try:
        engine: Engine = module.create()
    except (ImportError, AttributeError, OSError) as error:  # also a package that is there but does not load
        remedy = f"pip install 'ondevice-harness[{extra}]' on the device"
        raise AgentError.wrap("engine_missing", error, remedy) from error
    return engine
