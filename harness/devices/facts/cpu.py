"""CPUs: cores by name, clusters, frequencies and governors, from /proc/cpuinfo and sysfs. Pure; frequencies in kHz."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.devices.facts.cores import core_name, core_of_midr

Texts = Mapping[str, str]
_CPU = "/sys/devices/system/cpu/"

_OF_ALL: tuple[str, ...] = ("CPU implementer", "CPU part", "model name")


@dataclass(frozen=True, slots=True)
class Policy:
    """CPUs whose frequency is set together, as cpufreq has it."""

    cpus: tuple[int, ...]
    min_khz: int | None = None
    max_khz: int | None = None
    current_khz: int | None = None
    limit_min_khz: int | None = None
    limit_max_khz: int | None = None
    governor: str | None = None
    driver: str | None = None


def parse_cpu_list(text: str) -> list[int]:
    """`0-3,6` or `0 1 2 3` → CPU numbers; nothing for what is neither."""
    cpus: list[int] = []
    for word in re.split(r"[,\s]+", text.strip()):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if found is not None:
            cpus.extend(range(int(found[1]), int(found[2] or found[1]) + 1))
    return cpus


def parse_cpuinfo(cpuinfo: str) -> dict[int, dict[str, str]]:
    """The fields of each processor. Old ARM kernels give `CPU part` once for all: then each has it."""
    cpus: dict[int, dict[str, str]] = {}
    common: dict[str, str] = {}
    current: dict[str, str] = common
    for line in cpuinfo.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not key:
            current = common
        elif colon and key == "processor" and value.isdigit():
            current = cpus.setdefault(int(value), {})
        elif colon:
            current.setdefault(key, value)
    whole: dict[str, str] = {key: common[key] for key in _OF_ALL if key in common}
    # Before 3.8, and in some vendors' kernels, the parts stand after the last processor without an empty line between.
    last = cpus.get(max(cpus, default=0), {})
    if len(cpus) > 1 and "CPU part" in last and not any("CPU part" in f for n, f in cpus.items() if n != max(cpus)):
        whole |= {key: last[key] for key in ("CPU implementer", "CPU part") if key in last}
    return {number: {**whole, **fields} for number, fields in cpus.items()}


def parse_lscpu_models(lscpu: str) -> list[str]:
    """Names of the kinds of cores, in lscpu's order."""
    return re.findall(r"^\s*Model name:\s*(.+?)\s*$", lscpu, flags=re.MULTILINE)


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isdigit() else None


def policies_of(texts: Texts) -> list[Policy]:
    """Frequency policies by their first CPU; from policy folders, or from those under each CPU of kernels before 4.3."""
    folders = {}
    for name in texts:
        found = re.match(rf"({_CPU}(?:cpufreq/policy|cpu)(\d+)(?:/cpufreq)?)/(?:scaling|cpuinfo)_", name)
        if found is not None:
            folders[found[1]] = int(found[2])
    policies: dict[tuple[int, ...], Policy] = {}
    for folder, number in sorted(folders.items(), key=lambda item: item[1]):

        def node(name: str, folder: str = folder) -> str | None:
            return texts.get(f"{folder}/{name}")

        cpus = tuple(parse_cpu_list(node("related_cpus") or "")) or (number,)
        policies.setdefault(
            cpus,
            Policy(
                cpus=cpus,
                min_khz=_number(node("cpuinfo_min_freq")),
                max_khz=_number(node("cpuinfo_max_freq")),
                current_khz=_number(node("scaling_cur_freq")),
                limit_min_khz=_number(node("scaling_min_freq")),
                limit_max_khz=_number(node("scaling_max_freq")),
                governor=(node("scaling_governor") or "").strip() or None,
                driver=(node("scaling_driver") or "").strip() or None,
            ),
        )
    return list(policies.values())


def _core_of(texts: Texts, number: int, fields: Mapping[str, str]) -> str | None:
    """The name of one CPU's core."""
    midr = texts.get(f"{_CPU}cpu{number}/regs/identification/midr_el1", "").strip()
    if re.fullmatch(r"0x[0-9a-fA-F]+", midr):
        return core_of_midr(int(midr, 16))
    part, implementer = fields.get("CPU part", ""), fields.get("CPU implementer", "0x41")
    if re.fullmatch(r"0x[0-9a-fA-F]+", part):
        return core_name(int(implementer, 16), int(part, 16))
    return None


