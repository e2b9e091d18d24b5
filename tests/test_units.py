from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import units


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.parse_duration_ns, "2ms", 2e6),
        (units.parse_duration_ns, " 350 us ", 350e3),
        (units.parse_duration_ns, "1.5s", 1.5e9),
        (units.parse_duration_ns, ".5µs", 500.0),
        (units.parse_size_bytes, "500kB", 500_000),
        (units.parse_size_bytes, "1.5 MB", 1_500_000),
        (units.parse_size_bytes, "64MiB", 64 * 1024 * 1024),
        (units.parse_points, "0.5", 0.5),
        (units.parse_points, "0.5 pp", 0.5),
        (units.parse_share, "88%", 0.88),
        (units.parse_share, "0.88", 0.88),
    ],
)
def test_quantities_are_read(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.parse_duration_ns, "2"),
        (units.parse_duration_ns, "2 MB"),
        (units.parse_duration_ns, "-2ms"),
        (units.parse_duration_ns, "1" * 400 + "ms"),
        (units.parse_size_bytes, "12"),
        (units.parse_size_bytes, "12 ms"),
        (units.parse_points, "nan"),
        (units.parse_share, "188%"),
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse(text)
