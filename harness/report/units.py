"""Numbers → text: the only place where nanoseconds, bytes, shares and points become words.

Place in the flow: every report formats through here. The way back, from a user's words to numbers, is `harness.units`.
Sizes are decimal: 1 kB = 1,000 B, 1 MB = 1,000,000 B.
What is not known prints as "n/a".
"""

from __future__ import annotations

import math

NOT_AVAILABLE = "n/a"
MINUS = "−"

_TIME_UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))
_ENERGY_UNITS = (("J", 1e6), ("mJ", 1e3), ("µJ", 1.0))
_SIZE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
_SIGNIFICANT = 3
_MOST_DECIMALS = 5


def _decimals(value: float) -> int:
    """Decimals that give `value` (already in its unit) three significant digits, none below the point from 100 on."""
    if value == 0:
        return 0
    return max(0, _SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))


def _signed(text: str, *, plus: bool) -> str:
    """A number's text with a true minus sign, no sign on zero and, with `plus`, a plus sign on what is positive."""
    if not text.strip("-0."):
        return text.lstrip("-")
    if text.startswith("-"):
        return MINUS + text[1:]
    return f"+{text}" if plus else text


def _unit_of(value: float, units: tuple[tuple[str, float], ...]) -> tuple[str, float]:
    """The unit in which |value|, rounded to three digits, is at least 1; the smallest one for what is less."""
    for name, factor in units:
        # 999.6 µs rounds to 1000: it is written in the next unit, 1.00 ms.
        if float(f"{abs(value) / factor:.{_SIGNIFICANT}g}") >= 1:
            return name, factor
    return units[-1]


def _scaled(value: float | None, units: tuple[tuple[str, float], ...], *, plus: bool = False) -> str:
    if value is None:
        return NOT_AVAILABLE
    unit, factor = _unit_of(value, units)
    scaled = value / factor
    decimals = 0 if factor == 1.0 and float(value).is_integer() else _decimals(float(f"{scaled:.3g}"))
    return f"{_signed(f'{scaled:.{min(decimals, _MOST_DECIMALS)}f}', plus=plus)} {unit}"


def format_ns(value: float | None) -> str:
    """A time in ns, three significant digits in the unit that fits: "412 ns", "38.1 µs", "1.53 ms", "12.0 s"."""
    return _scaled(value, _TIME_UNITS)


def format_ns_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A time with its interval in one unit: "1.53 ms [1.51–1.56]".

    Digits are added (up to two) where the interval is so narrow that three hide one of its ends. Without a whole interval
    the value stands alone.
    """
    if value is None or low is None or high is None:
        return format_ns(value)
    unit, factor = _unit_of(value, _TIME_UNITS)
    middle, low, high = value / factor, low / factor, high / factor
    decimals = _decimals(float(f"{middle:.3g}"))
    for _ in range(2):
        if f"{middle:.{decimals}f}" not in (f"{low:.{decimals}f}", f"{high:.{decimals}f}"):
            break
        decimals += 1
    return f"{middle:.{decimals}f} {unit} [{low:.{decimals}f}–{high:.{decimals}f}]"


def format_rate(value: float | None) -> str:
    """Inferences a second, three significant digits, thousands separated: "12.3 /s", "1,530 /s", "47,500 /s"."""
    if value is None:
        return NOT_AVAILABLE
    shown = float(f"{value:.3g}")
    return f"{shown:,.{_decimals(shown) if shown else 0}f} /s"


def format_rate_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A rate with its interval: "1,530 /s [1,510–1,560]"; without a whole interval the value alone."""
    if value is None or low is None or high is None:
        return format_rate(value)
    ends = [format_rate(end).removesuffix(" /s") for end in (low, high)]
    return f"{format_rate(value)} [{ends[0]}–{ends[1]}]"


def format_seconds(value: float | None) -> str:
    """A time of a long run in whole seconds: "143 s"."""
    return NOT_AVAILABLE if value is None else f"{value:,.0f} s"


def format_bytes(value: float | None, *, signed: bool = False) -> str:
    """A size in bytes, decimal units: "812 B", "12.3 kB", "1.53 MB"; with `signed`, a growth: "+1.53 MB"."""
    return _scaled(value, _SIZE_UNITS, plus=signed)


def format_uj(value: float | None) -> str:
    """An energy in µJ: "812 µJ", "1.53 mJ", "2.10 J"."""
    return _scaled(value, _ENERGY_UNITS)


def format_share(value: float | None) -> str:
    """A share in 0..1 as a percentage with two decimals: "91.04 %"."""
    return NOT_AVAILABLE if value is None else f"{_signed(f'{value * 100:.2f}', plus=False)} %"


def format_points(value: float | None, *, signed: bool = True) -> str:
    """Percentage points with their sign: "+0.32 pp", "−0.10 pp", "0.00 pp"."""
    return NOT_AVAILABLE if value is None else f"{_signed(f'{value:.2f}', plus=signed)} pp"


def format_points_interval(value: float | None, low: float | None, high: float | None) -> str:
    """Points with their interval: "+0.32 pp [−0.10, +0.74]"; without a whole interval the value alone."""
    if value is None or low is None or high is None:
        return format_points(value)
    return f"{format_points(value)} [{_signed(f'{low:.2f}', plus=True)}, {_signed(f'{high:.2f}', plus=True)}]"


def format_number(value: float | None) -> str:
    """A plain number, four significant digits: the errors of a regression, "0.03127"."""
    return NOT_AVAILABLE if value is None else _signed(f"{value:.4g}", plus=False)


def format_count(value: int | None) -> str:
    """A count with thousands separated: "1,204,330"."""
    return NOT_AVAILABLE if value is None else f"{value:,}"
