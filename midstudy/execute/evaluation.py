"""The evaluation stage: the loss of one state on one split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from midstudy.data.batch import Batch
from midstudy.data.batches import pack_blocks, pad_items, usable_items
from midstudy.data.tally import Tally, blocks_tally, items_tally
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.loss import mean_loss
from midstudy.evaluate.model_cache import lent_model
from midstudy.execute.stopped import StoppedError, until_told
from midstudy.model.compiled import ToldToStopError, left_when_told
from midstudy.recipe.data import Corpus
from midstudy.recipe.measure import Evaluation
from midstudy.train.placement import Placement

SEQUENCES_PER_BATCH = 32


def evaluate_state(
    evaluation: Evaluation,
    *,
    checkpoint: Path,
    split: TokenizedSplit,
    should_stop: Callable[[], bool] = lambda: False,
    placement: Placement | None = None,
) -> dict[str, Any]:
    """The token-weighted loss, in nats, and the target tokens it is the mean of.

    Raises:
        ValueError: almost nothing of the split fits within the evaluation's `seq_len` (`Tally.require_enough`).
        StoppedError: `should_stop`, asked before every batch, said so.
    """
    placement = placement or Placement()
    tally = _tally(evaluation, split)
    print(tally.sentence, flush=True)
    tally.require_enough()
    with lent_model(checkpoint, device=placement.device, compiled=placement.compiled) as model:
        batches = until_told(
            _batches(evaluation, split), should_stop, doing="evaluating", then="evaluates from the beginning"
        )
        try:
            with left_when_told(should_stop):
                loss = mean_loss(model, batches)
        except ToldToStopError:
            raise StoppedError("stopped while a model was compiled; the next attempt evaluates from the beginning") from None
    return {
        "loss_nats": loss.loss_nats,
        "target_tokens": loss.num_tokens,
        "left_out": {evaluation.split: tally.as_metrics()},
    }


def _tally(evaluation: Evaluation, split: TokenizedSplit) -> Tally:
    facts: dict[str, Any] = {
        "data": evaluation.data.name,
        "split_name": evaluation.split,
        "use": "evaluation",
        "seq_len": evaluation.seq_len,
        "max_sequences": evaluation.max_sequences,
    }
    if isinstance(evaluation.data, Corpus):
        return blocks_tally(split, **facts)
    return items_tally(split, target_only=evaluation.loss == "target_tokens", **facts)


def _batches(evaluation: Evaluation, split: TokenizedSplit) -> Iterator[Batch]:
    """The first sequences of the split; items are sorted by length, which changes padding and nothing else."""
    if isinstance(evaluation.data, Corpus):
        size = evaluation.seq_len + 1
        num_blocks = min(evaluation.max_sequences, split.num_blocks(evaluation.seq_len))
        blocks = np.asarray(split.tokens[: num_blocks * size], dtype=np.int64).reshape(num_blocks, size)
        for first in range(0, num_blocks, SEQUENCES_PER_BATCH):
            yield pack_blocks(blocks[first : first + SEQUENCES_PER_BATCH], document_mask=evaluation.document_mask)
        return
    target_only = evaluation.loss == "target_tokens"
    items = usable_items(split, seq_len=evaluation.seq_len, target_only=target_only)[: evaluation.max_sequences]
    items = items[np.argsort(np.diff(split.offsets)[items], kind="stable")]
    for first in range(0, len(items), SEQUENCES_PER_BATCH):
        chosen = items[first : first + SEQUENCES_PER_BATCH]
        yield pad_items(split, chosen, seq_len=evaluation.seq_len, target_only=target_only)
