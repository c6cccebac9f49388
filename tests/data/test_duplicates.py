"""Copies of documents: exact ones, near ones, and texts of the same language that are neither."""

from __future__ import annotations

from builders.languages import language_documents

from midstudy.data.duplicates import KnownDocuments

DOCUMENTS = language_documents(1, number=60, seed=1, num_words=200)


def test_exact_copies_near_copies_and_other_text_are_distinguished() -> None:
    known = KnownDocuments([DOCUMENTS[:30], DOCUMENTS[30:]])
    edited = [document.replace(" ", " new ", 1) + " and an end" for document in DOCUMENTS[:20]]
    other = language_documents(1, number=25, seed=2, num_words=200)
    assert known.copies(DOCUMENTS[:7]) == (7, 0)
    assert known.copies(edited) == (0, 20)
    assert known.copies(other) == (0, 0)
    assert known.copies([*DOCUMENTS[:7], *edited, *other]) == (7, 20)


def test_a_document_that_shares_less_than_half_is_no_copy() -> None:
    known = KnownDocuments([DOCUMENTS])
    other = language_documents(2, number=20, seed=1, num_words=600)
    assert known.copies([f"{one} {copied}" for one, copied in zip(other, DOCUMENTS[:20], strict=True)]) == (0, 0)


def test_short_documents_can_be_exact_copies_only() -> None:
    known = KnownDocuments([["a few words", "more"]])
    assert known.copies(["a few words", "a few words more"]) == (1, 0)
