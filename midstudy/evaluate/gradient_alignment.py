"""Gradients of the loss on blocks of documents at a state: what a step on this text would change, for comparing corpora.

arXiv 2510.14865, github.com/nightingal3/midtraining `util_scripts/dataset_similarity_gradient.py`: the cosine between the
mean gradients of two corpora. The authors take the mean over examples, and by default embeddings, head and LayerNorms; here
it is the mean over tokens, as in training, and all parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from midstudy.data.batch import Batch
from midstudy.model.language_model import LanguageModel


def block_gradients(model: LanguageModel, blocks: Sequence[Sequence[Batch]]) -> NDArray[np.float32]:
    """Return the gradient of the mean loss over the tokens of each block, in nats per token.

    Args:
        model: a model that computes in fp32; its gradients are discarded.
        blocks: the batches of each block.

    Returns:
        float32 of shape (blocks, parameters), with the parameters in the order of `model.parameters()`. Memory: 4 bytes for
        each parameter and block.
    """
    parameters = [parameter.requires_grad_() for parameter in model.parameters()]
    device = model.device
    found = np.empty((len(blocks), sum(parameter.numel() for parameter in parameters)), np.float32)
    for row, batches in zip(found, blocks, strict=True):
        scale = 1 / sum(batch.num_targets for batch in batches)
        model.zero_grad(set_to_none=True)
        for batch in batches:
            inputs, targets = (torch.from_numpy(ids).to(device) for ids in (batch.input_ids, batch.targets))
            model.scaled_loss(inputs, targets, scale=scale).backward()
        torch.cat([_flat_gradient(parameter) for parameter in parameters], out=torch.from_numpy(row))
    model.zero_grad(set_to_none=True)
    return found


def _flat_gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.flatten().cpu()
