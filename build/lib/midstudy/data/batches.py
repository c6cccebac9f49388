"""Batches as a pure function of (recipe, step): what the update from state s reads.

A mixture's slot reads block `position` of its corpus through a seeded permutation of the blocks, a new one each epoch. A
task's step reads the items of an endless, per-epoch permuted stream; runs of 32 batches are sorted by length before they
are cut into batches, and the batches shuffled again, so that little is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from midstudy.data.batch import IGNORED, Batch
from midstudy.data.order import derive_key, permute
from midstudy.data.slots import Slots, slots_at
from midstudy.data.tokenizer import END_OF_TEXT_ID
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import Curriculum, Stretch
from midstudy.recipe.data import Corpus, Dataset, Task

BUCKET_BATCHES = 32
"""Batches of a task that are sorted by length together."""

PAD_MULTIPLE = 8
"""Padded lengths are multiples of this: fewer shapes, aligned rows."""


def pack_blocks(blocks: NDArray[np.int64], *, document_mask: bool, weights: NDArray[np.float32] | None = None) -> Batch:
    """Blocks of packed documents, (num_sequences, length + 1) token ids, as a batch.

    Args:
        document_mask: number the documents, each ended by its end-of-text token. A block begins inside one as a rule.
            Where a text holds the characters `<|endoftext|>`, they are that token and end a document too.
        weights: (num_sequences,), what the tokens of each block weigh in the loss; none is 1 for all.
    """
    input_ids, targets = np.ascontiguousarray(blocks[:, :-1]), np.ascontiguousarray(blocks[:, 1:])
    documents = None
    if document_mask:
        documents = np.zeros(input_ids.shape, np.int32)
        np.cumsum(input_ids[:, :-1] == END_OF_TEXT_ID, axis=1, dtype=np.int32, out=documents[:, 1:])
    return Batch(
        input_ids=input_ids,
        targets=targets,
        weights=None if weights is None else np.repeat(weights[:, None], input_ids.shape[1], axis=1),
        documents=documents,
    )


def pad_items(
    split: TokenizedSplit, items: NDArray[np.int64], *, seq_len: int, target_only: bool, prompt_weight: float = 0.0
) -> Batch:
    """The items as one right-padded batch, truncated at `seq_len` inputs; without loss on padding.

    With `target_only`, the tokens of prompts have `prompt_weight` in the loss and those of targets 1; 0 masks them.
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
            assert split.prompt_lengths is not None
            of_prompt = slice(0, max(0, int(split.prompt_lengths[item]) - 1))
            if weights is None:
                targets[index, of_prompt] = IGNORED
            else:
                weights[index, : len(row) - 1] = 1.0
                weights[index, of_prompt] = prompt_weight
    return Batch(input_ids=input_ids, targets=targets, weights=weights)


def usable_items(split: TokenizedSplit, *, seq_len: int, target_only: bool) -> NDArray[np.int64]:
    """Items with at least one target token inside `seq_len`; an item whose prompt alone fills it teaches nothing."""
    lengths = np.minimum(np.diff(split.offsets), seq_len + 1)
    first_target = np.maximum(split.prompt_lengths, 1) if target_only and split.prompt_lengths is not None else 1
    return np.flatnonzero(lengths > first_target)


class _TaskOrder:
    """The endless stream of a task's items, sorted by length in runs of `BUCKET_BATCHES` batches."""

    def __init__(self, stretch: Stretch, split: TokenizedSplit) -> None:
        phase, task = stretch.phase, stretch.phase.data
        assert isinstance(task, Task)
        self._batch, self._seed, self._name = phase.num_sequences, phase.seed, identify(task)
        self._items = usable_items(split, seq_len=phase.seq_len, target_only=phase.loss == "target_tokens")
        if not len(self._items):
            raise ValueError(
                f"tasks.{task.name}: no item has a target token within {phase.seq_len} tokens; "
                "raise seq_len or look at the task's prompts."
            )
        self._lengths = np.diff(split.offsets)
        self._window_number, self._window = -1, np.empty((0, 0), np.int64)

    def items(self, number: int) -> NDArray[np.int64]:
        """Items of batch `number`, counted from the phase's start."""
        window = number // BUCKET_BATCHES
        if window != self._window_number:
            size = BUCKET_BATCHES * self._batch
            stream = np.arange(window * size, (window + 1) * size)
            epochs, places = np.divmod(stream, len(self._items))
            chosen = np.empty(size, np.int64)
            for epoch in np.unique(epochs):
                here = epochs == epoch
                key = derive_key("items", self._seed, self._name, int(epoch))
                chosen[here] = self._items[permute(places[here], len(self._items), key)]
            by_length = chosen[np.argsort(self._lengths[chosen], kind="stable")]
            self._window_number, self._window = window, by_length.reshape(BUCKET_BATCHES, self._batch)
        place = np.array([number % BUCKET_BATCHES])
        row = permute(place, BUCKET_BATCHES, derive_key("batches", self._seed, self._name, window))
        return self._window[int(row[0])]


