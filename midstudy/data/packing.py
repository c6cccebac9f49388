"""Pack the items of a mixture of tasks into the rows of batches; which tokens fill a row is then looked up, not replayed.

Places count the tokens that are read, items one after another in the order of reading. A row is a range of places. Stream
packing puts each stream's items behind those of the stream before it; the other packings order items as they are placed.

Sources: karpathy/nanochat `scripts/mid_train.py` at 92c6654 (stream) and at 43c29dd (best fit).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from midstudy.data.task_order import epoch_order
from midstudy.recipe.packing import Packing

BUFFER_ITEMS = 100
"""Items from which best-fit packing chooses (nanochat's `buffer_size`)."""


@dataclass(frozen=True, eq=False)
class Packed:
    """The rows of a packing.

    `part` and `item` (int64, shape (n,)) are the items in the order of reading, repeats and epochs included. `starts`
    (int64, (n + 1,)) is the place of each item's first token. `rows` (int64, (num_rows, 2)) is the first place of each row
    and the place after its last one, at most `seq_len` + 1 further; batch s reads rows [s·B, (s + 1)·B).
    """

    part: NDArray[np.int64]
    item: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64]


def pack(recipe: Packing, lengths: Sequence[NDArray[np.int64]]) -> Packed:
    """Return the rows that the epochs of a packing fill. Rows past the last whole batch are included, except of a stream.

    Args:
        lengths: tokens of every item of each part's train split.
    """
    mixture, num_items = recipe.mixture, [len(one) for one in lengths]
    epochs = [epoch_order(mixture, num_items, seed=recipe.seed, epoch=epoch) for epoch in range(mixture.num_epochs)]
    sizes = [_lengths_of(part, item, lengths) for part, item in epochs]
    part, item = (np.concatenate(each) for each in zip(*epochs, strict=True))
    if mixture.packing == "stream":
        return _streams(recipe, part, item, np.concatenate(sizes))
    capacity = recipe.seq_len + 1
    placed, ends = [], [np.zeros(1, np.int64)]
    num_before = 0
    for size in sizes:
        kept = np.minimum(size, capacity)
        if mixture.packing == "rows":
            order, row_ends = np.arange(len(size)), np.arange(1, len(size) + 1)
        else:
            order, row_ends = best_fit(kept, capacity)
        placed.append(order + num_before)
        ends.append(row_ends + num_before)
        num_before += len(size)
    order = np.concatenate(placed)
    starts = _starts(np.minimum(np.concatenate(sizes), capacity)[order])
    row_ends = np.concatenate(ends)
    return Packed(part[order], item[order], starts, np.stack([starts[row_ends[:-1]], starts[row_ends[1:]]], axis=1))


def best_fit(sizes: NDArray[np.int64], capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order in which items are placed into rows of `capacity` tokens, and the number of items up to each row end.

    The next `BUFFER_ITEMS` items are candidates. The longest that fits into what is left of the row is placed, of equal ones
    the earliest; a row ends when none fits.

    Args:
        sizes: tokens of every item, at most `capacity`.
    """
    arriving = iter(range(len(sizes)))
    waiting: list[tuple[int, int]] = []  # (size, -number), ascending: the last that fits is the longest, then the earliest
    order: list[int] = []
    row_ends: list[int] = []
    left = capacity
    while True:
        for number in islice(arriving, BUFFER_ITEMS - len(waiting)):
            insort(waiting, (int(sizes[number]), -number))
        if not waiting:
            break
        found = bisect_right(waiting, (left, 0)) - 1
        if found < 0:
            row_ends.append(len(order))
            left = capacity
            continue
        size, negated = waiting.pop(found)
        order.append(-negated)
        left -= size
    if order:
        row_ends.append(len(order))
    return np.array(order, np.int64), np.array(row_ends, np.int64)


def _streams(recipe: Packing, part: NDArray[np.int64], item: NDArray[np.int64], sizes: NDArray[np.int64]) -> Packed:
    """Return the rows of stream packing. The epoch ends when the first stream has too few tokens for a further batch."""
    num_streams = recipe.mixture.streams
    order = np.concatenate([np.arange(stream, len(part), num_streams) for stream in range(num_streams)])
    starts = _starts(sizes[order])
    num_read = np.cumsum([0, *(len(range(stream, len(part), num_streams)) for stream in range(num_streams))])
    borders = starts[num_read]
    per_stream = recipe.num_sequences // num_streams
    taken = per_stream * recipe.seq_len + 1
    num_steps = int(np.diff(borders).min()) // taken
    first = (
        np.arange(num_steps)[:, None, None] * taken
        + borders[:-1][None, :, None]
        + np.arange(per_stream)[None, None, :] * recipe.seq_len
    ).reshape(-1)
    return Packed(part[order], item[order], starts, np.stack([first, first + recipe.seq_len + 1], axis=1))


def _lengths_of(part: NDArray[np.int64], item: NDArray[np.int64], lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    first = np.cumsum([0, *(len(one) for one in lengths)])
    return np.concatenate(lengths)[first[part] + item]


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
