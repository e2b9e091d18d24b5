"""What a device is called: model, system on a chip, processor, operating system; real or virtual. Pure."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

from harness.devices.facts.socs import CHIP_OF_PLATFORM, soc_name

Texts = Mapping[str, str]

_NO_NAME = {"", "none", "to be filled by o.e.m.", "default string", "system product name", "not specified", "unknown"}

# Last entries of device trees that stand for a family, where the chip is the one before.
_FAMILIES = {"arm-platform", "g12a", "g12b", "sm1", "meson-gxl"}


def parse_getprop(text: str) -> dict[str, str]:
    """`[key]: [value]` lines of Android's getprop; a value may go over several lines."""
    pairs = re.findall(r"^\[([^\]\n]+)\]: \[(.*?)\]$", text, flags=re.MULTILINE | re.DOTALL)
    return {key: value for key, value in pairs if value}


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


def parse_android(props: Mapping[str, str]) -> dict[str, Any] | None:
    """Android's version, API level, security patch, build type and ABIs; None where it is no Android."""
    version = props.get("ro.build.version.release")
    if version is None:
        return None
    api = props.get("ro.build.version.sdk", "")
    abis = props.get("ro.product.cpu.abilist") or ",".join(
        filter(None, (props.get("ro.product.cpu.abi"), props.get("ro.product.cpu.abi2")))
    )
    facts = {
        "version": version,
        "api": int(api) if api.isdigit() else None,
        # Told since Android 6.
        "security_patch": props.get("ro.build.version.security_patch"),
        "build": props.get("ro.build.display.id") or props.get("ro.build.id"),
        "build_type": props.get("ro.build.type"),
        "abis": abis.split(",") if abis else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def android_name(android: Mapping[str, Any]) -> str:
    """`Android 14 (API 34, security patch 2024-05-05)`."""
    details = []
    if "api" in android:
        details.append(f"API {android['api']}")
    if "security_patch" in android:
        details.append(f"security patch {android['security_patch']}")
    return f"Android {android['version']}" + (f" ({', '.join(details)})" if details else "")


def model_of(texts: Texts, props: Mapping[str, str]) -> str | None:
    """What the device calls itself: Android's properties, the device tree, or the firmware's tables."""
    model = props.get("ro.product.model") or props.get("ro.product.vendor.model")
    if model:
        maker = props.get("ro.product.manufacturer") or props.get("ro.product.brand") or ""
        maker = maker if maker[:1].isupper() else maker.capitalize()
        name = model if not maker or model.lower().startswith(maker.lower()) else f"{maker} {model}"
        market = props.get("ro.product.marketname") or props.get("ro.product.vendor.marketname")
        return f"{market} ({model})" if market and market.lower() != model.lower() else name
    tree = texts.get("/proc/device-tree/model", "").strip("\0 \n")
    if tree:
        return "QEMU virt machine" if tree == "linux,dummy-virt" else tree
    vendor = texts.get("/sys/class/dmi/id/sys_vendor", "").strip()
    product = texts.get("/sys/class/dmi/id/product_name", "").strip()
    version = texts.get("/sys/class/dmi/id/product_version", "").strip()
    # Lenovo calls its machines by number and puts the name into the version.
    if vendor == "LENOVO" and version.lower() not in _NO_NAME:
        return f"Lenovo {version}" if not version.lower().startswith("lenovo") else version
    if product.lower() in _NO_NAME:
        return None
    vendor = re.sub(r",? (Inc|Corp|Ltd|Corporation)\.?$", "", vendor)
    if vendor.lower() in _NO_NAME or product.lower().startswith(vendor.split()[0].lower()):
        return product
    return f"{vendor} {product}"


def soc_of(texts: Texts, props: Mapping[str, str]) -> str | None:
    """The system on a chip; None on machines that have none, as x86 laptops."""
    if props.get("ro.soc.model", "unknown").lower() != "unknown" and props.get("ro.soc.manufacturer") != "AOSP":
        return soc_name(props["ro.soc.model"], props.get("ro.soc.manufacturer"))
    hardware = re.search(r"^Hardware\s*:\s*(.+)$", texts.get("/proc/cpuinfo", ""), flags=re.MULTILINE)
    # A platform may stand for several chips: the number that the kernel gives is the chip's own.
    number = re.search(r"\b((?:MSM|SDM|SM|APQ|MT)\d+\w*)", "" if hardware is None else hardware[1])
    if number is not None:
        return soc_name(number[1].removesuffix("V"))
    for name in ("ro.vendor.mediatek.platform", "ro.mediatek.platform", "ro.hardware.chipname"):
        if props.get(name):
            return soc_name(props[name])
    platform = props.get("ro.board.platform", "")
    if platform in CHIP_OF_PLATFORM:
        return soc_name(CHIP_OF_PLATFORM[platform])
    tree = _soc_of_tree(texts.get("/proc/device-tree/compatible", ""))
    if tree is not None:
        return tree
    chip = texts.get("/sys/devices/soc0/machine", "").strip()
    if re.fullmatch(r"[A-Z]+\d+\w*", chip):
        return soc_name(chip)
    if hardware is not None:
        words = re.sub(r"(?i)qualcomm technologies, inc|qualcomm|hisilicon", "", hardware[1]).strip()
        return soc_name(words) if words and words != "Goldfish" else None
    return None if platform in {"", "goldfish", "ranchu"} else platform


def _soc_of_tree(compatible: str) -> str | None:
    """The last entry of a device tree's `compatible` that names a chip; the board's own comes first."""
    entries = [entry.strip() for entry in re.split(r"[\0\n]", compatible) if "," in entry]
    if not entries or entries[-1] == "linux,dummy-virt":
        return None
    while entries[-1].partition(",")[2] in _FAMILIES and entries[-2:-1] and entries[-2].startswith(entries[-1][:3]):
        entries.pop()
    vendor, _, chip = entries[-1].partition(",")
    return soc_name(chip, vendor)


def virtual_of(texts: Texts, props: Mapping[str, str]) -> str | None:
    """What emulates or virtualises the device, where it says so; None: nothing says so."""
    if props.get("ro.kernel.qemu") == "1" or props.get("ro.boot.qemu") == "1":
        return "Android emulator"
    vendor = texts.get("/sys/class/dmi/id/sys_vendor", "").strip()
    if vendor == "QEMU" or "linux,dummy-virt" in texts.get("/proc/device-tree/compatible", ""):
        return "QEMU"
    if re.search(r"^flags\s*:.*\bhypervisor\b", texts.get("/proc/cpuinfo", ""), flags=re.MULTILINE):
        return vendor if vendor.lower() not in _NO_NAME else "a hypervisor"
    return None
