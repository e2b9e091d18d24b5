"""What the agent says about where it runs: the environment in `hello`, and the counters that tell of contention.

Keys of the environment: python, numpy, engine_version, machine, kernel, cpu, isa, cpus, pid, affinity, threads, boot_id,
machine_id (hashed), governor, frequency_khz, page_bytes, clocks (what the timing loop itself costs, in ns), and the
contention counters: steal_ns, pressure_us, load_average, voluntary_switches, involuntary_switches, temperature_c.
What cannot be read is None, with the reason under "<key>_reason". Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Instruction set extensions that decide which kernels an engine picks.
_ISA = frozenset(
    {"sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
    | {"amx_tile", "amx_int8", "amx_bf16"}
    | {"neon", "vfpv4", "asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2"}
)


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace").strip()


def _put(target: dict[str, Any], key: str, read: Callable[[], Any]) -> None:
    """Store what `read` returns; when it cannot, store None and the reason."""
    try:
        target[key] = read()
    except (OSError, ValueError, AttributeError, IndexError, StopIteration) as error:
        target[key] = None
        target[key + "_reason"] = str(error) or type(error).__name__


def _cpuinfo(*names: str) -> str:
    """The first value in /proc/cpuinfo under any of `names`. Raises ValueError when there is none."""
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names and value.strip():
            return value.strip()
    raise ValueError(f"/proc/cpuinfo has no {' or '.join(names)}")


def _cpu_model() -> str:
    try:
        return _cpuinfo("model name", "Hardware", "Processor", "cpu model")
    except ValueError:
        # An ARM kernel names the parts by number only; the board's own name says more.
        try:
            return _read("/proc/device-tree/model").rstrip("\0")
        except OSError:
            return f"implementer {_cpuinfo('CPU implementer')} part {_cpuinfo('CPU part')}"


def _isa() -> list[str]:
    return sorted(_ISA.intersection(_cpuinfo("flags", "Features").split()))


def _machine_id() -> str:
    """The machine's id, hashed with a word of our own: equal for the same machine, of no use elsewhere."""
    text = _read("/etc/machine-id")
    if not text:
        raise ValueError("/etc/machine-id is empty")
    return hashlib.sha256(b"ondevice-harness:" + text.encode()).hexdigest()[:32]


def affinity() -> list[int]:
    """The CPUs this process may run on, read back from the kernel."""
    return sorted(os.sched_getaffinity(0))


def set_affinity(cpus: tuple[int, ...]) -> None:
    """Pin the process. Raises OSError or AttributeError where that cannot be done."""
    os.sched_setaffinity(0, cpus)
    if set(cpus) != os.sched_getaffinity(0):
        raise OSError(f"asked for CPUs {sorted(cpus)}, the kernel gave {affinity()}")


def _first_cpu() -> int:
    return affinity()[0] if hasattr(os, "sched_getaffinity") else 0


def _cpufreq(name: str) -> str:
    return _read(f"/sys/devices/system/cpu/cpu{_first_cpu()}/cpufreq/{name}")


def frequency_khz() -> int:
    """Present frequency of the first allowed CPU, in kHz."""
    try:
        return int(_cpufreq("scaling_cur_freq"))
    except OSError:
        return round(float(_cpuinfo("cpu MHz")) * 1000)


def _steal_ns() -> int:
    fields = _read("/proc/stat").splitlines()[0].split()
    return int(fields[8]) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def _pressure_us() -> int:
    line = next(line for line in _read("/proc/pressure/cpu").splitlines() if line.startswith("some"))
    return int(line.rpartition("total=")[2])


def _temperature_c() -> float:
    """The hottest thermal zone, in °C."""
    values = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            values.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):  # a zone may be switched off
            continue
    if not values:
        raise ValueError("no thermal zone can be read")
    return max(values)


def contention() -> dict[str, Any]:
    """Counters that grow when others take the CPU; all since boot or process start. Compare two readings."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    counters: dict[str, Any] = {
        "voluntary_switches": usage.ru_nvcsw,
        "involuntary_switches": usage.ru_nivcsw,
    }
    _put(counters, "steal_ns", _steal_ns)
    _put(counters, "pressure_us", _pressure_us)
    _put(counters, "load_average", lambda: list(os.getloadavg()))
    _put(counters, "frequency_khz", frequency_khz)
    _put(counters, "temperature_c", _temperature_c)
    return counters


def environment(threads: int) -> dict[str, Any]:
    """Everything but the engine's and numpy's versions, which the caller knows only after importing them."""
    uname = os.uname()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": uname.machine,
        "kernel": f"{uname.sysname} {uname.release}",
        "cpus": os.cpu_count(),
        "pid": os.getpid(),
        "threads": threads,
        "page_bytes": resource.getpagesize(),
    }
    _put(facts, "cpu", _cpu_model)
    _put(facts, "isa", _isa)
    _put(facts, "affinity", affinity)
    _put(facts, "boot_id", lambda: _read("/proc/sys/kernel/random/boot_id"))
    _put(facts, "machine_id", _machine_id)
    _put(facts, "governor", lambda: _cpufreq("scaling_governor"))
    facts.update(contention())
    return facts


def environment_after() -> dict[str, Any]:
    """Read again at the end of a run: an engine may have moved the process, others may have taken the CPU."""
    facts = contention()
    _put(facts, "affinity", affinity)
    return facts
