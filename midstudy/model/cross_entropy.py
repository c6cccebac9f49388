"""Cross entropy of the output head in fp32, whatever the precision of the rest.

On a CPU, and elsewhere where memory counts more than time, the training loss fuses the head's product with the loss and
writes the logits' gradient where the logits were: one (num_tokens, vocab_size) array lives at a time instead of four, and
rows without a target are left out of the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""Target of a position that carries no loss."""


def _chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Rows of fp32 logits to work on at a time: 2 MiB on a CPU, to stay in its caches; 1 GiB elsewhere, for memory."""
    num_values = 2**19 if device.type == "cpu" else 2**28
    return max(8, num_values // vocab_size)


_SMALLEST = 1e-30
"""A probability below this is lost to underflow, or about to be."""


def _losses(values: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    """Minus the log of the targets' probabilities `chosen` (num_rows, 1), from the logits `values` where one underflowed."""
    if bool((chosen < _SMALLEST).any()):
        return F.cross_entropy(values, target[:, 0], reduction="none")
    return -chosen[:, 0].log()


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, token_weights: Tensor | None
    ) -> Tensor:
        logits = hidden @ weight.T
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        rows = _chunk_rows(len(weight), hidden.device)
        for first in range(0, len(hidden), rows):
            chunk = logits[first : first + rows]
            target = targets[first : first + rows, None]
            values = chunk.float()
            probabilities = torch.softmax(values, dim=-1)
            chosen = probabilities.gather(1, target)
            losses = _losses(values, target, chosen)
            factor: Tensor | float = scale
            if token_weights is not None:
                weights = token_weights[first : first + rows]
                losses, factor = losses * weights, scale * weights[:, None]
            total += losses.sum(dtype=torch.float64)
            chunk.copy_(probabilities.scatter_(1, target, chosen - 1.0).mul_(factor))
        ctx.save_for_backward(hidden, weight, logits)
        return (total * scale).float()

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden, weight, logits_gradient = ctx.saved_tensors
        (upstream,) = upstreams
        gradients = (logits_gradient @ weight, logits_gradient.T @ hidden)
        if upstream.item() != 1.0:  # a pass over memory that a loss taken as it is can do without
            gradients = (gradients[0].mul_(upstream), gradients[1].mul_(upstream))
        return *gradients, None, None, None


def scaled_head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    scale: float,
    token_weights: Tensor | None = None,
    chunked: bool = False,
) -> Tensor:
    """`scale` times the weighted sum of cross entropy in nats over the positions with a target, a differentiable scalar.

    With `scale` = 1 / (summed weights of the whole batch), micro-batches add up to the batch's mean loss and its gradient.

    Args:
        hidden: (num_tokens, width), in the precision of the computation.
        weight: (vocab_size, width), the head, in the same precision.
        targets: (num_tokens,) int64, `IGNORED` where there is none.
        scale: factor on loss and gradient.
        token_weights: (num_tokens,) fp32, what each target counts for; none is 1 for all. No gradient flows into them.
        chunked: save memory on a GPU too, at some cost in time (the host waits to see which positions have targets).
    """
    if hidden.device.type != "cpu" and not chunked:
        logits = (hidden @ weight.T).float()
        if token_weights is None:
            return scale * F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return scale * (token_weights * F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")).sum()
    kept = targets != IGNORED  # on other devices this data-dependent shape would make the host wait
    if not bool(kept.all()):
        hidden, targets = hidden[kept], targets[kept]
        token_weights = None if token_weights is None else token_weights[kept]
    loss: Tensor = _HeadCrossEntropy.apply(hidden, weight, targets, scale, token_weights)
    return loss


def head_token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in nats of each position, fp32 of shape (num_tokens,); 0 where there is no target."""
    losses = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
    places = (targets != IGNORED).nonzero()[:, 0]
    for chunk in places.split(_chunk_rows(len(weight), hidden.device)):
        logits = (hidden[chunk] @ weight.T).float()
        losses[chunk] = F.cross_entropy(logits, targets[chunk], reduction="none")
    return losses
