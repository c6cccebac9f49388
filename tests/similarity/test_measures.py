"""Every measure against scipy and plain formulas; symmetry, bounds, identity; agreement with the measures of studies."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial import distance

from midstudy.cli.main import COMPARE_MEASURES
from midstudy.similarity.distribution import TokenDistribution, similarity
from midstudy.similarity.measures import BOUNDS, DISTANCES, MEASURES, SIMILARITIES, measures

SIZE = 12
counts_of_a_text = arrays(np.int64, SIZE, elements=st.integers(0, 1_000)).filter(lambda counts: counts.any())


def by_hand(first: Counter[int], second: Counter[int]) -> dict[str, float]:
    """The measures by their definitions, term by term, with plain Python."""
    n, m = first.total(), second.total()
    union = set(first) | set(second)
    p = {unit: first[unit] / n for unit in union}
    q = {unit: second[unit] / m for unit in union}

    def kl(a: dict[int, float], b: dict[int, float]) -> float:
        return math.fsum(a[unit] * math.log(a[unit] / b[unit]) for unit in union if a[unit])

    middle = {unit: (p[unit] + q[unit]) / 2 for unit in union}
    jsd = (kl(p, middle) + kl(q, middle)) / 2
    smooth_p = {unit: (first[unit] + 0.5) / (n + len(union) / 2) for unit in union}
    smooth_q = {unit: (second[unit] + 0.5) / (m + len(union) / 2) for unit in union}
    cosine = math.fsum(p[unit] * q[unit] for unit in union) / math.hypot(*p.values()) / math.hypot(*q.values())
    jaccard = len(set(first) & set(second)) / len(union)
    return {
        "cosine": cosine,
        "jaccard": jaccard,
        "jsd_nats": jsd,
        "js": 1 / (1 + jsd),
        "combined": 0.4 * cosine + 0.3 * jaccard + 0.3 / (1 + jsd),
        "total_variation": math.fsum(abs(p[unit] - q[unit]) for unit in union) / 2,
        "kl_nats": kl(smooth_p, smooth_q),
        "reverse_kl_nats": kl(smooth_q, smooth_p),
    }


def counter_of(counts: Any) -> Counter[int]:
    return Counter({unit: int(count) for unit, count in enumerate(counts) if count})


@given(a=counts_of_a_text, b=counts_of_a_text)
def test_agrees_with_the_definitions_term_by_term(a: Any, b: Any) -> None:
    found = measures(a, b)
    for name, value in by_hand(counter_of(a), counter_of(b)).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@given(a=counts_of_a_text, b=counts_of_a_text)
def test_agrees_with_scipy(a: Any, b: Any) -> None:
    found, p, q = measures(a, b), a / a.sum(), b / b.sum()
    assert found["js_distance"] == pytest.approx(np.nan_to_num(distance.jensenshannon(p, q)), abs=1e-7)
    assert found["cosine"] == pytest.approx(1 - distance.cosine(p, q), abs=1e-12)
    assert found["jaccard"] == pytest.approx(1 - distance.jaccard(a > 0, b > 0))
    assert found["total_variation"] == pytest.approx(distance.minkowski(p, q, 1) / 2)
    assert found["hellinger"] == pytest.approx(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / math.sqrt(2), abs=1e-12)
    seen = (a > 0) | (b > 0)
    assert found["kl_nats"] == pytest.approx(stats.entropy(a[seen] + 0.5, b[seen] + 0.5), abs=1e-12)


@given(a=counts_of_a_text, b=counts_of_a_text)
def test_equals_the_measures_of_studies(a: Any, b: Any) -> None:
    study = similarity(TokenDistribution.from_counts(a), TokenDistribution.from_counts(b))
    found = measures(a, b)
    for name in ("cosine", "jaccard", "jsd_nats", "combined", "js"):
        assert found[name] == pytest.approx(getattr(study, name), abs=1e-12), name


@given(a=counts_of_a_text, b=counts_of_a_text)
def test_is_symmetric_and_within_bounds(a: Any, b: Any) -> None:
    found, back = measures(a, b), measures(b, a)
    back["kl_nats"], back["reverse_kl_nats"] = back["reverse_kl_nats"], back["kl_nats"]
    for name in MEASURES:
        assert found[name] == pytest.approx(back[name], abs=1e-12), name
        assert BOUNDS[name][0] <= found[name] <= BOUNDS[name][1] + 1e-12, name


@given(a=counts_of_a_text, times=st.integers(1, 5))
def test_equal_frequencies_have_similarity_1_and_distance_0(a: Any, times: int) -> None:
    found = measures(a, times * a)
    assert [found[name] for name in SIMILARITIES] == pytest.approx([1.0] * len(SIMILARITIES))
    plain = [name for name in DISTANCES if "kl" not in name or times == 1]  # smoothing changes larger counts less
    assert [found[name] for name in plain] == pytest.approx([0.0] * len(plain), abs=1e-7)


@given(a=counts_of_a_text, b=counts_of_a_text, order=st.permutations(range(SIZE)))
def test_neither_the_order_of_units_nor_units_of_neither_side_matter(a: Any, b: Any, order: list[int]) -> None:
    padded = measures(np.append(a[order], [0, 0]), np.append(b[order], [0, 0]))
    found = measures(a, b)
    assert padded.pop("js_distance") == pytest.approx(found.pop("js_distance"), abs=1e-7)  # the root of a rounding error
    assert padded == pytest.approx(found, abs=1e-12)


def test_hand_calculation() -> None:
    # p = (1/2, 1/2, 0), q = (1/2, 0, 1/2): Σ√(pq) = 1/2, JSD = ln(2)/2; KL over (3, 3, 1) / 7 and (3, 1, 3) / 7.
    found = measures([1, 1, 0], [1, 0, 1])
    assert found["hellinger"] == pytest.approx(math.sqrt(0.5))
    assert found["total_variation"] == pytest.approx(0.5)
    assert found["jsd_nats"] == pytest.approx(0.5 * math.log(2))
    assert found["kl_nats"] == pytest.approx(2 * math.log(3) / 7)


def test_disjoint_supports_reach_the_bounds() -> None:
    found = measures([4, 0], [0, 9])
    assert [found[name] for name in ("cosine", "jaccard", "js", "combined")] == [
        pytest.approx(BOUNDS[name][0]) for name in ("cosine", "jaccard", "js", "combined")
    ]
    assert (found["hellinger"], found["total_variation"]) == (1.0, 1.0)


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1, 2, 3]), ([[1]], [[1]]), ([0, 0], [1, 2]), ([-1, 2], [1, 1])])
def test_other_counts_are_rejected(a: Any, b: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        measures(a, b)


def test_the_command_line_names_every_measure() -> None:
    assert COMPARE_MEASURES == MEASURES
