"""What a device needs to be measured, checked one by one on what was read there: found, and what to do. Pure.

`harness.devices.doctor_visit` connects, reads and adds the checks that need something run on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.devices.facts.words import battery_words, cluster_words, cpu_list
from harness.devices.look import Look
from harness.profiles import DeviceProfile

Status = Literal["ok", "warning", "failed", "skipped"]
Facts = Mapping[str, Any]

MIB = 1 << 20
# Free space that a session needs: the unpacked bundle, or only models and data.
BUNDLE_SPACE_BYTES, OWN_SPACE_BYTES = 400 * MIB, 100 * MIB
LEAST_MEMORY_BYTES, LOW_MEMORY_BYTES = 64 * MIB, 256 * MIB
# A clock that is further off than that puts runs of several devices out of order, and breaks certificates.
CLOCK_S, CLOCK_BROKEN_S = 60, 365 * 24 * 3600
BUSY_LOAD_PER_CPU, BUSY_PRESSURE_PERCENT = 0.5, 10.0
LOW_BATTERY_PERCENT = 20
HOT_C = 70.0

_SENSORS = {"temperature", "frequency", "throttling", "power meters"}


@dataclass(frozen=True, slots=True)
class Check:
    """One need. `found`: what was found, in words; `remedy`: what to do where it is not ok."""

    name: str
    status: Status
    found: str
    remedy: str | None = None


def check_look(profile: DeviceProfile, look: Look) -> list[Check]:
    """Every check that needs no more than what `look.sh` printed (full)."""
    facts = look.facts()
    checks: list[Callable[[], Check | None]] = [
        lambda: architecture(profile, facts),
        lambda: processors(profile, facts),
        lambda: space(profile, facts),
        lambda: memory(facts),
        lambda: clock(facts, look.started_ns, look.ended_ns),
        lambda: temperature(profile, facts, look),
        lambda: frequency(facts, look),
        lambda: governor(profile, facts),
        lambda: throttling(facts),
        lambda: power(profile, facts),
        lambda: charging(facts),
        lambda: load(facts),
    ]
    found = [check for make in checks if (check := make()) is not None]
    return [_of_emulator(check) for check in found] if profile.emulated else found


def _of_emulator(check: Check) -> Check:
    """An emulator has no sensors: nothing to warn of, and nothing to be done."""
    if check.name in _SENSORS and check.status == "warning":
        return replace(check, status="skipped", remedy=None)
    return check


def architecture(profile: DeviceProfile, facts: Facts) -> Check:
    """What the kernel says the machine is, against the profile."""
    machine = str(facts.get("machine", ""))
    if not machine:
        return Check("architecture", "failed", "`uname -m` says nothing", "give 'arch' in the device profile")
    words = " · ".join(str(facts[key]) for key in ("model", "soc", "os") if key in facts)
    virtual = f" (virtual: {facts['virtual']})" if "virtual" in facts else ""
    same = {"armv8l": "armv7l", "arm64": "aarch64", "amd64": "x86_64"}
    if profile.arch is not None and profile.arch != same.get(machine, machine):
        return Check(
            "architecture",
            "failed",
            f"the profile says {profile.arch}, the device {machine}",
            f"set arch: {same.get(machine, machine)}, or leave it out",
        )
    if same.get(machine, machine) not in {"aarch64", "armv7l", "x86_64"}:
        return Check(
            "architecture",
            "warning",
            f"{machine}: {words}",
            "there is no runtime bundle for it: it needs its own Python with an engine (runtime: own)",
        )
    return Check("architecture", "ok", f"{machine}{virtual}" + (f": {words}" if words else ""))


def processors(profile: DeviceProfile, facts: Facts) -> Check:
    """The CPUs that the profile speaks of are there and switched on."""
    clusters = facts.get("clusters", [])
    there = {cpu for entry in clusters for cpu in entry["cpus"]}
    off = {cpu for entry in clusters for cpu in entry.get("offline", ())}
    named = {cpu for cluster in profile.clusters for cpu in cluster.cpus} | set(profile.pinned_to or ())
    words = (
        "; ".join(f"CPU {cpu_list(entry['cpus'])}: {cluster_words(entry, facts.get('cpu'))}" for entry in clusters)
        or "not told"
    )
    if there and named - there:
        return Check(
            "processors",
            "failed",
            f"the profile speaks of CPU {cpu_list(sorted(named - there))}, the device has {cpu_list(sorted(there))}",
            "put 'clusters' and 'affinity' of the device profile right",
        )
    if off & named:
        return Check(
            "processors",
            "warning",
            f"CPU {cpu_list(sorted(off & named))} is switched off; {words}",
            "wake the device, close power saving; some phones switch cores off when hot or idle",
        )
    return Check("processors", "ok", words)


def space(profile: DeviceProfile, facts: Facts) -> Check:
    """Room for the runtime, models and data."""
    free = facts.get("free_bytes")
    if free is None:
        return Check("free space", "warning", "`df` says nothing of the work folder", "check it by hand")
    bundle = profile.runtime == "bundle" or (profile.runtime == "auto" and profile.transport == "adb")
    needed = BUNDLE_SPACE_BYTES if bundle else OWN_SPACE_BYTES
    found = f"{_size(free)} free in the work folder"
    if free < needed:
        return Check(
            "free space",
            "failed",
            f"{found}, {_size(needed)} needed",
            "`harness devices clean` removes what earlier sessions left; or give another 'work_folder'",
        )
    if free < 2 * needed:
        return Check(
            "free space", "warning", found, "large models may not fit: `harness devices clean`, or 'work_folder'"
        )
    return Check("free space", "ok", found)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"  # noqa: PLR2004 - 1 GB


def memory(facts: Facts) -> Check:
    """Memory to be had without swapping."""
    available, total = facts.get("memory_available_bytes"), facts.get("memory_total_bytes", 0)
    if available is None:
        return Check("memory", "warning", "/proc/meminfo cannot be read", "check by hand that some memory is free")
    found = f"{_size(available)} of {_size(total)} available"
    if available < LOW_MEMORY_BYTES:
        status: Status = "failed" if available < LEAST_MEMORY_BYTES else "warning"
        return Check("memory", status, found, "close what runs there; engines need some 100 MB besides the model")
    return Check("memory", "ok", found)


def clock(facts: Facts, started_ns: int, ended_ns: int) -> Check:
    """The device's clock against the host's, which stood between `started_ns` and `ended_ns` when it was read."""
    told = facts.get("clock_s")
    if told is None:
        return Check("clock", "warning", "the device does not tell the time", "see `date` there")
    early, late = started_ns / 1e9 - 1 - told, told - ended_ns / 1e9
    off_s = max(early, late, 0.0)
    if off_s < CLOCK_S:
        return Check("clock", "ok", "agrees with this host's")
    days = off_s / 86400
    words = f"{days:.0f} days" if days > 2 else f"{off_s:.0f} s"  # noqa: PLR2004 - two days
    return Check(
        "clock",
        "failed" if off_s > CLOCK_BROKEN_S else "warning",
        f"{words} {'behind' if early > late else 'ahead of'} this host's",
        "set it: `sudo timedatectl set-ntp true`, on Android 'set time automatically'; runs are timed with the monotonic"
        " clock, but uploads and records carry the wrong date",
    )


def temperature(profile: DeviceProfile, facts: Facts, look: Look) -> Check:
    """A temperature that says how hot the chip is."""
    if "temperature_c" not in facts:
        reason = look.why_not("/sys/class/thermal/*")
        return Check(
            "temperature",
            "warning",
            f"no sensor can be read ({reason})",
            "runs cannot wait for the device to cool, nor be marked as hot: leave pauses between sessions",
        )
    found = f"{facts['temperature_c']:g} °C ({facts['temperature_sensor']}, {len(facts['temperatures'])} sensors)"
    if facts.get("thermal_status_overridden"):
        return Check(
            "temperature", "warning", f"{found}; the thermal status is set by hand", "`cmd thermalservice reset`"
        )
    limit = profile.thermal.start_below_c or HOT_C
    if facts["temperature_c"] >= limit:
        return Check("temperature", "warning", f"{found}, {limit:g} °C or more", "let it cool before measuring")
    return Check("temperature", "ok", found)


def frequency(facts: Facts, look: Look) -> Check:
    """The CPU's frequency can be read, and is not capped below what the CPU can do."""
    known = [entry for entry in facts.get("clusters", []) if "khz" in entry]
    if not known:
        reason = look.why_not("/sys/devices/system/cpu/cpufreq/*")
        return Check(
            "frequency",
            "warning",
            f"cannot be read ({reason})",
            "a slow run cannot be told from a throttled one; nothing to be done on virtual machines",
        )
    found = "; ".join(f"CPU {cpu_list(entry['cpus'])} at {entry['khz'] / 1e6:.2f} GHz" for entry in known)
    capped = [e for e in known if e.get("limit_khz", 0) and e["limit_khz"] < e.get("max_khz", 0)]
    if capped:
        words = ", ".join(f"CPU {cpu_list(e['cpus'])} to {e['limit_khz'] / 1e6:.2f} GHz" for e in capped)
        return Check(
            "frequency", "warning", f"limited: {words}", "power saving, a power mode or heat limits it: end that"
        )
    return Check("frequency", "ok", found)


