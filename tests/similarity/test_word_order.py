"""Words in order are distinguished from the same words shuffled, in one text and in many short ones."""

from __future__ import annotations

import pytest
from builders.languages import language_documents, shuffled_copy

from midstudy.similarity.word_order import RANDOM_BELOW, order_score


@pytest.mark.parametrize("number", [40, 400])
def test_a_language_has_an_order_and_its_shuffled_copies_have_none(number: int) -> None:
    documents = language_documents(1, number=number, seed=1)
    assert order_score(documents) > 3 * RANDOM_BELOW
    for seed in range(5):
        assert abs(order_score(shuffled_copy(documents, seed=seed))) < RANDOM_BELOW


def test_words_shuffled_within_each_document_count_as_shuffled() -> None:
    documents = language_documents(1, number=200, seed=1)
    within = [shuffled_copy([document], seed=place)[0] for place, document in enumerate(documents)]
    assert abs(order_score(within)) < RANDOM_BELOW


def test_a_text_that_no_shuffle_changes_counts_as_ordered() -> None:
    assert order_score(["word", "other"]) == float("inf")
