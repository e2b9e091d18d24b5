"""What a user writes with a unit → the base unit the harness computes in: ns, bytes, points.

The way back, from numbers to text, belongs to `harness.report.units`.
"""

from __future__ import annotations

import math
import re

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµμ%]*)\s*")

_TIME_NS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9, "min": 60e9, "m": 60e9, "h": 3600e9}
_SIZE_BYTES = {
    "B": 1,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KIB": 1_024,
    "MIB": 1_048_576,
    "GIB": 1_073_741_824,
}
_POINTS = {"", "pp", "%", "pt", "points"}


def _split(text: str, what: str, examples: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None or not math.isfinite(float(match[1])):
        raise ValueError(f"{text!r} is no {what}; write it like {examples}")
    return float(match[1]), match[2]


def parse_duration_ns(text: str) -> float:
    """Nanoseconds of "2ms", "350 us", "1.5s". The unit must be given. Raises ValueError."""
    value, unit = _split(text, "time", "2ms, 350us or 1.5s")
    if unit not in _TIME_NS:
        raise ValueError(f"{text!r} has no unit of time; write it like 2ms, 350us or 1.5s")
    return value * _TIME_NS[unit]


def parse_size_bytes(text: str) -> int:
    """Bytes of "500kB", "1.5 MB", "64MiB", "4096B"; kB and MB are decimal. The unit must be given. Raises ValueError."""
    value, unit = _split(text, "size", "500kB, 1.5MB or 64MiB")
    if unit.upper() not in _SIZE_BYTES:
        raise ValueError(f"{text!r} has no unit of size; write it like 500kB, 1.5MB or 64MiB")
    return round(value * _SIZE_BYTES[unit.upper()])


def parse_points(text: str) -> float:
    """Percentage points of "0.5", "0.5pp", "0.5%". Raises ValueError."""
    value, unit = _split(text, "number of percentage points", "0.5 or 0.5pp")
    if unit not in _POINTS:
        raise ValueError(f"{text!r} is no number of percentage points; write it like 0.5 or 0.5pp")
    return value


def parse_share(text: str) -> float:
    """A share in 0..1 of "0.88" or "88%". Raises ValueError."""
    value, unit = _split(text, "share", "0.88 or 88%")
    share = value / 100 if unit == "%" else value
    if unit not in {"", "%"} or share > 1:
        raise ValueError(f"{text!r} is no share; write it like 0.88 or 88%")
    return share
