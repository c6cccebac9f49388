"""Data set limits: what is read up to the limit, what is left out, and a long document among short ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from midstudy.data import limit
from midstudy.data.limit import Limited, text_size

SHORT = "x" * 10
HUGE = "x" * 2_000


def limited(texts: Any, **limits: Any) -> Limited[str]:
    return Limited(texts, size_of=text_size, path="corpora.code", split="train", **limits)


@pytest.mark.parametrize(
    ("texts", "limits", "num_read", "left_out"),
    [
        ([SHORT] * 5, {}, 5, {}),
        ([SHORT] * 5, {"max_bytes": 50}, 5, {}),
        ([SHORT] * 9, {"max_bytes": 50}, 5, {"past_max_bytes": 4}),
        ([SHORT] * 9, {"max_bytes": 49}, 4, {"does_not_fit": 1, "after_it": 4}),  # 82 % full: the fifth was dropped
        ([SHORT] * 9, {"max_items": 5}, 5, {"past_max_items": 4}),
        ([SHORT] * 5, {"max_items": 5}, 5, {}),
        ([*[SHORT] * 99, HUGE], {"max_bytes": 1_000}, 99, {"past_max_bytes": 1}),
        ([*[SHORT] * 30, HUGE], {"max_bytes": 1_000}, 30, {"does_not_fit": 1}),  # the last document: nothing comes after it
        ([*[SHORT] * 30, HUGE, *[SHORT] * 29], {"max_bytes": 1_000}, 30, {"does_not_fit": 1, "after_it": 29}),
        ([*[SHORT] * 60, HUGE, *[SHORT] * 300], {"max_bytes": 1_000}, 60, {"does_not_fit": 1, "after_it": 300}),
        ([*[SHORT] * 3, "x" * 940, *[SHORT] * 30], {"max_bytes": 1_000}, 7, {"past_one_document": 27}),
        (["x" * 940, *[SHORT] * 3], {"max_bytes": 1_000}, 4, {}),
        (["x" * 999, *[SHORT] * 30], {"max_bytes": 1_000}, 1, {"past_one_document": 30}),  # none of the short ones fits
        (["ä" * 10] * 3, {"max_bytes": 40}, 2, {"past_max_bytes": 1}),  # bytes, not characters
        ([], {"max_bytes": 40}, 0, {}),
    ],
)
def test_items_up_to_the_limit_are_read_and_the_others_counted(texts, limits, num_read, left_out):
    reading = limited(texts, **limits)
    assert list(reading) == texts[:num_read]
    assert (reading.num_items, reading.left_out, reading.is_whole) == (num_read, left_out, True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([HUGE, *[SHORT] * 300], r"document 1 of the train split is larger than max_bytes.* leaves out the 300 after it"),
        ([*[SHORT] * 3, HUGE, *[SHORT] * 297], r"document 4 .* after 3 documents \(30 bytes\) and leaves out the 297"),
        ([*[SHORT] * 3, HUGE, *[SHORT] * 3], r"document 4 .* at least 2,030"),
        ([*[SHORT] * 3, "x" * 980, *[SHORT] * 3], r"document 4 .* does not fit into max_bytes: it has 980 bytes"),
        ([HUGE] * 3, r"corpora\.code\.max_bytes: document 1 of the train split is larger than max_bytes"),
        ([HUGE], r"document 1 of the train split is larger than max_bytes.*after 0 documents \(0 bytes\)\. Raise"),
    ],
)
def test_a_document_that_leaves_most_of_the_text_out_is_rejected(texts, message):
    with pytest.raises(ValueError, match=message):
        list(limited(texts, max_bytes=1_000))


def test_a_damaged_row_past_the_limit_only_ends_the_count():
    def rows() -> Iterator[str]:
        yield from [SHORT] * 7
        raise ValueError("not JSON")

    reading = limited(rows(), max_items=5)
    assert len(list(reading)) == 5
    assert (reading.left_out, reading.is_whole) == ({"past_max_items": 2}, False)


def test_a_damaged_row_before_the_limit_is_an_error():
    def rows() -> Iterator[str]:
        yield SHORT
        raise ValueError("not JSON")

    with pytest.raises(ValueError, match="not JSON"):
        list(limited(rows(), max_items=5))


def test_counting_ends_after_a_maximum_amount_of_text(monkeypatch):
    monkeypatch.setattr(limit, "COUNTED_CHARACTERS", 100)

    def endless() -> Iterator[str]:
        while True:
            yield SHORT

    reading = limited(endless(), max_bytes=50)
    assert len(list(reading)) == 5
    assert (reading.left_out, reading.is_whole) == ({"past_max_bytes": 11}, False)


def test_documents_without_text_are_counted():
    reading = limited([SHORT, "", " \n", SHORT])
    assert len(list(reading)) == 4
    assert reading.num_blank == 2
