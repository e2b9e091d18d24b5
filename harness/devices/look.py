"""Looks at a device with one sh script, so that facts come also from devices without Python; name → text, or why not.

`look.sh` is sent through any transport and prints sections; what was read is given to the pure parsers of
`harness.devices.facts`. Used when a device is opened (quick), and by `harness devices` and `harness doctor` (full).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import resources
from types import MappingProxyType

from harness.devices.facts.summary import describe
from harness.devices.transport import Process, Transport

QUICK_TIMEOUT_S = 20.0
FULL_TIMEOUT_S = 60.0
# A section longer than this is cut, and a device that sends more than that altogether is not listened to any longer.
MAX_SECTION_CHARS = 256 * 1024
MAX_BYTES = 8 << 20
NOT_THERE = "the device shows none"


@dataclass(frozen=True, slots=True)
class Look:
    """What a device said: `texts` by name (a path, or a command with its arguments), and `reasons` for what could not be
    read. `complete` is False when time or size ran out. `started_ns`, `ended_ns`: the host's wall clock around it."""

    texts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    complete: bool = True
    started_ns: int = 0
    ended_ns: int = 0

    def why_not(self, pattern: str) -> str:
        """Why nothing that matches the pattern (as in fnmatch) was read."""
        for name, reason in self.reasons.items():
            if fnmatchcase(name, pattern) or (name.endswith("/") and pattern.startswith(name)):
                return f"{name}: {reason}"
        return NOT_THERE if self.complete else "the device did not answer in time"

    def facts(self) -> dict[str, object]:
        """What the texts say, see `harness.devices.facts.summary.describe`."""
        return describe(self.texts, self.reasons)


def look(transport: Transport, work_folder: str, *, full: bool = False, timeout_s: float | None = None) -> Look:
    """Read everything there is to read; what came until `timeout_s` where it takes longer.

    Raises TransportError when the connection is lost, not when things are missing.
    """
    limit_s = timeout_s or (FULL_TIMEOUT_S if full else QUICK_TIMEOUT_S)
    token = f"@{secrets.token_hex(8)}"
    script = resources.files("harness.devices").joinpath("look.sh").read_bytes()
    started_ns = time.time_ns()
    process = transport.start(["sh", "-s", token, work_folder, "full" if full else "quick"], stdin=script)
    try:
        process.close_stdin()
        data, complete = _listen(process, limit_s)
    finally:
        process.kill()
    texts, reasons = parse_sections(data.decode("utf-8", "replace"), token)
    return Look(texts, reasons, complete, started_ns, time.time_ns())


def _listen(process: Process, timeout_s: float) -> tuple[bytes, bool]:
    """What came until the end or until time or size ran out; whether it came to its end."""
    deadline = time.monotonic() + timeout_s
    chunks: list[bytes] = []
    size = 0
    while size <= MAX_BYTES:
        try:
            chunk = process.read_chunk(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return b"".join(chunks), False
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks), False


def parse_sections(said: str, token: str) -> tuple[dict[str, str], dict[str, str]]:
    """Texts and reasons by name. A section without its end is a reason; what is outside sections is ignored."""
    texts: dict[str, str] = {}
    reasons: dict[str, str] = {}
    parts = said.replace("\r\n", "\n").split(f"{token}=")[1:]
    for number, part in enumerate(parts, start=1):
        head, ended, tail = part.rpartition(f"{token}.")
        if not ended:
            # Others followed: it was the device's own `timeout` that ended this one.
            reasons[part.partition("\n")[0]] = "cut off" if number == len(parts) else "no answer within 5 s"
            continue
        name, _, text = head.partition("\n")
        text = text.strip("\n")[:MAX_SECTION_CHARS]
        if tail.split("\n", 1)[0].strip() == "0":
            texts[name] = text
        else:
            reasons[name] = _reason(text, tail.split("\n", 1)[0].strip())
    return texts, reasons


def _reason(text: str, code: str) -> str:
    """A tool's last words without its own name, or its exit code."""
    words = text.strip().splitlines()[-1].strip() if text.strip() else ""
    for known in ("Permission denied", "Operation not permitted", "No such device", "No data available"):
        if known.lower() in words.lower():
            return known.lower()
    return words[-200:] or f"exit code {code}"
