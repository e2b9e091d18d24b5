"""What a device is: pure parsers of texts read there. A fact that cannot be read is left out or None, never guessed.

`facts_of` reads the answer of `on_device.py` (devices with a Python), `summary.describe` what `look.sh` printed (any device
with a shell); together they are DeviceRecord.facts. One module per kind of fact; a device's quirk is one golden case in
tests/golden/facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.devices.facts.engines import ENGINE_MODULES, EXTRA_OF_ENGINE, PACKAGE_OF_ENGINE, engines_of
from harness.devices.facts.identity import host_id, parse_cpu_model, parse_os_name
from harness.devices.facts.memory import parse_memory_available_bytes, parse_memory_total_bytes

__all__ = [
    "ENGINE_MODULES",
    "EXTRA_OF_ENGINE",
    "PACKAGE_OF_ENGINE",
    "engines_of",
    "facts_of",
    "host_id",
    "parse_cpu_model",
    "parse_memory_available_bytes",
    "parse_memory_total_bytes",
    "parse_os_name",
]


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
