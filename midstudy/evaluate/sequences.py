"""The sequences of a split that an evaluation reads: which ones, what they leave out, and their batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midstudy.data.batch import Batch
from midstudy.data.batches import pack_blocks, pad_items, usable_items
from midstudy.data.tally import Tally, blocks_tally, items_tally
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe.data import Corpus
from midstudy.recipe.measure import AnyEvaluation

SEQUENCES_PER_BATCH = 32


def sequences_tally(evaluation: AnyEvaluation, split: TokenizedSplit) -> Tally:
    """Return what the evaluation uses of the split."""
    facts: dict[str, Any] = {
        "data": evaluation.data.name,
        "split_name": evaluation.split,
        "use": "evaluation",
        "seq_len": evaluation.seq_len,
        "max_sequences": evaluation.max_sequences,
    }
    if isinstance(evaluation.data, Corpus):
        return blocks_tally(split, **facts)
    return items_tally(split, target_only=evaluation.target_only, **facts)


def chosen_sequences(evaluation: AnyEvaluation, split: TokenizedSplit) -> NDArray[np.int64]:
    """Return the indices of the first blocks, or of the first usable items sorted by length, which only reduces padding."""
    if isinstance(evaluation.data, Corpus):
        return np.arange(min(evaluation.max_sequences, split.num_blocks(evaluation.seq_len)))
    usable = usable_items(split, seq_len=evaluation.seq_len, target_only=evaluation.target_only)
    items = usable[: evaluation.max_sequences]
    return items[np.argsort(np.diff(split.offsets)[items], kind="stable")]


def batches(evaluation: AnyEvaluation, split: TokenizedSplit, sequences: NDArray[np.int64]) -> Iterator[Batch]:
    """Yield the batches of these blocks or items, in their order."""
    size = evaluation.seq_len + 1
    for first in range(0, len(sequences), SEQUENCES_PER_BATCH):
        chosen = sequences[first : first + SEQUENCES_PER_BATCH]
        if isinstance(evaluation.data, Corpus):
            read = slice(int(chosen[0]) * size, (int(chosen[-1]) + 1) * size)
            blocks = np.asarray(split.tokens[read], dtype=np.int64).reshape(len(chosen), size)
            has_loss = None
            if evaluation.target_only and split.has_loss is not None:
                has_loss = split.has_loss[read].astype(bool).reshape(blocks.shape)
            yield pack_blocks(
                blocks,
                document_mask=evaluation.document_mask,
                has_loss=has_loss,
                end_of_text_id=split.end_of_text_id,
            )
        else:
            yield pad_items(split, chosen, seq_len=evaluation.seq_len, target_only=evaluation.target_only)
