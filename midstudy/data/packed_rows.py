"""Read the batches of a published packing: memory-mapped rows, looked up in the token files of its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midstudy.data.batch import IGNORED, PAD_MULTIPLE, Batch
from midstudy.data.packed_counts import PackedCounts
from midstudy.data.packing import Packed
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe.packing import Packing
from midstudy.recipe.task_mixture import TaskMixture

_ARRAYS = ("part", "item", "starts", "rows", "tokens_read", "items_read")
_DTYPE = np.dtype("<i8")


def save_packed(folder: Path, packed: Packed, counts: PackedCounts) -> None:
    """Write the arrays of a packing, each as little-endian 64-bit integers in a file of its own."""
    arrays = (packed.part, packed.item, packed.starts, packed.rows, counts.tokens, counts.items)
    for name, array in zip(_ARRAYS, arrays, strict=True):
        array.astype(_DTYPE).tofile(_file(folder, name))


def read_packed(folder: Path) -> Packed:
    """Open the rows that a packing stage published.

    Raises:
        OSError, ValueError: a file is missing, empty or cut.
    """
    part, item, starts, rows = (_map(folder, name) for name in _ARRAYS[:4])
    return Packed(part, item, starts, rows.reshape(-1, 2))


def read_counts(folder: Path, mixture: TaskMixture) -> PackedCounts:
    """Open the counts that a packing stage published.

    Raises:
        OSError, ValueError: a file is missing, empty or cut.
    """
    tokens, items = (_map(folder, name).reshape(-1, len(mixture.tasks)) for name in _ARRAYS[4:])
    return PackedCounts(names=tuple(task.name for task in mixture.tasks), tokens=tokens, items=items)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.bin"


def _map(folder: Path, name: str) -> NDArray[np.int64]:
    # A plain array over the map: slices of numpy's memmap class are several times slower.
    return np.asarray(np.memmap(_file(folder, name), dtype=_DTYPE, mode="r")).view(np.ndarray)


class PackedRows:
    """The batches of a packing.

    Args:
        splits: the train split of each task, in the order of the mixture.
    """

    def __init__(self, recipe: Packing, packed: Packed, splits: Sequence[TokenizedSplit]) -> None:
        self._recipe, self._packed, self._splits = recipe, packed, splits
        self.num_steps = len(packed.rows) // recipe.num_sequences

    def batch(self, step: int, *, target_only: bool) -> Batch:
        """Return batch `step` of the packing, from 0; padding has no loss and, with `target_only`, prompts have none.

        Rows are padded on the right with the end of text, to the longest of the batch.
        """
        rows = [self._row(number, target_only) for number in self._numbers(step)]
        longest = max(len(tokens) for tokens, _ in rows) - 1
        width = min(self._recipe.seq_len, -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE)
        input_ids = np.full((len(rows), width), self._splits[0].end_of_text_id, np.int64)
        targets = np.full((len(rows), width), IGNORED, np.int64)
        for index, (tokens, has_loss) in enumerate(rows):
            input_ids[index, : len(tokens)] = tokens[:width]
            targets[index, : len(tokens) - 1] = np.where(has_loss[1:], tokens[1:], IGNORED)
        return Batch(input_ids=input_ids, targets=targets)

    def items(self, step: int) -> Iterator[tuple[int, int]]:
        """Yield the part and the item of every piece of a batch."""
        for number in self._numbers(step):
            yield from ((part, item) for part, item, _, _ in self._pieces(number))

    def _numbers(self, step: int) -> range:
        if not 0 <= step < self.num_steps:
            raise ValueError(
                f"packing {self._recipe.id} of {self._recipe.mixture.name}: expected a step below {self.num_steps:,}, the "
                f"length of {self._recipe.num_epochs} epochs, got step {step:,}. Take the number of steps from steps_of."
            )
        return range(step * self._recipe.num_sequences, (step + 1) * self._recipe.num_sequences)

    def _row(self, number: int, target_only: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the tokens of a row, and which of them may have a loss."""
        tokens, has_loss = [], []
        for part, item, begin, end in self._pieces(number):
            split = self._splits[part]
            tokens.append(split.document(item)[begin:end].astype(np.int64))
            has_loss.append(split.targets_of(item)[begin:end] if target_only else np.ones(end - begin, bool))
        return np.concatenate(tokens), np.concatenate(has_loss)

    def _pieces(self, number: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the pieces of a row: part, item, and the range of the item's tokens."""
        starts, (place, stop) = self._packed.starts, self._packed.rows[number].tolist()
        index = int(np.searchsorted(starts, place, side="right")) - 1
        while place < stop:
            first, end = int(starts[index]), min(int(starts[index + 1]), stop)
            yield int(self._packed.part[index]), int(self._packed.item[index]), place - first, end - first
            place, index = end, index + 1