def _numbers_of(texts: Texts, cpuinfo: Mapping[int, Any]) -> list[int]:
    """All CPUs that are there; those switched off are not in cpuinfo."""
    for name in ("present", "possible"):
        listed = parse_cpu_list(texts.get(_CPU + name, ""))
        if listed:
            return listed
    return sorted(cpuinfo)


def clusters_of(texts: Texts) -> list[dict[str, Any]]:
    """CPUs by kind, slowest first: `core`, `cpus`, and where known `max_khz`, `min_khz`, `capacity`, `governor`, `khz`.

    CPUs are of one kind when core, highest frequency and capacity are equal. On x86 the highest frequency differs
    between equal cores (favoured ones turbo higher): there only P- and E-cores are told apart.
    """
    cpuinfo = parse_cpuinfo(texts.get("/proc/cpuinfo", ""))
    policy_of = {cpu: policy for policy in policies_of(texts) for cpu in policy.cpus}
    x86 = any("flags" in fields for fields in cpuinfo.values())
    efficient = set(parse_cpu_list(texts.get("/sys/devices/cpu_atom/cpus", "")))
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for number in _numbers_of(texts, cpuinfo):
        policy = policy_of.get(number)
        if x86:
            key: tuple[Any, ...] = ("E-core" if number in efficient else "P-core" if efficient else None, None, None)
        else:
            capacity = _number(texts.get(f"{_CPU}cpu{number}/cpu_capacity"))
            core = _core_of(texts, number, cpuinfo.get(number, {}))
            key = (core, None if policy is None else policy.max_khz, capacity)
        kinds.setdefault(key, []).append(number)
    _adopt_unknown(kinds)
    clusters = [_cluster(key, cpus, policy_of, texts) for key, cpus in kinds.items()]
    return sorted(clusters, key=lambda c: (c.get("capacity", 0), c.get("max_khz", 0), -c["cpus"][0]))


def _adopt_unknown(kinds: dict[tuple[Any, ...], list[int]]) -> None:
    """CPUs that are switched off tell no part; they belong to those of equal frequency and capacity, if any do."""
    for key in [key for key in kinds if key[0] is None]:
        same = [other for other in kinds if other[0] is not None and other[1:] == key[1:]]
        if len(same) == 1 and key[1:] != (None, None):
            kinds[same[0]] = sorted(kinds[same[0]] + kinds.pop(key))


def _cluster(key: tuple[Any, ...], cpus: list[int], policy_of: Mapping[int, Policy], texts: Texts) -> dict[str, Any]:
    policies = [policy_of[cpu] for cpu in cpus if cpu in policy_of]
    governors = sorted({policy.governor for policy in policies if policy.governor})

    def largest(values: list[int | None]) -> int | None:
        return max((value for value in values if value is not None), default=None)

    facts = {
        "core": key[0],
        "cpus": cpus,
        "capacity": key[2],
        "min_khz": min((p.min_khz for p in policies if p.min_khz is not None), default=None),
        "max_khz": largest([policy.max_khz for policy in policies]),
        "limit_khz": largest([policy.limit_max_khz for policy in policies]),
        "khz": largest([policy.current_khz for policy in policies]),
        "governor": "/".join(governors) or None,
        "driver": next((policy.driver for policy in policies if policy.driver), None),
    }
    offline = sorted(set(cpus) - set(parse_cpu_list(texts.get(_CPU + "online", ""))))
    if offline and texts.get(_CPU + "online"):
        facts["offline"] = offline
    return {name: value for name, value in facts.items() if value is not None}


def physical_cores_of(texts: Texts) -> int | None:
    """Cores without their second threads; None where the topology is not told."""
    groups = {
        tuple(parse_cpu_list(text)) for name, text in texts.items() if name.endswith("/topology/thread_siblings_list")
    }
    return len(groups) or None


def turbo_of(texts: Texts) -> bool | None:
    """Whether an x86 may exceed its nominal frequency; None where it is not told."""
    no_turbo = texts.get(_CPU + "intel_pstate/no_turbo", "").strip()
    if no_turbo in {"0", "1"}:
        return no_turbo == "0"
    boost = texts.get(_CPU + "cpufreq/boost", "").strip()
    return boost == "1" if boost in {"0", "1"} else None
