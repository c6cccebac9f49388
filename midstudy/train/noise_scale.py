"""Gradient noise scale, estimated from the micro-batches of a training step without extra computation.

B_simple = tr(Σ) / |G|² (McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, appendix A), where Σ is the
covariance of one sequence's gradient and G the true gradient. It is roughly the batch size, in sequences, beyond which
larger batches bring diminishing returns. A mean gradient over b sequences has E|g|² = |G|² + tr(Σ) / b, so the squared norms
at two batch sizes determine both unknowns. Both estimates are unbiased and noisy; numerator and denominator are averaged
separately, then divided.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def partial_sums(gradient_norms: Sequence[Tensor], sizes: Sequence[int], shares: Sequence[float]) -> Tensor:
    """Return the contribution of one rank's micro-batches to a step's estimate, to be summed over ranks; fp64, shape (4,).

    Args:
        gradient_norms: norm of each micro-batch's contribution to the batch's gradient, scalars.
        sizes: number of sequences in each micro-batch, b_i.
        shares: share of each micro-batch in the batch's loss, w_i; its own mean gradient is contribution / w_i. A
            micro-batch without targets has share 0 and is left out.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=gradient_norms[0].device)
    for norm, size, share in zip(gradient_norms, sizes, shares, strict=True):
        if share > 0:
            sums[0] += (norm.double() / share) ** 2
            sums[1] += 1.0
            sums[2] += 1.0 / size
            sums[3] += share**2 / size
    return sums


def estimate(sums: Tensor, batch_norm: Tensor) -> Tensor:
    """Return estimates of tr(Σ) and |G|² of one step, fp64 of shape (2,); NaN for a single micro-batch.

    For n micro-batches of b sequences and B = n b, these are McCandlish et al.'s (appendix A.1)
    |G|² = (B |G_B|² − b |G_b|²) / (B − b) and tr(Σ) = (|G_b|² − |G_B|²) / (1/b − 1/B).

    Args:
        sums: `partial_sums` over all micro-batches of all ranks.
        batch_norm: norm of the whole batch's gradient before clipping, a scalar.
    """
    number = sums[1]
    small, inverse_small = sums[0] / number, sums[2] / number
    large, inverse_large = batch_norm.double() ** 2, sums[3]
    trace = (small - large) / (inverse_small - inverse_large)
    return torch.stack((trace, large - inverse_large * trace))
