"""Names of CPU cores by implementer and part number, as MIDR_EL1 and /proc/cpuinfo give them. Data, and one function.

The numbers are public: Arm's and the vendors' manuals, and the tables of the Linux kernel and of lscpu.
"""

from __future__ import annotations

ARM, BROADCOM, CAVIUM, FUJITSU, HISILICON = 0x41, 0x42, 0x43, 0x46, 0x48
NVIDIA, QUALCOMM, SAMSUNG, APPLE, MICROSOFT, PHYTIUM, AMPERE = 0x4E, 0x51, 0x53, 0x61, 0x6D, 0x70, 0xC0

_NAMES: dict[int, dict[int, str]] = {
    ARM: {
        0xB36: "ARM1136",
        0xB56: "ARM1156",
        0xB76: "ARM1176",
        0xC05: "Cortex-A5",
        0xC07: "Cortex-A7",
        0xC08: "Cortex-A8",
        0xC09: "Cortex-A9",
        0xC0D: "Cortex-A12",
        0xC0E: "Cortex-A17",
        0xC0F: "Cortex-A15",
        0xD01: "Cortex-A32",
        0xD02: "Cortex-A34",
        0xD03: "Cortex-A53",
        0xD04: "Cortex-A35",
        0xD05: "Cortex-A55",
        0xD06: "Cortex-A65",
        0xD07: "Cortex-A57",
        0xD08: "Cortex-A72",
        0xD09: "Cortex-A73",
        0xD0A: "Cortex-A75",
        0xD0B: "Cortex-A76",
        0xD0C: "Neoverse-N1",
        0xD0D: "Cortex-A77",
        0xD0E: "Cortex-A76AE",
        0xD40: "Neoverse-V1",
        0xD41: "Cortex-A78",
        0xD42: "Cortex-A78AE",
        0xD43: "Cortex-A65AE",
        0xD44: "Cortex-X1",
        0xD46: "Cortex-A510",
        0xD47: "Cortex-A710",
        0xD48: "Cortex-X2",
        0xD49: "Neoverse-N2",
        0xD4A: "Neoverse-E1",
        0xD4B: "Cortex-A78C",
        0xD4C: "Cortex-X1C",
        0xD4D: "Cortex-A715",
        0xD4E: "Cortex-X3",
        0xD4F: "Neoverse-V2",
        0xD80: "Cortex-A520",
        0xD81: "Cortex-A720",
        0xD82: "Cortex-X4",
        0xD83: "Neoverse-V3AE",
        0xD84: "Neoverse-V3",
        0xD85: "Cortex-X925",
        0xD87: "Cortex-A725",
        0xD88: "Cortex-A520AE",
        0xD89: "Cortex-A720AE",
        0xD8E: "Neoverse-N3",
    },
    BROADCOM: {0x00F: "Brahma-B15", 0x100: "Brahma-B53", 0x516: "ThunderX2"},
    CAVIUM: {0x0A0: "ThunderX", 0x0AF: "ThunderX2"},
    FUJITSU: {0x001: "A64FX"},
    HISILICON: {0xD01: "TaiShan-v110", 0xD40: "Cortex-A76"},
    NVIDIA: {0x000: "Denver", 0x003: "Denver 2", 0x004: "Carmel"},
    QUALCOMM: {
        0x001: "Oryon",
        0x00F: "Scorpion",
        0x02D: "Scorpion",
        0x04D: "Krait",
        0x06F: "Krait",
        0x201: "Kryo",
        0x205: "Kryo",
        0x211: "Kryo",
        0x800: "Kryo-2XX-Gold",
        0x801: "Kryo-2XX-Silver",
        0x802: "Kryo-3XX-Gold",
        0x803: "Kryo-3XX-Silver",
        0x804: "Kryo-4XX-Gold",
        0x805: "Kryo-4XX-Silver",
        0xC00: "Falkor",
    },
    SAMSUNG: {0x001: "Exynos-M1", 0x002: "Exynos-M3", 0x003: "Exynos-M4", 0x004: "Exynos-M5"},
    APPLE: {
        0x022: "Icestorm",
        0x023: "Firestorm",
        0x024: "Icestorm",
        0x025: "Firestorm",
        0x032: "Blizzard",
        0x033: "Avalanche",
    },
    MICROSOFT: {0xD49: "Neoverse-N2"},
    PHYTIUM: {0x660: "FTC660", 0x661: "FTC661", 0x662: "FTC662", 0x663: "FTC663"},
    AMPERE: {0xAC3: "Ampere-1", 0xAC4: "Ampere-1A"},
}


def core_name(implementer: int, part: int) -> str:
    """The core's name; of one that is not in the table, the numbers."""
    return _NAMES.get(implementer, {}).get(part, f"implementer 0x{implementer:02x} part 0x{part:03x}")


def core_of_midr(midr: int) -> str:
    """The core's name from the main ID register."""
    return core_name(midr >> 24 & 0xFF, midr >> 4 & 0xFFF)
