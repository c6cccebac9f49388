"""Disagreements of views: found where the order of two corpora turns, decided only if intervals are apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from midstudy.similarity.corpora import Value
from midstudy.similarity.ranks import Disagreement, disagreements, rank_correlation


def view(values: dict[str, float], half_width: float | None) -> Callable[[str, str], Value]:
    def look_up(left: str, right: str) -> Value:
        value = values["".join(sorted(left + right))]
        return Value(value) if half_width is None else Value(value, value - half_width, value + half_width)

    return look_up


BYTES = {"ab": 0.9, "ac": 0.7, "bc": 0.5}
WORDS = {"ab": 0.6, "ac": 0.8, "bc": 0.5}


@pytest.mark.parametrize(("half_width", "is_decided"), [(0.05, True), (0.11, False), (None, False)])
def test_a_turned_order_is_found(half_width: float | None, is_decided: bool) -> None:
    found = disagreements("abc", {"bytes": view(BYTES, half_width), "words": view(WORDS, half_width)})
    assert found == [Disagreement("a", "b", "c", "bytes", "words", is_decided)]


def test_equal_orders_and_ties_are_no_disagreement() -> None:
    shifted = {pair: value - 0.3 for pair, value in BYTES.items()}
    tied = dict.fromkeys(BYTES, 0.5)
    views = {"bytes": view(BYTES, 0.0), "shifted": view(shifted, 0.0), "tied": view(tied, 0.0)}
    assert disagreements("abc", views) == []


def test_rank_correlation() -> None:
    # Of three pairs of values, two agree in order and one does not: (2 − 1) / 3.
    assert rank_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1], [1]) is None
