"""Prompts of rollouts: they end where the last reply begins, and each comes once an epoch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from midstudy.data.conversation import as_turns, rendered
from midstudy.data.prompts import items_at, prompt_lengths, prompts_with_room
from midstudy.data.shards import piece_ids
from midstudy.data.tally import Tally, prompts_tally
from midstudy.data.tokenizer import train_tokenizer
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe.data import CONVERSATION_TOKENS

SHORT = [{"role": "user", "content": "3+4"}, {"role": "assistant", "content": "7"}]
CALL = [
    {"role": "user", "content": "3+4, <|assistant_start|> please"},
    {"role": "assistant", "content": [{"type": "python", "text": "3+4"}, {"type": "python_output", "text": "7"}]},
]
LONG = [*CALL, {"role": "user", "content": "and the double?"}, {"role": "assistant", "content": "14"}]


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer(["3+4 is 7"], vocab_size=266, special_tokens=CONVERSATION_TOKENS)


@pytest.fixture(scope="module")
def split(tokenizer: tokenizers.Tokenizer) -> TokenizedSplit:
    """Three conversations in two shards."""
    documents = [
        piece_ids(tokenizer, rendered(as_turns(json.loads(json.dumps(messages)), "here")), end_of_text_id=0)
        for messages in (SHORT, LONG, CALL)
    ]
    shards = [documents[:2], documents[2:]]
    return TokenizedSplit(
        [np.concatenate(shard).astype(np.uint16) for shard in shards],
        [np.cumsum([0, *map(len, shard)]) for shard in shards],
        None,
    )


def test_a_prompt_ends_with_the_token_that_starts_the_last_reply(
    split: TokenizedSplit, tokenizer: tokenizers.Tokenizer
) -> None:
    lengths = prompt_lengths(split, tokenizer)
    replies = [
        tokenizer.decode(split.document(item)[lengths[item] :].tolist(), skip_special_tokens=True) for item in range(3)
    ]
    assert replies == ["7", "14", "3+47"]
    last = [tokenizer.id_to_token(int(split.document(item)[lengths[item] - 1])) for item in range(3)]
    assert last == ["<|assistant_start|>"] * 3


def test_prompts_without_room_are_left_out_and_counted(split: TokenizedSplit, tokenizer: tokenizers.Tokenizer) -> None:
    lengths = prompt_lengths(split, tokenizer)
    longest = int(lengths[2])
    assert lengths[0] < longest < lengths[1]
    assert prompts_with_room(split, tokenizer, longest=longest).tolist() == [0, 2]
    assert prompts_with_room(split, tokenizer, longest=longest - 1).tolist() == [0]
    tally = prompts_tally(split, tokenizer, data="sums", split_name="train", longest=longest)
    assert tally.sentence == (
        f"sums train, prompts at {longest} tokens: 1 of 3 items left out (prompts of more than {longest} tokens, "
        "which leave no room for an answer); 2 used"
    )
    assert tally.is_much
    assert Tally.from_metrics(tally.as_metrics(), data="sums", split="train", use="prompts") == tally


def test_a_split_without_a_usable_prompt_is_an_error(split: TokenizedSplit, tokenizer: tokenizers.Tokenizer) -> None:
    tally = prompts_tally(split, tokenizer, data="sums", split_name="train", longest=2)
    with pytest.raises(ValueError, match=r"tasks\.sums train.* Raise seq_len, or lower max_new_tokens"):
        tally.require_enough()


@given(
    usable=st.sets(st.integers(0, 200), min_size=1, max_size=40).map(sorted), seed=st.integers(0, 9), epoch=st.integers(0, 5)
)
def test_each_usable_item_comes_once_an_epoch(usable: list[int], seed: int, epoch: int) -> None:
    size = len(usable)
    places = np.arange(epoch * size, (epoch + 1) * size)
    assert sorted(items_at(places, np.array(usable), seed=seed, name="t")) == usable


def test_epochs_seeds_and_tasks_have_orders_of_their_own() -> None:
    usable, places = np.arange(50), np.arange(50)
    orders = {
        tuple(items_at(places + shift, usable, seed=seed, name=name))
        for shift, seed, name in ((0, 0, "t"), (50, 0, "t"), (0, 1, "t"), (0, 0, "other"))
    }
    assert len(orders) == 4
