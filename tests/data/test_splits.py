"""Carving dev and test from train: by content alone, disjoint, complete, in the stated shares."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.splits import carve, carved_splits

ROWS = [{"question": f"How much is {number} + 1?", "answer": str(number + 1)} for number in range(4000)]


def parts(rows: list[dict], carved: tuple[str, ...], *, is_task: bool) -> dict[str, list[dict]]:
    return {split: list(carve(rows, split=split, carved=carved, is_task=is_task)) for split in ("train", *carved)}


@pytest.mark.parametrize(("is_task", "carved", "share"), [(True, ("dev",), 0.05), (False, ("dev", "test"), 0.02)])
def test_every_row_is_in_exactly_one_split_and_the_shares_are_right(
    is_task: bool, carved: tuple[str, ...], share: float
) -> None:
    made = parts(ROWS, carved, is_task=is_task)
    texts = [row["question"] for rows in made.values() for row in rows]
    assert sorted(texts) == sorted(row["question"] for row in ROWS)
    for split in carved:
        # Four standard deviations of a binomial count.
        assert abs(len(made[split]) - share * len(ROWS)) < 4 * (share * len(ROWS)) ** 0.5


@given(st.permutations(range(60)), st.integers(0, 59))
def test_a_rows_split_depends_on_its_content_alone(order: list[int], dropped: int) -> None:
    rows = [{"text": f"document {number}"} for number in range(60)]
    whole = parts(rows, ("dev", "test"), is_task=False)
    other = parts([dict(reversed(rows[n].items())) for n in order if n != dropped], ("dev", "test"), is_task=False)
    for split, split_rows in other.items():
        assert all(row in whole[split] for row in split_rows)


def test_equal_rows_never_end_up_in_two_splits() -> None:
    made = parts(ROWS[:300] * 2, ("dev",), is_task=True)
    assert not {row["question"] for row in made["train"]} & {row["question"] for row in made["dev"]}


def test_the_carved_rows_follow_from_the_hash_of_their_canonical_json() -> None:
    def first_48_bits(row: dict) -> float:
        text = json.dumps(row, sort_keys=True, separators=(",", ":"))
        return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12

    made = parts(ROWS[:300], ("dev",), is_task=True)
    assert made["dev"] == [row for row in ROWS[:300] if first_48_bits(row) < 0.05]
    assert [row["answer"] for row in made["dev"]] == ["141", "189", "222", "228", "253", "283"]


@pytest.mark.parametrize(
    ("present", "is_task", "carved"),
    [
        (("train", "dev", "test"), True, ()),
        (("train", "test"), True, ("dev",)),
        (("train", "dev"), False, ("test",)),
        (("train",), False, ("dev", "test")),
    ],
)
def test_missing_splits_are_carved(present: tuple[str, ...], is_task: bool, carved: tuple[str, ...]) -> None:
    assert carved_splits(present, is_task=is_task, where="x") == carved


def test_a_tasks_test_split_is_never_carved() -> None:
    with pytest.raises(ValueError, match="gsm8k: the test split is missing: expected train and test, got train"):
        carved_splits(("train",), is_task=True, where="gsm8k")


def test_nothing_is_carved_without_a_train_split() -> None:
    with pytest.raises(ValueError, match="the train split is missing: expected train, got none"):
        carved_splits((), is_task=False, where="general")
