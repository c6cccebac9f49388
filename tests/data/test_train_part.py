"""Parts of a train split: disjoint, complete, by the text alone, after the limit."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import partial

import pytest
from builders.small_recipes import GENERAL
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.limit import Limited, text_size
from midstudy.data.splits import split_by_hash
from midstudy.data.train_part import InPart, is_in_part, part_hash
from midstudy.recipe import TrainPart, placebo


def in_part(texts: Iterable[str], part: TrainPart, *, max_bytes: int | None = None) -> InPart[str]:
    read = Limited(texts, size_of=text_size, path="corpora.general", split="train", max_bytes=max_bytes)
    return InPart(read, part, is_in=partial(is_in_part, part=part))


def parts(share: float | str | Fraction) -> tuple[TrainPart, TrainPart]:
    rest, mixed_in = placebo(GENERAL, share)
    assert rest.train_part is not None
    assert mixed_in.train_part is not None
    return rest.train_part, mixed_in.train_part


DOCUMENTS = [f"document {number}" for number in range(4_000)]


def test_the_hash_of_a_document_by_hand():
    """`printf 'train_part\\ndocument 7' | sha256sum` begins with b1774d7d521b."""
    by_hand = int(hashlib.sha256(b"train_part\ndocument 7").hexdigest()[:12], 16) / 16**12
    assert part_hash("document 7") == by_hand == 0xB1774D7D521B / 2**48


def test_a_document_at_the_boundary_of_two_parts_is_in_the_second():
    boundary = Fraction(part_hash("document 7"))
    before, after = TrainPart(start=Fraction(0), stop=boundary), TrainPart(start=boundary, stop=Fraction(1))
    assert list(in_part(["document 7"], before)) == []
    assert list(in_part(["document 7"], after)) == ["document 7"]


@given(
    st.lists(st.text(max_size=6), max_size=40),
    st.fractions(min_value=Fraction(1, 1000), max_value=Fraction(999, 1000)),
    st.one_of(st.none(), st.integers(60, 400)),
)
def test_the_parts_of_any_text_are_disjoint_and_together_are_what_the_limit_keeps(texts, share, max_bytes):
    try:
        whole = list(Limited(texts, size_of=text_size, path="", split="train", max_bytes=max_bytes))
    except ValueError:  # a document that leaves most of the text out
        return
    rest, mixed_in = (list(in_part(texts, part, max_bytes=max_bytes)) for part in parts(share))
    assert sorted(rest + mixed_in) == sorted(whole)
    assert not {*rest} & {*mixed_in}
    for part in (rest, mixed_in):
        order = iter(whole)
        assert all(text in order for text in part)  # in the order of the source


def test_the_share_of_the_documents_is_the_share_asked_for():
    _, mixed_in = (list(in_part(DOCUMENTS, part)) for part in parts(0.2))
    assert abs(len(mixed_in) - 800) < 4 * (4_000 * 0.2 * 0.8) ** 0.5  # four standard deviations of a binomial count


def test_a_documents_part_depends_on_its_text_alone():
    _, part = parts(0.3)
    whole = [*in_part(DOCUMENTS, part)]
    assert [*in_part(reversed(DOCUMENTS), part)] == whole[::-1]
    assert [*in_part(DOCUMENTS[1_000:2_000], part)] == [text for text in DOCUMENTS[1_000:2_000] if text in {*whole}]


@pytest.mark.parametrize("twin", ["  document 7\n", "document 7<|endoftext|>", " document 7<|endoftext|>\n<|endoftext|> "])
def test_documents_that_are_tokenised_alike_are_in_the_same_part(twin: str):
    assert part_hash(twin) == part_hash("document 7")


def test_parts_do_not_depend_on_a_split_carved_by_a_hash_of_the_same_text():
    """Of documents that a hash of their text left in train, the placebo still has its share."""
    train = [text for text in DOCUMENTS if split_by_hash(text, dev=0.3, test=0.3) == "train"]
    _, mixed_in = (list(in_part(train, part)) for part in parts(0.2))
    assert abs(len(mixed_in) / len(train) - 0.2) < 4 * (0.2 * 0.8 / len(train)) ** 0.5


def test_what_is_left_out_is_counted_by_reason():
    _, part = parts(0.2)
    read = in_part(["a" * 10, " ", *(f"document {n:02}" for n in range(40))], part, max_bytes=10 + 1 + 20 * 11)
    num_read = len(list(read))
    assert read.left_out == {"past_max_bytes": 20, "other_part": 22 - num_read}
    assert (read.num_items, read.is_whole) == (num_read, True)
    assert 0 < num_read < 22
    blank = in_part([" "] * 3, part if part_hash(" ") >= 0.8 else parts(0.2)[0])
    assert len(list(blank)) == blank.num_blank == 3


def test_a_part_without_documents_is_rejected_by_name():
    read = in_part(DOCUMENTS[:3], TrainPart(start=Fraction(1, 10**9), stop=Fraction(2, 10**9)))
    assert list(read) == []
    message = r"corpora\.placebo\.train_part: expected at least one document .*\[1/1000000000, 1/500000000\), got none of 3"
    with pytest.raises(ValueError, match=message):
        read.require_any("corpora.placebo")


def test_memory_does_not_grow_with_the_text():
    def texts() -> Iterator[str]:
        for number in range(20_000):
            yield f"{number} " * 200

    tracemalloc.start()
    try:
        num_bytes = sum(len(text) for text in in_part(texts(), parts(0.2)[0]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_bytes > 10_000_000
    assert peak < 200_000
