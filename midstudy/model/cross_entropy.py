"""Cross entropy of the output head, in fp32 for any precision of the model.

On a CPU, the training loss fuses the head's product with the loss and overwrites the logits with their gradient. Only one
(num_tokens, vocab_size) array is in memory instead of four, and rows without a target skip the head. For a narrow model in
fp32, only a few rows of that array are in memory at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from midstudy.model.narrow_block import is_narrow

IGNORED = -100
"""Target of a position without a loss."""


def _chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Return how many rows of fp32 logits to process at a time: 2 MiB on a CPU, to fit its caches; 1 GiB elsewhere."""
    num_values = 2**19 if device.type == "cpu" else 2**28
    return max(8, num_values // vocab_size)


_ROWS = 256
"""Rows of a narrow model's head to process together, per thread."""

_SMALLEST = 1e-30
"""Smallest probability that is safe from underflow."""


def _turn_into_gradient(logits: Tensor, hidden: Tensor, weight: Tensor, target: Tensor, factor: Tensor | float) -> Tensor:
    """Overwrite the logits with `factor` times the gradient of the rows' losses.

    Args:
        logits: (num_rows, vocab_size), the product of `hidden` and the head's `weight`.
        target: (num_rows, 1).
        factor: a number, or (num_rows, 1).

    Returns:
        The losses, fp32 (num_rows,).
    """
    values = logits.float()  # no copy if the logits are fp32
    probabilities = torch.softmax(values, dim=-1, out=values)
    chosen = probabilities.gather(1, target)
    if bool((chosen < _SMALLEST).any()):
        losses = F.cross_entropy((hidden @ weight.T).float(), target[:, 0], reduction="none")
    else:
        losses = -chosen[:, 0].log()
    probabilities.scatter_(1, target, chosen - 1.0)
    if not (isinstance(factor, float) and factor == 1.0):
        probabilities.mul_(factor)
    if values is not logits:
        logits.copy_(probabilities)
    return losses


class _HeadCrossEntropy(torch.autograd.Function):
    """Compute all logits in one product, then their gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, token_weights: Tensor | None
    ) -> Tensor:
        logits = hidden @ weight.T
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        num_rows = _chunk_rows(len(weight), hidden.device)
        for first in range(0, len(hidden), num_rows):
            rows = slice(first, first + num_rows)
            weights = None if token_weights is None else token_weights[rows]
            factor = scale if weights is None else scale * weights[:, None]
            losses = _turn_into_gradient(logits[rows], hidden[rows], weight, targets[rows, None], factor)
            total += (losses if weights is None else losses * weights).sum(dtype=torch.float64)
        ctx.save_for_backward(hidden, weight, logits)
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, logits_gradient = ctx.saved_tensors
        gradients = _times(upstreams[0], logits_gradient @ weight, logits_gradient.T @ hidden)
        return *gradients, None, None, None


class _NarrowHeadCrossEntropy(torch.autograd.Function):
    """Compute logits and gradients for a few rows at a time, so that the logits stay in a core's cache."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, token_weights: Tensor | None
    ) -> Tensor:
        num_rows = _ROWS * torch.get_num_threads()
        logits = hidden.new_empty(min(num_rows, len(hidden)), len(weight))
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float64)
        for first in range(0, len(hidden), num_rows):
            rows = slice(first, first + num_rows)
            some = hidden[rows]
            part = torch.mm(some, weight.T, out=logits[: len(some)])
            weights = None if token_weights is None else token_weights[rows]
            factor = 1.0 if weights is None else weights[:, None]
            losses = _turn_into_gradient(part, some, weight, targets[rows, None], factor)
            total += (losses if weights is None else losses * weights).sum(dtype=torch.float64)
            torch.mm(part, weight, out=hidden_gradient[rows])
            weight_gradient.addmm_(part.T, some)
        ctx.save_for_backward(hidden_gradient.mul_(scale), weight_gradient.mul_(scale))
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        gradients = _times(upstreams[0], hidden_gradient, weight_gradient)
        return *gradients, None, None, None


def _times(factor: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply both tensors by a scalar; skip the pass over memory if it is 1."""
    return (first, second) if factor.item() == 1.0 else (first * factor, second * factor)


def scaled_head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    scale: float,
    token_weights: Tensor | None = None,
) -> Tensor:
    """Return `scale` times the weighted sum of cross entropy in nats over positions with a target, differentiable.

    With `scale` = 1 / (summed weights of the whole batch), micro-batches add up to the batch's mean loss and its gradient.

    Args:
        hidden: (num_tokens, width), in the precision of the computation.
        weight: (vocab_size, width), the head, in the same precision.
        targets: (num_tokens,) int64, `IGNORED` for positions without a target.
        scale: factor on loss and gradient.
        token_weights: (num_tokens,) fp32, the weight of each target; `None` is 1 for all. They get no gradient.
    """
    if hidden.device.type != "cpu":
        logits = (hidden @ weight.T).float()
        if token_weights is None:
            return scale * F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return scale * (token_weights * F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")).sum()
    kept = targets != IGNORED  # on other devices this data-dependent shape would make the host wait
    if not bool(kept.all()):
        hidden, targets = hidden[kept], targets[kept]
        token_weights = None if token_weights is None else token_weights[kept]
    function = _NarrowHeadCrossEntropy if is_narrow(hidden) else _HeadCrossEntropy
    loss: Tensor = function.apply(hidden, weight, targets, scale, token_weights)
    return loss


def head_token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy in nats of each position, fp32 of shape (num_tokens,); 0 for positions without a target."""
    losses = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
    places = (targets != IGNORED).nonzero()[:, 0]
    for chunk in places.split(_chunk_rows(len(weight), hidden.device)):
        logits = (hidden[chunk] @ weight.T).float()
        losses[chunk] = F.cross_entropy(logits, targets[chunk], reduction="none")
    return losses
