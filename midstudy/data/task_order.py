"""The order in which the epochs of a mixture of tasks read items: exactly `repeats` times each item in every epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from midstudy.data.order import derive_key, permute
from midstudy.recipe.canonical import identify
from midstudy.recipe.task_mixture import TaskMixture


def epoch_order(
    mixture: TaskMixture, num_items: Sequence[int], *, seed: int, epoch: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the part and the item within the part of each position of an epoch, int64 of shape (Σ repeats × items,).

    Repeats of an item are positions of their own. Shuffled mixtures with equal numbers of items have one order, whatever
    their packing.

    Args:
        num_items: items of each part's train split.
        epoch: number of the epoch, from 0.
    """
    sizes = np.array([part.repeats * number for part, number in zip(mixture.parts, num_items, strict=True)], np.int64)
    ends = np.cumsum(sizes)
    if mixture.order == "shuffled":
        positions = _permuted(int(ends[-1]), derive_key("mixture", seed, epoch))
    else:
        keys = [derive_key("part", seed, identify(task), epoch) for task in mixture.tasks]
        of_parts = zip(sizes, ends, keys, strict=True)
        positions = np.concatenate([int(end - size) + _permuted(int(size), key) for size, end, key in of_parts])
    part = np.searchsorted(ends, positions, side="right")
    item = (positions - (ends - sizes)[part]) % np.array(num_items, np.int64)[part]
    return part, item


def _permuted(size: int, key: int) -> NDArray[np.int64]:
    return permute(np.arange(size), size, key) if size else np.empty(0, np.int64)
