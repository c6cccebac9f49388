"""Token-weighted mean loss: all nats over all target tokens, so that a long sequence counts for its tokens.

The paper's code (nightingal3/litgpt `finetune/full.py`) averages the means of batches instead, which depends on how items
fall into batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from midstudy.data.batch import Batch
from midstudy.model.pythia import Pythia


@dataclass(frozen=True)
class Loss:
    """Mean loss in nats per target token, and how many of these there were."""

    loss_nats: float
    num_tokens: int


@torch.no_grad()
def mean_loss(model: Pythia, batches: Iterable[Batch]) -> Loss:
    """Mean of the model's loss over every target token of the batches, added up in fp64.

    The model computes in the precision of its weights: as it was trained, when it comes from `load_model` or from a live
    `TrainingRun`.

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
    if num_tokens == 0:
        raise ValueError("no target token to evaluate on; look at the split, and at seq_len where prompts are masked.")
    return Loss(loss_nats=total.item() / num_tokens, num_tokens=num_tokens)
