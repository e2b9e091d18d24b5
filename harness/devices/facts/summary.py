"""Everything that texts read on a device say, as one dictionary of facts: the parsers of this package put together. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.devices.facts import battery, heat
from harness.devices.facts.battery import parse_power_supply
from harness.devices.facts.cpu import clusters_of, parse_lscpu_models, physical_cores_of, turbo_of
from harness.devices.facts.heat import (
    headline,
    parse_cooling,
    parse_hwmon_temperatures,
    parse_pi_throttled,
    parse_thermal_zones,
)
from harness.devices.facts.identity import (
    android_name,
    model_of,
    parse_android,
    parse_cpu_model,
    parse_getprop,
    parse_os_name,
    soc_of,
    virtual_of,
)
from harness.devices.facts.memory import (
    parse_df_free_bytes,
    parse_loadavg,
    parse_memory_available_bytes,
    parse_memory_total_bytes,
    parse_pressure_percent,
)
from harness.devices.facts.meters import meters_of

_PI_NODE = "/sys/devices/platform/soc/soc:firmware/get_throttled"


def describe(texts: Mapping[str, str], reasons: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Facts from texts by name (paths and commands, as `look.sh` calls them). What is not told is left out.

    `reasons`: why a name could not be read; kept under `unreadable` where it hides a temperature, a frequency or a meter.
    """
    props = parse_getprop(texts.get("getprop", ""))
    facts = {
        **_identity(texts, props),
        **_cpus(texts, props),
        "memory_total_bytes": parse_memory_total_bytes(texts.get("/proc/meminfo", "")),
        "memory_available_bytes": parse_memory_available_bytes(texts.get("/proc/meminfo", "")),
        "free_bytes": parse_df_free_bytes(texts.get("df", "")),
        "load_average": parse_loadavg(texts.get("/proc/loadavg", "")),
        "cpu_pressure_percent": parse_pressure_percent(texts.get("/proc/pressure/cpu", "")),
        "battery": _battery(texts),
        **_heat(texts),
        "meters": meters_of(texts) or None,
        "unreadable": _hidden(reasons or {}) or None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _identity(texts: Mapping[str, str], props: Mapping[str, str]) -> dict[str, Any]:
    android = parse_android(props)
    uname = re.match(r"(\S+ \S+) (\S+)", texts.get("uname -s -r -m", ""))
    user = re.match(r"uid=(\d+)(?:\((\w+)\))?", texts.get("id", ""))
    page = texts.get("getconf PAGESIZE", "").strip()
    return {
        "model": model_of(texts, props),
        "soc": soc_of(texts, props),
        "virtual": virtual_of(texts, props),
        "os": parse_os_name(texts.get("/etc/os-release", "")) if android is None else android_name(android),
        "android": android,
        "kernel": None if uname is None else uname[1],
        "machine": None if uname is None else uname[2],
        "user": None if user is None else user[2] or f"uid {user[1]}",
        "page_bytes": int(page) if page.isdigit() else None,
        "clock_s": int(texts["date +%s"]) if texts.get("date +%s", "").strip().isdigit() else None,
        "jetson_linux": _jetson_linux(texts.get("/etc/nv_tegra_release", "")),
        "power_mode": _power_mode(texts.get("nvpmodel -q", "")),
    }


def _jetson_linux(release: str) -> str | None:
    """`# R36 (release), REVISION: 4.3, …` → 36.4.3."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return None if found is None else f"{found[1]}.{found[2]}"


def _power_mode(nvpmodel: str) -> str | None:
    """A Jetson's power mode by name."""
    found = re.search(r"NV Power Mode: *(\S+)", nvpmodel)
    return None if found is None else found[1]


def _cpus(texts: Mapping[str, str], props: Mapping[str, str]) -> dict[str, Any]:
    clusters = clusters_of(texts)
    # ARM kernels name a board or an architecture in cpuinfo; the cores say more. x86 kernels name the processor.
    model = _cores_in_words(clusters) or parse_cpu_model(texts.get("/proc/cpuinfo", ""))
    if model is None or model.startswith("implementer"):
        kinds = [name for name in parse_lscpu_models(texts.get("lscpu", "")) if name != "-"]
        model = " + ".join(kinds) or model
    return {
        "cpu": model,
        "cpus": sum(len(cluster["cpus"]) for cluster in clusters) or None,
        "physical_cores": physical_cores_of(texts),
        "clusters": clusters or None,
        "governor": "/".join(sorted({c["governor"] for c in clusters if "governor" in c})) or None,
        "turbo": turbo_of(texts),
        "abi": props.get("ro.product.cpu.abi"),
    }


def _cores_in_words(clusters: list[dict[str, Any]]) -> str | None:
    """`4 × Cortex-A55 + 4 × Cortex-A76`; None where the cores have no names."""
    counts: dict[str, int] = {}
    for cluster in clusters:
        if "core" in cluster and not cluster["core"].endswith("-core"):
            counts[cluster["core"]] = counts.get(cluster["core"], 0) + len(cluster["cpus"])
    return " + ".join(f"{count} × {core}" for core, count in counts.items()) or None


def _battery(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """Android's service and the kernel's gauge: the service's word counts, the gauge adds what it does not say."""
    service = battery.service_facts(texts.get("dumpsys battery", ""))
    gauge = parse_power_supply(texts)
    if service is None or gauge is None:
        return service or gauge
    return {**{key: value for key, value in gauge.items() if key not in {"health", "status", "plugged"}}, **service}


def _heat(texts: Mapping[str, str]) -> dict[str, Any]:
    service = heat.service_facts(texts.get("dumpsys thermalservice", ""))
    zones = parse_thermal_zones(texts)
    sensors = [*zones, *parse_hwmon_temperatures(texts)]
    hal = [] if service is None else service["sensors"]
    # The HAL knows what its sensors sit on; many are zones of the same name. It adds kinds that the zones do not have.
    told = {sensor["name"]: sensor["kind"] for sensor in hal}
    for sensor in zones:
        sensor["kind"] = told.get(sensor["name"], sensor["kind"])
    kinds = {sensor["kind"] for sensor in zones}
    sensors += [sensor for sensor in hal if sensor["kind"] not in kinds]
    throttled = parse_pi_throttled(texts.get("vcgencmd get_throttled", "")) or parse_pi_throttled(
        texts.get(_PI_NODE, "")
    )
    shown = headline(sensors)
    return {
        "temperatures": sensors or None,
        "temperature_c": None if shown is None else shown["c"],
        "temperature_sensor": None if shown is None else shown["name"],
        "thermal_status": None if service is None else service["status"],
        "thermal_status_overridden": True if service is not None and service["overridden"] else None,
        "throttled": throttled,
        "cooling": parse_cooling(texts) or None,
    }


def _hidden(reasons: Mapping[str, str]) -> dict[str, str]:
    """Reasons worth keeping, one for each kind of thing that is hidden."""
    kinds = {
        "temperature": "/sys/class/thermal/",
        "hwmon": "/sys/class/hwmon/",
        "frequency": "/sys/devices/system/cpu/",
        "battery gauge": "/sys/class/power_supply/",
        "rapl": "/sys/class/powercap/",
        "battery service": "dumpsys battery",
        "thermal service": "dumpsys thermalservice",
        "throttling": "vcgencmd get_throttled",
    }
    found = {}
    for kind, start in kinds.items():
        reason = next((reason for name, reason in reasons.items() if name.startswith(start)), None)
        if reason is not None:
            found[kind] = reason
    return found
