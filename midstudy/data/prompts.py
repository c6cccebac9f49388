"""Prompts of rollouts: where the last reply of a conversation begins, and which prompt takes each place in the order."""

from __future__ import annotations

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.conversation import ASSISTANT_START
from midstudy.data.order import derive_key, permute
from midstudy.data.tokens import TokenizedSplit


def prompt_lengths(split: TokenizedSplit, tokenizer: tokenizers.Tokenizer) -> NDArray[np.int64]:
    """Return the number of tokens of every conversation up to its last reply, int64 of shape (num_documents,).

    The token that starts a reply belongs to the prompt; texts never contain it. `tokenizer` is that of the split.
    """
    starts = np.flatnonzero(split.tokens[:] == tokenizer.token_to_id(ASSISTANT_START))
    last = starts[np.searchsorted(starts, split.offsets[1:]) - 1]
    return last + 1 - split.offsets[:-1]


def prompts_with_room(split: TokenizedSplit, tokenizer: tokenizers.Tokenizer, *, longest: int) -> NDArray[np.int64]:
    """Return the indices of the conversations whose prompt has at most `longest` tokens."""
    return np.flatnonzero(prompt_lengths(split, tokenizer) <= longest)


def items_at(places: NDArray[np.int64], usable: NDArray[np.int64], *, seed: int, name: str) -> NDArray[np.int64]:
    """Return the items at these places of an endless stream of the usable ones, in a new permutation each epoch.

    Args:
        places: int64, from 0.
        usable: the items, at least one.
        seed: that of the phase, which keys the permutations together with `name`, the id of the prompts' task.
    """
    epochs, within = np.divmod(places, len(usable))
    items = np.empty(len(places), np.int64)
    for epoch in np.unique(epochs):
        in_epoch = epochs == epoch
        items[in_epoch] = usable[permute(within[in_epoch], len(usable), derive_key("prompts", seed, name, int(epoch)))]
    return items
