"""Token-weighted mean loss: all nats over all target tokens, so that a long sequence counts for its tokens.

The paper's code (nightingal3/litgpt `finetune/full.py`) averages the means of batches instead, which depends on how items
fall into batches.

Bits per byte compare tokenizers: the nats of the target tokens that stand for text, over ln 2 and the bytes of that text.
Ends of text, other special tokens, masked prompts and padding count on neither side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midstudy.data.batch import IGNORED, Batch
from midstudy.data.batches import pack_blocks, pad_items, usable_items
from midstudy.data.tally import Tally, blocks_tally, items_tally
from midstudy.data.token_bytes import token_bytes
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.items import write_items
from midstudy.evaluate.subject import Subject
from midstudy.model.pythia import Pythia
from midstudy.recipe.data import Corpus
from midstudy.recipe.measure import BITS_PER_BYTE, LOSS_NATS, Evaluation

SEQUENCES_PER_BATCH = 32


@dataclass(frozen=True)
class Loss:
    """Mean loss in nats per target token, and how many of these there were."""

    loss_nats: float
    num_tokens: int


@torch.no_grad()
def mean_loss(model: Pythia, batches: Iterable[Batch], *, on_losses: Callable[[Batch, Tensor], None] | None = None) -> Loss:
    """Mean of the model's loss over every target token of the batches, added up in fp64.

    The model computes in the precision of its weights: as it was trained, when it comes from `load_model` or from a live
    `TrainingRun`.

    Args:
        on_losses: called with each batch and its losses in nats, fp32 (num_sequences, length) on the model's device, 0
            without a target.

    Raises:
        ValueError: no batch has a target token.
    """
    device = model.head.weight.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    num_tokens = 0
    for batch in batches:
        assert batch.weights is None, "what is measured weighs every target token the same"
        documents = None if batch.documents is None else torch.from_numpy(batch.documents).to(device)
        losses = model.token_losses(
            torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.targets).to(device), documents
        )
        total += losses.sum(dtype=torch.float64)
        num_tokens += batch.num_targets
        if on_losses is not None:
            on_losses(batch, losses)
    if num_tokens == 0:
        raise ValueError("no target token to evaluate on; look at the split, and at seq_len where prompts are masked.")
    return Loss(loss_nats=total.item() / num_tokens, num_tokens=num_tokens)


@dataclass(frozen=True)
class SequenceSums:
    """Sums over the target tokens of each sequence, in the order in which batches are added.

    Args:
        bytes_of: bytes of each token id, int64, 0 for a token that stands for no text; None to count no bytes.
    """

    bytes_of: NDArray[np.int64] | None
    _nats: list[Tensor] = field(default_factory=list)
    _text_nats: list[Tensor] = field(default_factory=list)
    _targets: list[NDArray[np.int64]] = field(default_factory=list)
    _bytes: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, batch: Batch, losses: Tensor) -> None:
        """Add a batch with its losses in nats, (num_sequences, length)."""
        is_target = batch.targets != IGNORED
        self._nats.append(losses.sum(dim=1, dtype=torch.float64))
        self._targets.append(is_target.sum(axis=1, dtype=np.int64))
        if self.bytes_of is not None:
            num_bytes = np.where(is_target, self.bytes_of[np.where(is_target, batch.targets, 0)], 0)
            is_text = torch.from_numpy(num_bytes > 0).to(losses.device)
            self._text_nats.append(losses.where(is_text, 0.0).sum(dim=1, dtype=torch.float64))
            self._bytes.append(num_bytes.sum(axis=1))

    @property
    def columns(self) -> dict[str, NDArray]:
        """By name, each (num_sequences,): `nats` and `target_tokens` of all targets, `text_nats` and `bytes` of text."""
        found: dict[str, NDArray] = {"nats": _joined(self._nats), "target_tokens": np.concatenate(self._targets)}
        if self.bytes_of is not None:
            found |= {"text_nats": _joined(self._text_nats), "bytes": np.concatenate(self._bytes)}
        return found


def _joined(sums: list[Tensor]) -> NDArray[np.float64]:
    return torch.cat(sums).cpu().numpy()


def evaluate_loss(evaluation: Evaluation, subject: Subject) -> dict[str, Any]:
    """The token-weighted loss, in nats, and the target tokens it is the mean of; bits per byte and items where asked for.

    Raises:
        ValueError: almost nothing of the split fits within the evaluation's `seq_len` (`Tally.require_enough`), or bits per
            byte are asked for and no target is text.
    """
    tally = loss_tally(evaluation, subject.split)
    print(tally.sentence, flush=True)
    tally.require_enough()
    counts_bytes = BITS_PER_BYTE.name in evaluation.metrics
    sums = SequenceSums(token_bytes(subject.tokenizer()) if counts_bytes else None)
    items = _items(evaluation, subject.split)
    with subject.model() as model:
        batches = subject.until_told(_batches(evaluation, subject.split, items))
        loss = mean_loss(model, batches, on_losses=sums.add if counts_bytes or evaluation.items else None)
    metrics: dict[str, Any] = {LOSS_NATS.name: loss.loss_nats, "target_tokens": loss.num_tokens}
    if counts_bytes:
        num_bytes = int(sums.columns["bytes"].sum())
        if num_bytes == 0:
            raise ValueError(f"{evaluation.data.name} {evaluation.split}: expected targets that are text, got none.")
        metrics[BITS_PER_BYTE.name] = float(sums.columns["text_nats"].sum()) / (math.log(2) * num_bytes)
        metrics["target_bytes"] = num_bytes
    if evaluation.items:
        write_items(subject.folder, items, sums.columns)
    return {**metrics, "left_out": {evaluation.split: tally.as_metrics()}}


def loss_tally(evaluation: Evaluation, split: TokenizedSplit) -> Tally:
    """What the evaluation uses of the split."""
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


def _items(evaluation: Evaluation, split: TokenizedSplit) -> NDArray[np.int64]:
    """The first blocks, or the first usable items sorted by length, which changes padding and nothing else."""
    if isinstance(evaluation.data, Corpus):
        return np.arange(min(evaluation.max_sequences, split.num_blocks(evaluation.seq_len)))
    target_only = evaluation.loss == "target_tokens"
    items = usable_items(split, seq_len=evaluation.seq_len, target_only=target_only)[: evaluation.max_sequences]
    return items[np.argsort(np.diff(split.offsets)[items], kind="stable")]


def _batches(evaluation: Evaluation, split: TokenizedSplit, items: NDArray[np.int64]) -> Iterator[Batch]:
    size = evaluation.seq_len + 1
    for first in range(0, len(items), SEQUENCES_PER_BATCH):
        chosen = items[first : first + SEQUENCES_PER_BATCH]
        if isinstance(evaluation.data, Corpus):
            tokens = split.tokens[int(chosen[0]) * size : (int(chosen[-1]) + 1) * size]
            blocks = np.asarray(tokens, dtype=np.int64).reshape(len(chosen), size)
            yield pack_blocks(blocks, document_mask=evaluation.document_mask)
        else:
            target_only = evaluation.loss == "target_tokens"
            yield pad_items(split, chosen, seq_len=evaluation.seq_len, target_only=target_only)
