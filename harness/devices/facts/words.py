"""Facts in words: a cluster, a list of CPUs, a battery; for records, tables and messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_RECORDED = (
    "model", "soc", "virtual", "os", "android", "kernel", "machine", "cpu", "cpus", "physical_cores", "governor", "turbo",
    "memory_total_bytes", "memory_available_bytes", "battery", "temperature_c", "temperature_sensor", "throttled",
    "power_mode", "jetson_linux",
)  # fmt: skip


def cpu_list(cpus: Sequence[int]) -> str:
    """`0-3,6`, as the kernel writes lists of CPUs."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def cluster_words(cluster: Mapping[str, Any], cpu: str | None = None) -> str:
    """`4 × Cortex-A55 up to 1.8 GHz`. `cpu`: the processor's name, for cores without one of their own."""
    words = f"{len(cluster['cpus'])} × {cluster.get('core') or cpu or 'CPU'}"
    return words + (f" up to {cluster['max_khz'] / 1e6:.3g} GHz" if "max_khz" in cluster else "")


def battery_words(battery: Mapping[str, Any]) -> str:
    """`75 % charging, 28.1 °C`."""
    words = " ".join(
        str(part)
        for part in (
            f"{battery['level_percent']} %" if "level_percent" in battery else None,
            battery.get("status"),
        )
        if part is not None
    )
    if battery.get("updates_stopped"):
        words += " (set by hand)"
    return words or "present"


def recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs into a session's record of a device, of all that `describe` found; clusters in words."""
    kept = {key: facts[key] for key in _RECORDED if key in facts}
    if "clusters" in facts:
        kept["clusters"] = {
            f"CPU {cpu_list(entry['cpus'])}": cluster_words(entry, facts.get("cpu")) for entry in facts["clusters"]
        }
    return kept
