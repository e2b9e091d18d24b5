"""Engines on a device: which Python modules provide them, how to install them, which are there. Pure."""

from __future__ import annotations

from collections.abc import Mapping

# Engine → modules that provide it, the preferred first (as in the agent), and the extra that installs it.
ENGINE_MODULES: dict[str, tuple[str, ...]] = {
    "litert": ("ai_edge_litert", "tflite_runtime"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
EXTRA_OF_ENGINE = {"litert": "litert", "onnxruntime": "onnx", "openvino": "openvino"}
PACKAGE_OF_ENGINE = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def engines_of(modules: Mapping[str, str | None]) -> dict[str, str]:
    """Engines installed on the device, with their versions ("" where the version is not told)."""
    found = {}
    for engine, names in ENGINE_MODULES.items():
        versions = [modules[name] for name in names if modules.get(name) is not None]
        if versions:
            found[engine] = versions[0] or ""
    return found