def governor(profile: DeviceProfile, facts: Facts) -> Check | None:
    """Who decides about the frequency."""
    name = facts.get("governor")
    if name is None:
        return None
    pstate = any(str(entry.get("driver", "")).startswith(("intel_pstate", "amd-pstate")) for entry in facts["clusters"])
    slow = {"conservative"} if pstate else {"conservative", "powersave"}
    if slow & set(str(name).split("/")):
        return Check(
            "governor",
            "warning",
            f"{name} keeps the CPU slow",
            "`echo schedutil | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor`, or may_change: [governor]",
        )
    fixed = "" if name == "performance" else ": the frequency follows the load"
    note = (
        "" if fixed == "" or "governor" in profile.may_change else " (may_change: [governor] fixes it while measuring)"
    )
    return Check("governor", "ok", f"{name}{fixed}{note}")


def throttling(facts: Facts) -> Check:
    """What the device itself says of being held back."""
    told = facts.get("throttled")
    if told is not None:
        if told["now"]:
            under = "under-voltage" in told["now"]
            return Check(
                "throttling",
                "warning",
                f"now: {', '.join(told['now'])} ({told['raw']})",
                "use the board maker's power supply and a short cable" if under else "cool it: a heat sink or a fan",
            )
        if told["since_boot"]:
            return Check(
                "throttling",
                "warning",
                f"not now, but since boot: {', '.join(told['since_boot'])} ({told['raw']})",
                "a better power supply or cooling, then reboot so that new events show",
            )
        return Check("throttling", "ok", "none since boot")
    if "cooling" in facts:
        return Check("throttling", "warning", f"held back by {', '.join(facts['cooling'])}", "let it cool")
    status = facts.get("thermal_status")
    if status is not None:
        calm = status == "none"
        return Check(
            "throttling",
            "ok" if calm else "warning",
            f"Android's thermal status: {status}",
            None if calm else "let it cool: screen off, out of its case, off the charger",
        )
    reason = facts.get("unreadable", {}).get("throttling")
    if reason is not None:
        return Check("throttling", "warning", f"vcgencmd: {reason}", "add the user to the group video")
    if "temperature_c" in facts:
        return Check("throttling", "ok", "no cooling device is holding the CPU back")
    return Check(
        "throttling", "warning", "the device says nothing of it", "watch the table's contention and drift columns"
    )


