"""Number formats of the report."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from midstudy.report import numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.number(17112), "17,112"),
        (numbers.decimal(4.5879), "4.588"),
        (numbers.difference(-0.0125), "−0.013"),
        (numbers.difference(0.571), "+0.571"),
        (numbers.signed_percent(0.1269), "+12.7"),
        (numbers.signed_percent(-0.0253), "−2.5"),
        (numbers.signed_percent(-0.0002), "0.0"),
        (numbers.correlation(-0.199), "−0.20"),
        (numbers.p_value(0.000012), "< 0.0001"),
        (numbers.p_value(0.00044), "0.0004"),
        (numbers.p_value(0.0445), "0.044"),
        (numbers.p_value(0.72), "0.72"),
        (numbers.interval(-0.033, 0.591), "[−0.033, 0.591]"),
        (numbers.interval(0.124, 0.1301, numbers.signed_percent), "[12.4, 13.0]"),
        (numbers.tokens(88_474), "88.5k"),
        (numbers.tokens(10_180_608), "10.2M"),
        (numbers.tokens(23.1e9), "23.1B"),
        (numbers.tokens(12), "12"),
        (numbers.percent(0.05), "5 %"),
        (numbers.percent(0.125), "12.5 %"),
        (numbers.duration(0), "0 s"),
        (numbers.duration(89), "89 s"),
        (numbers.duration(91), "1.5 min"),
        (numbers.duration(9_000), "2.5 h"),
    ],
)
def test_number_formats(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    "write",
    [numbers.number, numbers.decimal, numbers.difference, numbers.signed_percent, numbers.correlation, numbers.p_value],
)
def test_a_missing_value_is_a_dash(write: Callable[[float], str]) -> None:
    assert write(math.nan) == numbers.ABSENT


def test_an_interval_with_a_missing_end_is_a_dash() -> None:
    assert numbers.interval(0.1, math.nan) == numbers.ABSENT
