from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import units
from harness.units import parse_duration_ns, parse_size_bytes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        (0, "0 ns"),
        (7, "7 ns"),
        (0.5, "0.500 ns"),
        (999.4, "999 ns"),
        (999.6, "1.00 µs"),
        (38_123, "38.1 µs"),
        (999_600, "1.00 ms"),
        (1_534_000.0, "1.53 ms"),
        (12_000_000, "12.0 ms"),
        (99_960_000, "100 ms"),
        (12_340_000_000, "12.3 s"),
        (1_234_000_000_000, "1234 s"),
    ],
)
def test_times_have_three_digits_in_the_unit_that_fits(value: float | None, text: str) -> None:
    assert units.format_ns(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (169_432, "169 kB"), (2**20, "1.05 MB")],
)
def test_sizes_are_decimal(value: int | None, text: str) -> None:
    assert units.format_bytes(value) == text


def test_growth_has_its_sign() -> None:
    assert units.format_bytes(1_204_480, signed=True) == "+1.20 MB"
    assert units.format_bytes(-4096, signed=True) == "−4.10 kB"
    assert units.format_bytes(0, signed=True) == "0 B"


@pytest.mark.parametrize(
    ("triple", "text"),
    [
        ((1_534_000, 1_500_000, 1_570_000), "1.53 ms [1.50–1.57]"),
        ((1_534_000, 1_531_000, 1_537_000), "1.534 ms [1.531–1.537]"),
        ((999_600, 998_000, 1_001_000), "1.000 ms [0.998–1.001]"),
        ((123_400_000, 120_000_000, 130_000_000), "123 ms [120–130]"),
        ((1_534_000, None, 1_570_000), "1.53 ms"),
        ((None, 1, 2), "n/a"),
    ],
)
def test_an_interval_shares_the_unit_and_is_never_hidden_by_rounding(
    triple: tuple[float | None, float | None, float | None], text: str
) -> None:
    assert units.format_ns_interval(*triple) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "n/a"), (0.31, "+0.31 pp"), (-0.1, "−0.10 pp"), (-0.001, "0.00 pp"), (0.0, "0.00 pp")]
)
def test_points_have_their_sign_and_zero_has_none(value: float | None, text: str) -> None:
    assert units.format_points(value) == text


def test_points_with_their_interval() -> None:
    assert units.format_points_interval(0.32, -0.1, 0.74) == "+0.32 pp [−0.10, +0.74]"
    assert units.format_points_interval(0.32, None, 0.74) == "+0.32 pp"
    assert units.format_points_interval(None, None, None) == "n/a"


def test_the_rest() -> None:
    assert units.format_share(0.9104) == "91.04 %"
    assert units.format_share(1.0) == "100.00 %"
    assert units.format_number(0.031274) == "0.03127"
    assert units.format_number(-2.5) == "−2.5"
    assert units.format_count(1_204_330) == "1,204,330"
    assert units.format_uj(1_530) == "1.53 mJ"
    assert [units.format_share(None), units.format_number(None), units.format_count(None), units.format_uj(None)] == [
        "n/a"
    ] * 4


@given(st.floats(min_value=0.001, max_value=1e12))
def test_a_printed_time_is_the_time_to_three_digits(value: float) -> None:
    number, unit = units.format_ns(value).split(" ")
    # Values below a nanosecond have at most five decimals.
    assert math.isclose(float(number) * parse_duration_ns(f"1{unit}"), value, rel_tol=0.0051, abs_tol=1e-5)


@given(st.integers(min_value=0, max_value=10**12))
def test_a_printed_size_reads_back(value: int) -> None:
    text = units.format_bytes(value)
    assert re.fullmatch(r"[\d.]+ (B|kB|MB|GB)", text)
    assert math.isclose(parse_size_bytes(text.replace(" ", "")), value, rel_tol=0.0051, abs_tol=0)
