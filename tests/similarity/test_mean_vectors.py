"""Cosines of mean vectors: a plain loop gives the same values, intervals cover the value's mean, ceilings are own halves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from midstudy.similarity.mean_vectors import compare_vectors


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def rows(seed: int, *, centre: NDArray[np.float64], number: int = 40, noise: float = 1.0) -> NDArray[np.float64]:
    return centre + noise * np.random.default_rng(seed).standard_normal((number, centre.size))


A, B = np.array([3.0, 1.0, 0.0, 0.0, 1.0]), np.array([1.0, 3.0, 1.0, 0.0, 0.0])


def test_values_are_cosines_of_the_means_of_crossed_halves() -> None:
    a, b = rows(1, centre=A), rows(2, centre=B)
    found = compare_vectors({"a": a, "b": b})
    a1, a2, b1, b2 = a[:20].mean(0), a[20:].mean(0), b[:20].mean(0), b[20:].mean(0)
    assert found.value("b", "a").value == pytest.approx((cosine(a1, b2) + cosine(a2, b1)) / 2, abs=1e-12)
    assert found.ceilings["a"] == pytest.approx(cosine(a1, a2), abs=1e-12)
    assert found.rows_per_side == 20


def test_an_interval_holds_the_mean_of_the_value_in_nineteen_of_twenty_samples() -> None:
    found = [
        compare_vectors({"a": rows(seed, centre=A, noise=2.0), "b": rows(1_000 + seed, centre=B, noise=2.0)}).value("a", "b")
        for seed in range(300)
    ]
    mean = np.mean([one.value for one in found])
    covered = np.mean([one.low <= mean <= one.high for one in found if one.low is not None and one.high is not None])
    assert 0.92 <= covered <= 0.995


def test_two_samples_of_one_corpus_lie_at_their_ceilings() -> None:
    found = compare_vectors({"a": rows(1, centre=A), "other a": rows(2, centre=A), "b": rows(3, centre=B)})
    same, other = found.value("a", "other a"), found.value("a", "b")
    assert same.low is not None
    assert other.high is not None
    assert same.low <= found.ceilings["a"]
    assert other.high < min(found.ceilings.values())


def test_the_last_row_of_an_odd_number_is_not_used() -> None:
    a, b = rows(1, centre=A, number=9), rows(2, centre=B, number=9)
    assert compare_vectors({"a": a, "b": b}) == compare_vectors({"a": a[:8], "b": b[:8]})


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ({"a": rows(1, centre=A)}, "several corpora with vectors of one shape"),
        ({"a": rows(1, centre=A), "b": rows(2, centre=B, number=38)}, "one shape"),
        ({"a": rows(1, centre=A, number=3), "b": rows(2, centre=B, number=3)}, "at least 4 vectors"),
        ({"a": rows(1, centre=A), "b": np.zeros((40, 5))}, "b: expected vectors with a mean other than 0"),
    ],
)
def test_what_has_no_cosine_is_rejected(corpora: dict[str, NDArray[np.float64]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_vectors(corpora)
