"""Count what every step of a packing reads of each task: for lengths of epochs, doses, and learning rates by items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midstudy.data.packing import Packed
from midstudy.recipe.packing import Packing


@dataclass(frozen=True, eq=False)
class PackedCounts:
    """What the first s steps of a packing read of each task, for s from 0 to `num_steps`.

    `tokens` and `items` have the shape (num_steps + 1, num_tasks), tasks in the order of the mixture. Tokens are inputs
    with a next token to predict, all but padding; an item counts from the step that reads its first token. If
    `is_estimated`, the numbers follow from the size of the text, and are floats.
    """

    names: tuple[str, ...]
    tokens: NDArray[np.int64] | NDArray[np.float64]
    items: NDArray[np.int64] | NDArray[np.float64]
    is_estimated: bool = False

    @property
    def num_steps(self) -> int:
        return len(self.items) - 1

    @property
    def progress(self) -> NDArray[np.float64]:
        """The share of the items of all steps that the first s steps read, float64 of shape (num_steps + 1,)."""
        read = self.items.sum(axis=1).astype(np.float64)
        return read / read[-1]

    @property
    def largest_gap(self) -> float:
        """The largest difference between the share of the items and the share of the steps, over all steps."""
        return float(np.abs(self.progress - np.linspace(0.0, 1.0, self.num_steps + 1)).max())

    def read(self, num_steps: int) -> tuple[list[int], list[int]]:
        """Return the tokens and the items of each task in the first `num_steps` steps; estimates go on past their end."""
        if self.is_estimated:
            scale = num_steps / self.num_steps
            tokens, items = ([round(float(number) * scale) for number in each[-1]] for each in (self.tokens, self.items))
            return tokens, items
        return self.tokens[num_steps].tolist(), self.items[num_steps].tolist()

    def step_shares(self, num_steps: int) -> NDArray[np.float64]:
        """Return the share of each task in the tokens of each of the first steps, of shape (num_steps, num_tasks)."""
        read = np.diff(self.tokens[: num_steps + 1].astype(np.float64), axis=0)
        if self.is_estimated:
            read = np.repeat(self.tokens[-1:].astype(np.float64), num_steps, axis=0)
        return read / np.maximum(1e-300, read.sum(axis=1, keepdims=True))

    def shares(self, start_step: int, stop_step: int) -> dict[str, float]:
        """Return the share of each task in the tokens of some steps of the packing."""
        start, stop = (0, self.num_steps) if self.is_estimated else (start_step, stop_step)
        read = (self.tokens[stop] - self.tokens[start]).astype(np.float64)
        return dict(zip(self.names, (read / max(1e-300, read.sum())).tolist(), strict=True))


def count(recipe: Packing, packed: Packed) -> PackedCounts:
    """Return what every step of a packing reads."""
    mixture, batch = recipe.mixture, recipe.num_sequences
    num_steps = len(packed.rows) // batch
    rows = packed.rows[: num_steps * batch]
    first_step = first_steps(recipe, packed)
    tokens = np.zeros((num_steps + 1, len(mixture.parts)), np.int64)
    items = np.zeros_like(tokens)
    for number in range(len(mixture.parts)):
        is_part = packed.part == number
        read = _tokens_before(packed, is_part, rows[:, 1] - 1) - _tokens_before(packed, is_part, rows[:, 0])
        tokens[1:, number] = np.cumsum(read.reshape(num_steps, batch).sum(axis=1))
        items[1:, number] = np.cumsum(np.bincount(first_step[is_part], minlength=num_steps + 1)[:num_steps])
    return PackedCounts(names=tuple(task.name for task in mixture.tasks), tokens=tokens, items=items)


def first_steps(recipe: Packing, packed: Packed) -> NDArray[np.int64]:
    """Return the step that reads the first token of each item, int64 of shape (n,); the number of steps if none does."""
    num_steps = len(packed.rows) // recipe.num_sequences
    order = np.argsort(packed.rows[:, 0], kind="stable")
    row = order[np.searchsorted(packed.rows[order, 0], packed.starts[:-1], side="right") - 1]
    is_read = packed.starts[:-1] < packed.rows[row, 1]
    return np.where(is_read, np.minimum(row // recipe.num_sequences, num_steps), num_steps)


def _tokens_before(packed: Packed, is_part: NDArray[np.bool_], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of tokens of a part's items before each place."""
    before = np.concatenate([[0], np.cumsum(np.where(is_part, np.diff(packed.starts), 0))])
    holding = np.minimum(np.searchsorted(packed.starts, places, side="right") - 1, len(is_part) - 1)
    return before[holding] + np.where(is_part[holding], places - packed.starts[holding], 0)