class Batches:
    """The batches of a curriculum; `splits` maps the identity of each corpus or task to its tokenised train split."""

    def __init__(self, curriculum: Curriculum, splits: Mapping[str, TokenizedSplit]) -> None:
        self._curriculum = curriculum
        self._splits = splits
        self._ids: dict[Dataset, str] = {}
        self._slots: tuple[Stretch, Slots, int] | None = None
        self._tasks: dict[int, _TaskOrder] = {}
        self.drawn: dict[Corpus, int] = {}
        """Sequences really read of each corpus, for the check against the quota."""

    def __call__(self, step: int) -> Batch:
        """What the update from state `step` to `step + 1` reads."""
        stretch = self._stretch_at(step)
        if isinstance(stretch.phase.data, Task):
            return self._task_batch(stretch, step)
        return self._mixture_batch(stretch, step)

    def _split_of(self, data: Dataset) -> tuple[str, TokenizedSplit]:
        if data not in self._ids:
            self._ids[data] = identify(data)
        return self._ids[data], self._splits[self._ids[data]]

    def text_at(self, step: int) -> str:
        """Names what the update from state `step` reads, document by document: for a person who looks for bad text."""
        stretch = self._stretch_at(step)
        data = stretch.phase.data
        if isinstance(data, Task):
            items = self._items(stretch, step)
            return f"{data.name} train, items {_spans([(int(item), int(item)) for item in items])}"
        told = []
        for corpus, split, _, firsts in self._blocks(stretch, step):
            spans = [(split.document_at(first), split.document_at(first + stretch.phase.seq_len)) for first in firsts]
            told.append(f"{corpus.name} train, documents {_spans(spans)}")
        return "; ".join(told)

    def _stretch_at(self, step: int) -> Stretch:
        return next(s for s in self._curriculum.stretches if s.start_step <= step < s.stop_step)

    def _blocks(
        self, stretch: Stretch, step: int
    ) -> Iterator[tuple[Corpus, TokenizedSplit, NDArray[np.int64], NDArray[np.int64]]]:
        """Of a mixture's batch, each corpus with its split, the rows it fills and the first token of each of them."""
        phase = stretch.phase
        if self._slots is None or self._slots[0] is not stretch:
            slots, first_slot = slots_at(self._curriculum, stretch.stop_step - 1)
            at_start = first_slot - (stretch.stop_step - 1 - stretch.start_step) * phase.num_sequences
            self._slots = (stretch, slots, at_start)
        _, slots, at_start = self._slots
        first_slot = at_start + (step - stretch.start_step) * phase.num_sequences
        rows_of: dict[Corpus, list[int]] = {}
        positions = np.empty(phase.num_sequences, np.int64)
        for row, draw in enumerate(slots.draws(first_slot, phase.num_sequences)):
            rows_of.setdefault(draw.corpus, []).append(row)
            positions[row] = draw.position
        for corpus, rows in rows_of.items():
            name, split = self._split_of(corpus)
            num_blocks = split.num_blocks(phase.seq_len)
            if num_blocks == 0:
                raise ValueError(f"corpora.{corpus.name}: fewer than {phase.seq_len + 1} tokens, not one block; add text.")
            epochs, places = np.divmod(positions[rows], num_blocks)
            blocks = np.empty(len(rows), np.int64)
            for epoch in np.unique(epochs):
                here = epochs == epoch
                blocks[here] = permute(places[here], num_blocks, derive_key("blocks", phase.seed, name, int(epoch)))
            yield corpus, split, np.array(rows), blocks * (phase.seq_len + 1)

    def _mixture_batch(self, stretch: Stretch, step: int) -> Batch:
        phase = stretch.phase
        size = phase.seq_len + 1
        blocks = np.empty((phase.num_sequences, size), np.int64)
        weights = np.empty(phase.num_sequences, np.float32)
        for corpus, split, rows, firsts in self._blocks(stretch, step):
            self.drawn[corpus] = self.drawn.get(corpus, 0) + len(rows)
            weights[rows] = self._loss_weight(stretch, corpus)
            for row, first in zip(rows, firsts, strict=True):
                blocks[row] = split.tokens[first : first + size]
        return pack_blocks(blocks, document_mask=phase.document_mask, weights=None if np.all(weights == 1) else weights)

    def _loss_weight(self, stretch: Stretch, corpus: Corpus) -> float:
        """Of the phase's mixture, or of the last one that had the corpus: a draw may pay an earlier phase's debt.

        A mixture's weights are relative to its own heaviest corpus. What carries over is the ratio to the base, where both
        mixtures have the same one.
        """
        now = stretch.phase.data
        assert not isinstance(now, Task)
        for one in reversed(self._curriculum.stretches):
            data = one.phase.data
            if one.start_step <= stretch.start_step and not isinstance(data, Task) and corpus in data.corpora:
                weight = data.loss_weight(corpus)
                if now.base_corpus and now.base_corpus == data.base_corpus:
                    weight *= now.loss_weight(now.base_corpus) / data.loss_weight(now.base_corpus)
                return float(weight)
        raise AssertionError(f"{corpus.name} is in no mixture up to step {stretch.start_step}")

    def _items(self, stretch: Stretch, step: int) -> NDArray[np.int64]:
        """The items of a task's batch."""
        assert isinstance(stretch.phase.data, Task)
        _, split = self._split_of(stretch.phase.data)
        order = self._tasks.get(stretch.start_step)
        if order is None:
            order = self._tasks[stretch.start_step] = _TaskOrder(stretch, split)
        return order.items(step - stretch.start_step)

    def _task_batch(self, stretch: Stretch, step: int) -> Batch:
        phase = stretch.phase
        assert isinstance(phase.data, Task)
        return pad_items(
            self._split_of(phase.data)[1],
            self._items(stretch, step),
            seq_len=phase.seq_len,
            target_only=phase.loss == "target_tokens",
            prompt_weight=phase.prompt_weight,
        )


def _spans(spans: list[tuple[int, int]]) -> str:
    """Inclusive ranges of numbers in order, `3–5, 9, 12–13`."""
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in sorted(set(spans)))
