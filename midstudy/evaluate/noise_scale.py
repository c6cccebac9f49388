"""The gradient noise scale of a state at fixed weights, from batches of two sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from midstudy.data.batch import Batch
from midstudy.data.batches import pack_blocks
from midstudy.data.order import derive_key, permute
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.sequences import sequences_tally
from midstudy.evaluate.subject import Subject
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.noise_scale import GRADIENT_NOISE_TRACE, GRADIENT_SQUARED_NORM, NOISE_SCALE, NoiseScale
from midstudy.train.noise_scale import estimate, partial_sums
from midstudy.train.optimizer import global_norm


def evaluate_noise_scale(evaluation: NoiseScale, subject: Subject) -> dict[str, Any]:
    """Return the estimates of `NoiseScale`, in the precision that the state was trained in.

    Raises:
        ValueError: the split has fewer blocks than the evaluation draws.
    """
    tally = sequences_tally(evaluation, subject.split)
    print(tally.sentence, flush=True)
    num_blocks, path = subject.split.num_blocks(evaluation.seq_len), f"noise_scale.{evaluation.data.name}"
    if num_blocks < evaluation.max_sequences:
        raise ValueError(
            f"{path}: expected {evaluation.max_sequences:,} blocks of {evaluation.seq_len + 1} tokens, num_batches times "
            f"large, got {num_blocks:,} in {evaluation.split}. Lower num_batches, large or seq_len, or add text."
        )
    with subject.model() as model:
        read = subject.until_stopped(_batches(evaluation, subject.split, num_blocks))
        trace, squared_norm = noise_estimates(model, read, small=evaluation.small).mean(axis=0).tolist()
    return {
        NOISE_SCALE.name: trace / squared_norm if squared_norm > 0 else math.nan,
        GRADIENT_NOISE_TRACE.name: trace,
        GRADIENT_SQUARED_NORM.name: squared_norm,
        "left_out": {evaluation.split: tally.as_metrics()},
    }


def noise_estimates(model: LanguageModel, batches: Iterable[Batch], *, small: int) -> NDArray[np.float64]:
    """Return the unbiased estimates of tr(Σ) and |G|² from each batch, of shape (num_batches, 2).

    Args:
        model: its gradients are discarded.
        batches: sequences of equally many targets, a multiple of `small` and more than one.
        small: sequences in a small batch.
    """
    parameters = [parameter.requires_grad_() for parameter in model.parameters()]
    device = model.device
    found = []
    for batch in batches:
        num_sequences = len(batch.input_ids)
        total = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
        norms = []
        for first in range(0, num_sequences, small):
            part = batch.rows(first, first + small)
            inputs, targets = (torch.from_numpy(ids).to(device) for ids in (part.input_ids, part.targets))
            model.zero_grad(set_to_none=True)
            model.scaled_loss(inputs, targets, scale=1 / batch.num_targets).backward()
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norms.append(global_norm(gradients))
            for summed, gradient in zip(total, gradients, strict=True):
                summed.add_(gradient)
        model.zero_grad(set_to_none=True)
        number = len(norms)
        sums = partial_sums(norms, [small] * number, [1 / number] * number)
        found.append(estimate(sums, global_norm(total)).cpu().numpy())
    return np.stack(found)


def _batches(evaluation: NoiseScale, split: TokenizedSplit, num_blocks: int) -> Iterator[Batch]:
    size = evaluation.seq_len + 1
    key = derive_key("noise_scale", evaluation.seed)
    drawn = permute(np.arange(evaluation.max_sequences), num_blocks, key).reshape(evaluation.num_batches, evaluation.large)
    for blocks in drawn:
        read = [np.asarray(split.tokens[int(block) * size : (int(block) + 1) * size], np.int64) for block in blocks]
        yield pack_blocks(np.stack(read), document_mask=False)