def power(profile: DeviceProfile, facts: Facts) -> Check:
    """Something from which energy might be read."""
    meters = list(facts.get("meters", ()))
    if "charge_uah" in facts.get("battery", {}):
        meters.append("charge counter of the battery")
    hidden = facts.get("unreadable", {})
    if meters:
        return Check("power meters", "ok", f"{', '.join(meters)}; judged when energy is measured")
    if "rapl" in hidden:
        remedy = "`sudo chmod a+r /sys/class/powercap/*/energy_uj`, or measure as root"
        return Check("power meters", "warning", f"RAPL: {hidden['rapl']}", remedy)
    if "battery gauge" in hidden:
        return Check(
            "power meters", "warning", f"battery gauge: {hidden['battery gauge']}", "energy needs an external meter"
        )
    if profile.power.source == "none":
        return Check("power meters", "skipped", "the profile says that there is none")
    return Check("power meters", "warning", "none", "no energy figures from this device without an external meter")


def charging(facts: Facts) -> Check | None:
    """The battery's state; None for devices without one."""
    battery = facts.get("battery")
    if battery is None:
        return None
    words = battery_words(battery)
    if battery.get("updates_stopped"):
        return Check("battery", "warning", words, "values were set by hand: `adb shell dumpsys battery reset`")
    plugged = ", ".join(battery.get("plugged", ()))
    if plugged or battery.get("status") == "charging":
        return Check(
            "battery",
            "warning",
            f"{words}, plugged: {plugged or 'unknown'}",
            "charging heats and falsifies energy: unplug it and use Wi-Fi, or a hub that can switch power off",
        )
    if battery.get("level_percent", 100) < LOW_BATTERY_PERCENT:
        return Check("battery", "warning", words, "charge it first: devices slow down when the battery is low")
    return Check("battery", "ok", f"{words}, not plugged")


def load(facts: Facts) -> Check:
    """Who else is at work there."""
    average, cpus = facts.get("load_average"), facts.get("cpus", 1)
    pressure = facts.get("cpu_pressure_percent")
    if average is None:
        return Check("background load", "warning", "/proc/loadavg cannot be read", "close what runs there")
    found = f"load {average[0]:.2f} on {cpus} CPUs"
    if pressure is not None:
        found += f", {pressure:.0f} % of the time waited for a CPU"
    if average[0] / cpus > BUSY_LOAD_PER_CPU or (pressure or 0.0) > BUSY_PRESSURE_PERCENT:
        return Check("background load", "warning", found, "end what runs there: it will disturb every figure")
    return Check("background load", "ok", found)
