"""Disjoint halves and proximity advantage: no document is compared with itself, zero weight gives zero advantage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from midstudy.similarity.distribution import Similarity, TokenDistribution, similarity
from midstudy.similarity.halves import SplitSample, compare_samples, mix_samples, similarity_matrix
from midstudy.similarity.proximity import Mix, proximity_advantage, proximity_rows

VOCAB = 10
samples = (
    arrays(np.int64, (2, VOCAB), elements=st.integers(0, 100))
    .filter(lambda counts: counts.any(axis=1).all())
    .map(SplitSample.from_counts)
)
GENERAL = SplitSample.from_counts([[50, 30, 20, 0, 1], [48, 33, 19, 1, 0]])
CODE = SplitSample.from_counts([[0, 5, 0, 60, 35], [1, 4, 0, 58, 37]])
CODE_TASK = SplitSample.from_counts([[2, 6, 0, 40, 52], [1, 7, 0, 45, 47]])


@given(left=samples, right=samples)
def test_comparison_crosses_halves_and_is_symmetric(left: SplitSample, right: SplitSample) -> None:
    result = compare_samples(left, right)
    assert result == compare_samples(right, left)
    crossed = [similarity(left.first, right.second), similarity(left.second, right.first)]
    assert result.cosine == pytest.approx(np.mean([part.cosine for part in crossed]))
    assert result.jsd_nats == pytest.approx(np.mean([part.jsd_nats for part in crossed]))
    assert result.combined == pytest.approx(0.4 * result.cosine + 0.3 * result.jaccard + 0.3 * result.js)


def test_the_diagonal_is_the_similarity_of_two_halves_of_a_sample() -> None:
    matrix = similarity_matrix({"general": GENERAL, "code": CODE})
    assert list(matrix) == [("general", "general"), ("general", "code"), ("code", "general"), ("code", "code")]
    assert matrix["general", "code"] == matrix["code", "general"]
    assert matrix["general", "general"] == similarity(GENERAL.first, GENERAL.second)
    assert matrix["general", "code"].combined < matrix["general", "general"].combined < 1.0


def test_a_mix_shares_no_document_with_the_control_it_is_compared_with() -> None:
    # If documents were shared, a 0 % mix would have similarity 1 to the control, not that of two samples.
    unmixed = mix_samples([(CODE, 0.0), (GENERAL, 1.0)])
    assert compare_samples(unmixed, GENERAL) == similarity(GENERAL.first, GENERAL.second)


@given(general=samples, code=samples, task=samples)
def test_a_mix_with_zero_weight_has_exactly_zero_advantage(
    general: SplitSample, code: SplitSample, task: SplitSample
) -> None:
    (row,) = proximity_rows(
        corpora={"general": general, "code": code},
        tasks={"pycode": task},
        mixes=[Mix("code", {"code": 0.0, "general": 1.0}, "general")],
    )
    assert [row[f"pa_{measure}"] for measure in ("combined", "cosine", "jaccard", "js")] == [0, 0, 0, 0]


def test_advantage_is_the_difference_of_similarities_measure_by_measure() -> None:
    near = Similarity.from_parts(cosine=0.8, jaccard=0.5, jsd_nats=0.25)
    far = Similarity.from_parts(cosine=0.3, jaccard=0.4, jsd_nats=0.6)
    advantage = proximity_advantage(mix_to_task=near, control_to_task=far)
    assert advantage.cosine == pytest.approx(0.5)
    assert advantage.jaccard == pytest.approx(0.1)
    assert advantage.js == pytest.approx(1 / 1.25 - 1 / 1.6)
    assert advantage.combined == pytest.approx(0.4 * 0.5 + 0.3 * 0.1 + 0.3 * (1 / 1.25 - 1 / 1.6))


def test_the_papers_rounded_similarities_give_its_advantages() -> None:
    # C4–PyCode .54, StarCoder–PyCode .70 → .16 (arXiv 2510.14865)
    def with_combined(value: float) -> Similarity:
        return Similarity(cosine=0.0, jaccard=0.0, jsd_nats=0.0, combined=value)

    advantage = proximity_advantage(mix_to_task=with_combined(0.70), control_to_task=with_combined(0.54))
    assert advantage.combined == pytest.approx(0.16)


def test_more_code_lies_closer_to_the_code_task() -> None:
    rows = proximity_rows(
        corpora={"general": GENERAL, "code": CODE},
        tasks={"pycode": CODE_TASK},
        mixes=[Mix("code", {"code": weight, "general": 1 - weight}, "general") for weight in (0.1, 0.2, 0.5, 1.0)],
    )
    advantages: list[Any] = [row["pa_js"] for row in rows]
    assert advantages == sorted(advantages)
    assert advantages[0] > 0
    assert rows[3]["mix_cosine"] == pytest.approx(compare_samples(CODE, CODE_TASK).cosine)


def test_the_mix_in_a_row_is_weighted_by_tokens() -> None:
    (row,) = proximity_rows(
        corpora={"general": GENERAL, "code": CODE},
        tasks={"pycode": CODE_TASK},
        mixes=[Mix("code", {"code": 0.2, "general": 0.8}, "general")],
    )
    by_hand = [
        similarity(TokenDistribution(0.2 * code.probability + 0.8 * general.probability), task)
        for code, general, task in (
            (CODE.first, GENERAL.first, CODE_TASK.second),
            (CODE.second, GENERAL.second, CODE_TASK.first),
        )
    ]
    assert row["mix_jsd_nats"] == pytest.approx(np.mean([part.jsd_nats for part in by_hand]))


def test_a_mix_of_several_specialists_weights_each_by_its_share() -> None:
    math = SplitSample.from_counts([[5, 5, 80, 5, 5], [4, 6, 82, 4, 4]])
    (row,) = proximity_rows(
        corpora={"general": GENERAL, "code": CODE, "math": math},
        tasks={"pycode": CODE_TASK},
        mixes=[Mix("stem", {"code": 0.2, "math": 0.3, "general": 0.5}, "general", {"mix": "stem", "weight": 0.5})],
    )
    halves = [
        TokenDistribution(0.2 * code.probability + 0.3 * maths.probability + 0.5 * general.probability)
        for code, maths, general in ((CODE.first, math.first, GENERAL.first), (CODE.second, math.second, GENERAL.second))
    ]
    crossed = [similarity(halves[0], CODE_TASK.second), similarity(halves[1], CODE_TASK.first)]
    assert (row["mix_name"], row["mix"], row["weight"], row["reference"]) == ("stem", "stem", 0.5, "general")
    assert row["mix_cosine"] == pytest.approx(np.mean([part.cosine for part in crossed]))


def test_counts_without_halves_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"expected counts of shape \(2, vocab_size\), got \(3,\)"):
        SplitSample.from_counts([1, 2, 3])


def test_a_corpus_that_was_not_sampled_is_named() -> None:
    with pytest.raises(ValueError, match="expected token counts of the corpus 'math', got counts of: general"):
        proximity_rows(
            corpora={"general": GENERAL},
            tasks={"pycode": CODE_TASK},
            mixes=[Mix("math", {"math": 0.12, "general": 0.88}, "general")],
        )


def test_each_mix_is_compared_with_its_own_reference() -> None:
    shares = {"code": 0.5, "general": 0.5}
    rows = proximity_rows(
        corpora={"general": GENERAL, "code": CODE},
        tasks={"pycode": CODE_TASK},
        mixes=[Mix("beside general", shares, "general"), Mix("beside code", shares, "code")],
    )
    assert rows[0]["mix_combined"] == rows[1]["mix_combined"]
    assert rows[1]["control_combined"] == compare_samples(CODE, CODE_TASK).combined
    advantages = [float(str(row["pa_combined"])) for row in rows]
    assert advantages[0] > 0 > advantages[1]


@pytest.mark.parametrize("share", [-0.1, 1.2, 0.5])
def test_shares_that_do_not_add_up_to_1_are_rejected(share: float) -> None:
    with pytest.raises(ValueError, match="expected shares that add up to 1"):
        Mix("code", {"code": share, "general": -0.2 if share > 1 else 0.9}, "general")
