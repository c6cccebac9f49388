"""Batches as a pure function of (recipe, step): the data that the update from state s reads.

A slot of a mixture of corpora reads block `position` of its corpus through a seeded permutation of the blocks, a new one
each epoch. A step of a task reads from an endless stream of items, with a new permutation each epoch. To reduce padding,
the stream is sorted by length in windows of 32 batches and cut into batches, which are then shuffled within the window. A
mixture of tasks reads the rows of its packing (`packed_rows.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from midstudy.data.batch import IGNORED, PAD_MULTIPLE, Batch
from midstudy.data.order import derive_key, permute
from midstudy.data.packed_rows import PackedRows
from midstudy.data.packing import Packed
from midstudy.data.slots import Slots, slots_at
from midstudy.data.tokenizer import END_OF_TEXT_ID
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.data import Corpus, Dataset, Task
from midstudy.recipe.packing import Packing
from midstudy.recipe.task_data import TaskData
from midstudy.recipe.task_mixture import TaskMixture

BUCKET_BATCHES = 32
"""Number of batches of a task that are sorted by length together."""


def pack_blocks(
    blocks: NDArray[np.int64],
    *,
    document_mask: bool,
    weights: NDArray[np.float32] | None = None,
    has_loss: NDArray[np.bool_] | None = None,
    end_of_text_id: int = END_OF_TEXT_ID,
) -> Batch:
    """Return a batch of blocks of packed documents, given as token ids of shape (num_sequences, length + 1).

    Args:
        document_mask: number the documents, each of which ends with its end-of-text token. A block usually starts in the
            middle of a document. The characters `<|endoftext|>` within a text are that token and end a document too.
        weights: shape (num_sequences,), the loss weight of each block's tokens; `None` means 1 for all.
        has_loss: of the shape of `blocks`, which tokens are targets; `None` means all.
        end_of_text_id: the token that ends every document.
    """
    input_ids, targets = np.ascontiguousarray(blocks[:, :-1]), np.ascontiguousarray(blocks[:, 1:])
    if has_loss is not None:
        targets[~has_loss[:, 1:]] = IGNORED
    documents = None
    if document_mask:
        documents = np.zeros(input_ids.shape, np.int32)
        np.cumsum(input_ids[:, :-1] == end_of_text_id, axis=1, dtype=np.int32, out=documents[:, 1:])
    return Batch(
        input_ids=input_ids,
        targets=targets,
        weights=None if weights is None else np.repeat(weights[:, None], input_ids.shape[1], axis=1),
        documents=documents,
    )


def pad_items(
    split: TokenizedSplit, items: NDArray[np.int64], *, seq_len: int, target_only: bool, prompt_weight: float = 0.0
) -> Batch:
    """Return the items as one right-padded batch, truncated to `seq_len` inputs; padding has no loss.

    With `target_only`, tokens of targets have loss weight 1 and tokens of prompts `prompt_weight`; 0 masks the prompts.
    """
    rows = [np.asarray(split.document(int(item))[: seq_len + 1], dtype=np.int64) for item in items]
    longest = max(len(row) for row in rows) - 1
    width = min(seq_len, -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE)
    input_ids = np.zeros((len(rows), width), np.int64)
    targets = np.full((len(rows), width), IGNORED, np.int64)
    weights = np.zeros((len(rows), width), np.float32) if target_only and prompt_weight else None
    for index, (row, item) in enumerate(zip(rows, items, strict=True)):
        input_ids[index, : len(row) - 1] = row[:-1]
        targets[index, : len(row) - 1] = row[1:]
        if target_only:
            is_prompt = ~split.targets_of(int(item))[1 : len(row)]
            if weights is None:
                targets[index, : len(row) - 1][is_prompt] = IGNORED
            else:
                weights[index, : len(row) - 1] = np.where(is_prompt, prompt_weight, 1.0)
    return Batch(input_ids=input_ids, targets=targets, weights=weights)


def usable_items(split: TokenizedSplit, *, seq_len: int, target_only: bool) -> NDArray[np.int64]:
    """Return the indices of items with a target token within `seq_len`; items whose prompt fills it are dropped."""
    lengths = np.minimum(np.diff(split.offsets), seq_len + 1)
    first_target = np.maximum(split.prompt_lengths, 1) if target_only and split.prompt_lengths is not None else 1
    return np.flatnonzero(lengths > first_target)


class _TaskOrder:
    """The endless stream of a task's items, sorted by length in runs of `BUCKET_BATCHES` batches."""

    def __init__(self, placed: Stretch, split: TokenizedSplit) -> None:
        phase, task = placed.phase, placed.phase.data
        assert isinstance(task, Task)
        self._batch, self._seed, self._name = phase.num_sequences, phase.seed, identify(task)
        self._items = usable_items(split, seq_len=phase.seq_len, target_only=phase.loss == "target_tokens")
        if not len(self._items):
            raise ValueError(
                f"tasks.{task.name}: no item has a target token within {phase.seq_len} tokens. "
                "Raise seq_len, or check the task's prompts."
            )
        self._lengths = np.diff(split.offsets)
        self._window_number, self._window = -1, np.empty((0, 0), np.int64)

    def items(self, number: int) -> NDArray[np.int64]:
        """Return the items of batch `number`, counted from the start of the phase."""
        window = number // BUCKET_BATCHES
        if window != self._window_number:
            size = BUCKET_BATCHES * self._batch
            stream = np.arange(window * size, (window + 1) * size)
            epochs, places = np.divmod(stream, len(self._items))
            chosen = np.empty(size, np.int64)
            for epoch in np.unique(epochs):
                in_epoch = epochs == epoch
                key = derive_key("items", self._seed, self._name, int(epoch))
                chosen[in_epoch] = self._items[permute(places[in_epoch], len(self._items), key)]
            by_length = chosen[np.argsort(self._lengths[chosen], kind="stable")]
            self._window_number, self._window = window, by_length.reshape(BUCKET_BATCHES, self._batch)
        place = np.array([number % BUCKET_BATCHES])
        row = permute(place, BUCKET_BATCHES, derive_key("batches", self._seed, self._name, window))
        return self._window[int(row[0])]


