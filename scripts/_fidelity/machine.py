"""What machine the figures are from, and how busy it was: load average and pressure before and after each goal."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "ai-edge-litert", "onnxruntime", "openvino")


def machine() -> dict[str, Any]:
    """Processor, cores, system, versions."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def busy() -> dict[str, Any]:
    """Load averages over 1, 5 and 15 minutes, and the kernel's pressure lines for the CPU (None where it keeps none)."""
    pressure = Path("/proc/pressure/cpu")
    return {"load": os.getloadavg(), "psi_cpu": pressure.read_text().splitlines() if pressure.exists() else None}
