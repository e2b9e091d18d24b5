"""What a device is: pure parsers of what `on_device.py` read there.

A fact that cannot be read is left out or None, never guessed. Facts land in DeviceRecord.facts.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

# Engine → modules that provide it, the preferred first (as in the agent), and the extra that installs it.
ENGINE_MODULES: dict[str, tuple[str, ...]] = {
    "litert": ("ai_edge_litert", "tflite_runtime"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
EXTRA_OF_ENGINE = {"litert": "litert", "onnxruntime": "onnx", "openvino": "openvino"}
PACKAGE_OF_ENGINE = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime", "openvino": "openvino"}


def parse_cpu_model(cpuinfo: str) -> str | None:
    """The processor's name from /proc/cpuinfo; ARM kernels give numbers only: then those."""
    values: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            values.setdefault(key.strip(), value.strip())
    for key in ("model name", "Hardware", "Processor", "cpu model", "uarch"):
        if key in values and not values[key].isdigit():
            return values[key]
    if "CPU part" in values:
        return f"implementer {values.get('CPU implementer', '?')} part {values['CPU part']}"
    return None


def parse_memory_total_bytes(meminfo: str) -> int | None:
    """MemTotal of /proc/meminfo."""
    found = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def parse_os_name(os_release: str) -> str | None:
    """PRETTY_NAME of /etc/os-release."""
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "PRETTY_NAME":
            try:
                return " ".join(shlex.split(value)) or None
            except ValueError:
                return value.strip() or None
    return None


def host_id(texts: Mapping[str, str | None], hostname: str) -> str:
    """Equal for two devices that are the same running machine, also seen from inside its containers; hashed."""
    for name in ("boot_id", "machine_id"):
        text = (texts.get(name) or "").strip()
        if text:
            return f"{name}:{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    return f"hostname:{hostname}"


def engines_of(modules: Mapping[str, str | None]) -> dict[str, str]:
    """Engines installed on the device, with their versions ("" where the version is not told)."""
    found = {}
    for engine, names in ENGINE_MODULES.items():
        versions = [modules[name] for name in names if modules.get(name) is not None]
        if versions:
            found[engine] = versions[0] or ""
    return found


def facts_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for the record, from the answer of `on_device.inspect`; what is unknown is left out."""
    texts = raw["texts"]
    facts: dict[str, Any] = {
        "cpu": parse_cpu_model(texts.get("cpuinfo") or ""),
        "cpus": raw["cpus"],
        "machine": raw["machine"],
        "memory_total_bytes": parse_memory_total_bytes(texts.get("meminfo") or ""),
        "board": (texts.get("board") or "").strip("\0 \n") or None,
        "os": parse_os_name(texts.get("os_release") or ""),
        "kernel": f"{raw['system']} {raw['release']}",
        "hostname": raw["hostname"],
        "python": raw["python"],
        "numpy": raw["modules"].get("numpy"),
        "engines": engines_of(raw["modules"]),
        "work_folder": raw["work"],
        "free_bytes": raw["free_bytes"],
    }
    return {key: value for key, value in facts.items() if value is not None}
