"""Token-weighted mean loss: the sum of nats over all target tokens, divided by their number.

The paper's code (nightingal3/litgpt `finetune/full.py`) averages the means of batches instead, which depends on how items
are batched.

Bits per byte are comparable between tokenizers: the nats of the target tokens that are text, divided by ln 2 and by the
bytes of that text. End-of-text tokens, other special tokens, masked prompts and padding are excluded from both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midstudy.data.batch import IGNORED, Batch
from midstudy.data.token_bytes import token_bytes
from midstudy.evaluate.items import write_items
from midstudy.evaluate.sequences import batches, chosen_sequences, sequences_tally
from midstudy.evaluate.subject import Subject
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.measure import BITS_PER_BYTE, LOSS_NATS, Evaluation


@dataclass(frozen=True)
class Loss:
    """Mean loss in nats per target token, and the number of target tokens."""

    loss_nats: float
    num_tokens: int


@torch.no_grad()
def mean_loss(
    model: LanguageModel, batches: Iterable[Batch], *, on_losses: Callable[[Batch, Tensor], None] | None = None
) -> Loss:
    """Return the mean of the model's loss over all target tokens of the batches, accumulated in fp64.

    The model computes in the precision of its weights. A model from `borrow_weights` or from a `TrainingRun` computes as it
    was trained.

    Args:
        on_losses: called with each batch and its losses in nats, fp32 of shape (num_sequences, length) on the model's
            device, 0 at positions without a target.

    Raises:
        ValueError: no batch has a target token.
    """
    device = model.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    num_tokens = 0
    for batch in batches:
        assert batch.weights is None, "an evaluation weights all target tokens equally"
        documents = None if batch.documents is None else torch.from_numpy(batch.documents).to(device)
        losses = model.token_losses(
            torch.from_numpy(batch.input_ids).to(device), torch.from_numpy(batch.targets).to(device), documents
        )
        total += losses.sum(dtype=torch.float64)
        num_tokens += batch.num_targets
        if on_losses is not None:
            on_losses(batch, losses)
    if num_tokens == 0:
        raise ValueError("no target token to evaluate on. Check the split, and seq_len if prompts are masked.")
    return Loss(loss_nats=total.item() / num_tokens, num_tokens=num_tokens)


@dataclass(frozen=True)
class SequenceSums:
    """Sums over the target tokens of each sequence, in the order in which batches are added.

    Args:
        bytes_of: number of bytes of each token id, int64, 0 for tokens that are not text; `None` to skip counting bytes.
    """

    bytes_of: NDArray[np.int64] | None
    _nats: list[Tensor] = field(default_factory=list)
    _text_nats: list[Tensor] = field(default_factory=list)
    _targets: list[NDArray[np.int64]] = field(default_factory=list)
    _bytes: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, batch: Batch, losses: Tensor) -> None:
        """Add a batch with its losses in nats, of shape (num_sequences, length)."""
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
        """Arrays of shape (num_sequences,): `nats` and `target_tokens` of all targets, `text_nats` and `bytes` of text."""
        columns: dict[str, NDArray] = {"nats": _concatenated(self._nats), "target_tokens": np.concatenate(self._targets)}
        if self.bytes_of is not None:
            columns |= {"text_nats": _concatenated(self._text_nats), "bytes": np.concatenate(self._bytes)}
        return columns


class PositionSums:
    """Nats and target tokens in equal parts of the positions of sequences; a position counts the tokens before its target.

    Args:
        num_parts, part_tokens: the number of parts, and the positions in each.
    """

    def __init__(self, num_parts: int, part_tokens: int) -> None:
        self._part_tokens = part_tokens
        self._nats, self._targets = np.zeros(num_parts), np.zeros(num_parts, np.int64)

    def add(self, batch: Batch, losses: Tensor) -> None:
        """Add a batch with its losses in nats, of shape (num_sequences, length)."""
        starts = range(0, losses.shape[1], self._part_tokens)
        nats = torch.stack([losses[:, at : at + self._part_tokens].sum(dtype=torch.float64) for at in starts])
        self._nats[: len(starts)] += nats.cpu().numpy()
        self._targets[: len(starts)] += np.add.reduceat((batch.targets != IGNORED).sum(axis=0), list(starts))

    def means(self) -> list[float | None]:
        """Return the mean nats per target token of each part; `None` without a target."""
        return [
            float(nats) / int(number) if number else None for nats, number in zip(self._nats, self._targets, strict=True)
        ]


def _concatenated(sums: list[Tensor]) -> NDArray[np.float64]:
    return torch.cat(sums).cpu().numpy()


def evaluate_loss(evaluation: Evaluation, subject: Subject) -> dict[str, Any]:
    """Return the token-weighted loss in nats and its number of target tokens; if requested also bits per byte, the loss by
    position, and items.

    Raises:
        ValueError: almost nothing of the split fits within the evaluation's `seq_len` (`Tally.require_enough`), or bits per
            byte are requested and no target is text.
    """
    tally = sequences_tally(evaluation, subject.split)
    print(tally.sentence, flush=True)
    tally.require_enough()
    counts_bytes = BITS_PER_BYTE.name in evaluation.metrics
    sums = SequenceSums(token_bytes(subject.tokenizer()) if counts_bytes else None)
    by_position = evaluation.by_position
    positions = PositionSums(by_position, evaluation.seq_len // by_position) if by_position else None

    def on_losses(batch: Batch, losses: Tensor) -> None:
        if counts_bytes or evaluation.items:
            sums.add(batch, losses)
        if positions is not None:
            positions.add(batch, losses)

    items = chosen_sequences(evaluation, subject.split)
    with subject.model() as model:
        read = subject.until_stopped(batches(evaluation, subject.split, items))
        loss = mean_loss(model, read, on_losses=on_losses)
    metrics: dict[str, Any] = {LOSS_NATS.name: loss.loss_nats, "target_tokens": loss.num_tokens}
    if counts_bytes:
        num_bytes = int(sums.columns["bytes"].sum())
        if num_bytes == 0:
            raise ValueError(f"{evaluation.data.name} {evaluation.split}: expected targets that are text, got none.")
        metrics[BITS_PER_BYTE.name] = float(sums.columns["text_nats"].sum()) / (math.log(2) * num_bytes)
        metrics["target_bytes"] = num_bytes
    if positions is not None:
        parts = zip(evaluation.positions, positions.means(), strict=True)
        metrics |= {metric.name: mean for metric, mean in parts if mean is not None}
    if evaluation.items:
        write_items(subject.folder, items, sums.columns)
    return {**metrics, "left_out": {evaluation.split: tally.as_metrics()}}
