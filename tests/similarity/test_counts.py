"""A sample's token counts: the paper's limits, two disjoint halves, errors for invalid ids."""

from __future__ import annotations

from itertools import repeat

import numpy as np
import pytest

from midstudy.similarity import counts as rules
from midstudy.similarity.counts import token_counts


def test_documents_alternate_between_two_disjoint_halves() -> None:
    counts = token_counts([[0, 0, 1], [2], [1], [3, 3]], 5)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[2, 2, 0, 0, 0], [0, 0, 1, 2, 0]]


def test_the_papers_limits_are_the_defaults() -> None:
    assert (rules.MAX_CHARACTERS_PER_DOCUMENT, rules.MAX_TOKENS_PER_DOCUMENT, rules.MAX_DOCUMENTS) == (
        10_000,
        512,
        1_000,
    )
    counts = token_counts([np.array([0] * 512 + [1] * 88)] * 1_200, 2)
    assert counts.tolist() == [[500 * 512, 0], [500 * 512, 0]]


def test_the_limits_are_parameters_and_none_keeps_whole_documents() -> None:
    documents = [[0] * 600, [1] * 600, [2] * 600]
    assert token_counts(documents, 3, max_tokens_per_document=5, max_documents=2).tolist() == [[5, 0, 0], [0, 5, 0]]
    assert token_counts(documents, 3, max_tokens_per_document=None).sum() == 1_800


def test_an_endless_stream_is_read_only_as_far_as_needed() -> None:
    assert token_counts(repeat([0]), 1, max_documents=10).tolist() == [[5], [5]]


@pytest.mark.parametrize("bad", [[7], [-1]])
def test_an_id_outside_the_vocabulary_names_its_document(bad: list[int]) -> None:
    with pytest.raises(ValueError, match=r"document 1: expected token ids from 0 to 4, got -?\d to -?\d;"):
        token_counts([[0], bad], 5)


def test_text_in_place_of_ids_is_rejected() -> None:
    with pytest.raises(ValueError, match="document 0: expected integer token ids, got dtype"):
        token_counts([["a"]], 5)  # type: ignore[list-item]


@pytest.mark.parametrize("documents", [[], [[1, 2]], [[1], []]])
def test_a_half_without_tokens_is_an_error(documents: list[list[int]]) -> None:
    with pytest.raises(
        ValueError, match=r"expected two halves with tokens, got a sample of \d documents with an empty half"
    ):
        token_counts(documents, 5)
