"""What packings read: exact numbers where the store has the packing, else estimates from the size of the text."""

from __future__ import annotations

from collections.abc import Callable
from math import log2

import numpy as np

from midstudy.data.packed_counts import PackedCounts
from midstudy.data.packed_rows import read_counts
from midstudy.data.size import train_size
from midstudy.recipe.packing import Packing
from midstudy.store.store import Store

CountsOf = Callable[[Packing], PackedCounts]


def counts_in(store: Store | None) -> CountsOf:
    """Return the function that gives the counts of a packing: those in the store, else estimates. Each is read once.

    The function raises `StoreError` if a published packing is damaged.
    """
    known: dict[str, PackedCounts] = {}

    def counts_of(packing: Packing) -> PackedCounts:
        if packing.id not in known:
            if store is not None and store.has(packing.id):
                store.require_unchanged(packing.id)
                known[packing.id] = read_counts(store.published_folder(packing.id), packing.mixture)
            else:
                return estimated_counts(packing)
        return known[packing.id]

    return counts_of


def estimated_counts(packing: Packing) -> PackedCounts:
    """Estimate what a packing reads from the bytes of its tasks' train text; every step reads the same.

    A token is assumed to have log2(vocabulary) / 4 bytes, which is 2.3 for 512 ids and 3.9 for 50,304.
    """
    mixture = packing.mixture
    bytes_per_token = log2(packing.tokenizer.vocab_size) / 4
    tokens, items = [], []
    for part in mixture.parts:
        num_bytes, num_items = train_size(part.task)
        times = part.repeats * mixture.num_epochs
        items.append(max(1.0, num_items) * times)
        tokens.append(max(1.0, num_bytes / bytes_per_token) * times)
    rows = sum(items) if mixture.packing == "rows" else sum(tokens) / (packing.seq_len + 1)
    num_steps = max(1, int(rows / packing.num_sequences))
    share = np.linspace(0.0, 1.0, num_steps + 1)[:, None]
    names = tuple(task.name for task in mixture.tasks)
    return PackedCounts(names, tokens=share * np.array(tokens), items=share * np.array(items), is_estimated=True)
