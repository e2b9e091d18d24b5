"""CPUs that qemu-user plays, as `/proc/cpuinfo` of a machine with them shows them (the host's own would mislead engines).

The numbers are Arm's part numbers (Technical Reference Manuals, MIDR_EL1) and the kernel's names of features.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Cpu:
    """`name` as QEMU calls it, `part` as the kernel shows it, `features` in the kernel's words."""

    name: str
    part: int
    features: str


_V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_V82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_V7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
CPUS = {
    "aarch64": (Cpu("cortex-a72", 0xD08, _V8), Cpu("cortex-a53", 0xD03, _V8), Cpu("cortex-a76", 0xD0B, _V82)),
    "armv7l": (Cpu("cortex-a15", 0xC0F, _V7), Cpu("cortex-a7", 0xC07, _V7)),
}


def cpu_of(machine: str, name: str | None) -> Cpu:
    """A CPU by name; without one, the first of that machine. Raises DeviceError."""
    for cpu in CPUS[machine]:
        if name in (None, cpu.name):
            return cpu
    known = ", ".join(cpu.name for cpu in CPUS[machine])
    raise DeviceError(f"qemu-user plays no {name} here", remedy=f"'cpu' of the emulator is one of {known}")


def cpuinfo_text(machine: str, cpu: Cpu, cpus: int) -> str:
    """The file's text for that many CPUs."""
    architecture, head = ("8", "") if machine == "aarch64" else ("7", "model name\t: ARMv7 Processor rev 4 (v7l)\n")
    blocks = [
        f"processor\t: {number}\n{head}BogoMIPS\t: 125.00\nFeatures\t: {cpu.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: {architecture}\nCPU variant\t: 0x0\nCPU part\t: 0x{cpu.part:03x}\nCPU revision\t: 4\n"
        for number in range(cpus)
    ]
    return "\n".join(blocks) + "\n"