class Batches:
    """The batches of a curriculum.

    Args:
        splits: the tokenised train split of each corpus or task, by its id.
        packings: the rows of each mixture of tasks, by the id of its packing.
    """

    def __init__(
        self, curriculum: Curriculum, splits: Mapping[str, TokenizedSplit], packings: Mapping[str, Packed] | None = None
    ) -> None:
        self._packings = packings or {}
        self._rows: dict[int, PackedRows] = {}
        self._curriculum = curriculum
        self._splits = splits
        self._ids: dict[Dataset, str] = {}
        self._slots: tuple[Stretch, Slots, int] | None = None
        self._tasks: dict[int, _TaskOrder] = {}
        self.drawn: dict[Corpus, int] = {}
        """Number of sequences actually read of each corpus, for the check against the quota."""

    def __call__(self, step: int) -> Batch:
        """Return the batch that the update from state `step` to `step + 1` reads."""
        placed = self._placed_at(step)
        if isinstance(placed.phase.data, TaskMixture):
            is_masked = placed.phase.loss == "target_tokens"
            return self._packed_rows(placed).batch(step - placed.start_step, target_only=is_masked)
        if isinstance(placed.phase.data, Task):
            return self._task_batch(placed, step)
        return self._mixture_batch(placed, step)

    def _split_of(self, data: Dataset) -> tuple[str, TokenizedSplit]:
        if data not in self._ids:
            self._ids[data] = identify(data)
        return self._ids[data], self._splits[self._ids[data]]

    def text_at(self, step: int) -> str:
        """Name the documents that the update from state `step` reads, so that a user can look for bad text."""
        placed = self._placed_at(step)
        data = placed.phase.data
        if isinstance(data, TaskMixture):
            read = sorted(set(self._packed_rows(placed).items(step - placed.start_step)))
            by_part = {part: [(item, item) for other, item in read if other == part] for part, _ in read}
            return "; ".join(f"{data.tasks[part].name} train, items {_spans(items)}" for part, items in by_part.items())
        if isinstance(data, Task):
            items = self._items(placed, step)
            return f"{data.name} train, items {_spans([(int(item), int(item)) for item in items])}"
        parts = []
        for corpus, split, _, firsts in self._blocks(placed, step):
            spans = [(split.document_at(first), split.document_at(first + placed.phase.seq_len)) for first in firsts]
            parts.append(f"{corpus.name} train, documents {_spans(spans)}")
        return "; ".join(parts)

    def _placed_at(self, step: int) -> Stretch:
        return next(s for s in self._curriculum.stretches if s.start_step <= step < s.stop_step)

    def _blocks(
        self, placed: Stretch, step: int
    ) -> Iterator[tuple[Corpus, TokenizedSplit, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield each corpus of a mixture's batch with its split, the rows it fills and the first token of each row."""
        phase = placed.phase
        if self._slots is None or self._slots[0] is not placed:
            slots, first_slot = slots_at(self._curriculum, placed.stop_step - 1)
            at_start = first_slot - (placed.stop_step - 1 - placed.start_step) * phase.num_sequences
            self._slots = (placed, slots, at_start)
        _, slots, at_start = self._slots
        first_slot = at_start + (step - placed.start_step) * phase.num_sequences
        rows_of: dict[Corpus, list[int]] = {}
        positions = np.empty(phase.num_sequences, np.int64)
        for row, draw in enumerate(slots.draws(first_slot, phase.num_sequences)):
            rows_of.setdefault(draw.corpus, []).append(row)
            positions[row] = draw.position
        for corpus, rows in rows_of.items():
            name, split = self._split_of(corpus)
            num_blocks = split.num_blocks(phase.seq_len)
            if num_blocks == 0:
                raise ValueError(
                    f"corpora.{corpus.name}: fewer than {phase.seq_len + 1} tokens, too few for one block. Add text."
                )
            epochs, places = np.divmod(positions[rows], num_blocks)
            blocks = np.empty(len(rows), np.int64)
            for epoch in np.unique(epochs):
                in_epoch = epochs == epoch
                key = derive_key("blocks", phase.seed, name, int(epoch))
                blocks[in_epoch] = permute(places[in_epoch], num_blocks, key)
            yield corpus, split, np.array(rows), blocks * (phase.seq_len + 1)

    def _mixture_batch(self, placed: Stretch, step: int) -> Batch:
        phase = placed.phase
        size = phase.seq_len + 1
        blocks = np.empty((phase.num_sequences, size), np.int64)
        weights = np.empty(phase.num_sequences, np.float32)
        has_loss = np.ones(blocks.shape, bool) if phase.loss == "target_tokens" else None
        end_of_text_id = END_OF_TEXT_ID
        for corpus, split, rows, firsts in self._blocks(placed, step):
            self.drawn[corpus] = self.drawn.get(corpus, 0) + len(rows)
            weights[rows] = self._loss_weight(placed, corpus)
            end_of_text_id = split.end_of_text_id  # of the curriculum's tokenizer, as in every other corpus
            for row, first in zip(rows, firsts, strict=True):
                blocks[row] = split.tokens[first : first + size]
                if has_loss is not None and split.has_loss is not None:
                    has_loss[row] = split.has_loss[first : first + size]
        return pack_blocks(
            blocks,
            document_mask=phase.document_mask,
            weights=None if np.all(weights == 1) else weights,
            has_loss=has_loss,
            end_of_text_id=end_of_text_id,
        )

    def _loss_weight(self, placed: Stretch, corpus: Corpus) -> float:
        """Return the corpus's loss weight in this phase's mixture, or in the last mixture that had the corpus.

        A draw may settle the deficit of an earlier phase, whose mixture had the corpus. A mixture's weights are relative to
        its own heaviest corpus; the ratio to the base corpus carries over if both mixtures have the same base.
        """
        mixture = placed.phase.data
        assert not isinstance(mixture, TaskData)
        for earlier in reversed(self._curriculum.stretches):
            data = earlier.phase.data
            if earlier.start_step <= placed.start_step and not isinstance(data, TaskData) and corpus in data.corpora:
                weight = data.loss_weight(corpus)
                if mixture.base_corpus and mixture.base_corpus == data.base_corpus:
                    weight *= mixture.loss_weight(mixture.base_corpus) / data.loss_weight(mixture.base_corpus)
                return float(weight)
        raise AssertionError(f"no mixture up to step {placed.start_step} has {corpus.name}")

    def _packed_rows(self, placed: Stretch) -> PackedRows:
        rows = self._rows.get(placed.start_step)
        if rows is None:
            recipe = Packing.of(placed.phase, self._curriculum.start.tokenizer)
            splits = [self._split_of(task)[1] for task in recipe.mixture.tasks]
            rows = self._rows[placed.start_step] = PackedRows(recipe, self._packings[recipe.id], splits)
        return rows

    def _items(self, placed: Stretch, step: int) -> NDArray[np.int64]:
        """Return the items of a task's batch."""
        assert isinstance(placed.phase.data, Task)
        _, split = self._split_of(placed.phase.data)
        order = self._tasks.get(placed.start_step)
        if order is None:
            order = self._tasks[placed.start_step] = _TaskOrder(placed, split)
        return order.items(step - placed.start_step)

    def _task_batch(self, placed: Stretch, step: int) -> Batch:
        phase = placed.phase
        assert isinstance(phase.data, Task)
        return pad_items(
            self._split_of(phase.data)[1],
            self._items(placed, step),
            seq_len=phase.seq_len,
            target_only=phase.loss == "target_tokens",
            prompt_weight=phase.prompt_weight,
        )


def _spans(spans: list[tuple[int, int]]) -> str:
    """Return inclusive ranges in order, like `3–5, 9, 12–13`."""
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in sorted(set(spans)))
