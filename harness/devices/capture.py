"""What a device said, as a golden case to keep or to send: texts and facts, without what would name the device or its owner.

Pure. Used by `harness devices show --save`; the cases live in tests/golden/facts.
"""

from __future__ import annotations

import re
from typing import Any

from harness.devices.look import Look

# Of Android's hundreds of properties only those that facts are made of: others hold serial numbers, accounts, operators.
_PROPERTIES = re.compile(
    r"ro\.(product\.(manufacturer|brand|model|device|marketname|cpu\..*|vendor\.(model|marketname))"
    r"|build\.(version\.(release|sdk|security_patch)|display\.id|id|type)"
    r"|soc\..*|board\.platform|hardware|hardware\.chipname|mediatek\.platform|vendor\.mediatek\.platform"
    r"|kernel\.qemu|boot\.qemu|debuggable)"
)
_PRIVATE = ("/etc/machine-id", "/proc/sys/kernel/random/boot_id")


def golden_case(look: Look, about: str) -> dict[str, Any]:
    """The case as the JSON file holds it."""
    texts = {name: _clean(name, text) for name, text in look.texts.items() if name not in _PRIVATE}
    cleaned = Look(texts, dict(look.reasons), look.complete)
    return {
        "about": about,
        "captured": True,
        "texts": {name: text.split("\n") if "\n" in text else text for name, text in texts.items()},
        "reasons": dict(look.reasons),
        "facts": cleaned.facts(),
    }


def _clean(name: str, text: str) -> str:
    if name == "getprop":
        return "\n".join(line for line in text.splitlines() if _PROPERTIES.fullmatch(line[1:].partition("]")[0]))
    if name == "/proc/cpuinfo":
        return re.sub(r"(?m)^(Serial\s*: ).*$", r"\g<1>0000000000000000", text)
    if name == "/proc/self/status":
        return "\n".join(line for line in text.splitlines() if line.startswith("Cpus_allowed"))
    if name == "sh":
        return "ok"
    if name == "id":
        return re.sub(r"\(([^)]*)\)", lambda found: f"({found[1] if found[1] in _SYSTEM_USERS else 'user'})", text)
    return text


_SYSTEM_USERS = {"root", "shell", "pi", "input", "log", "adb", "video", "sudo", "wheel", "inet"}
