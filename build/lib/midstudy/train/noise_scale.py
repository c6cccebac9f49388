"""Gradient noise scale, measured from the micro-batches of a step that is computed anyway.

B_simple = tr(Σ) / |G|² (McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, appendix A), where Σ is the
covariance of one sequence's gradient and G the true gradient: about the batch, in sequences, past which more data a step
stops paying. A mean gradient over b sequences has E|g|² = |G|² + tr(Σ) / b, so the squared norms at two batch sizes give
both unknowns. Both estimates are unbiased and noisy; numerator and denominator are averaged apart, and divided last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def partial_sums(gradient_norms: Sequence[Tensor], sizes: Sequence[int], shares: Sequence[float]) -> Tensor:
    """What one rank's micro-batches add to a step's estimate, to be summed over ranks; fp64 of shape (4,).

    Args:
        gradient_norms: norm of what each micro-batch contributes to the batch's gradient, scalars.
        sizes: sequences in each micro-batch, b_i.
        shares: share of each micro-batch in the batch's loss, w_i; its own mean gradient is contribution / w_i. One without
            targets has share 0 and is left out.
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
    """Estimates of tr(Σ) and |G|² of one step, fp64 of shape (2,); not a number where there was one micro-batch.

    For n micro-batches of b sequences, a batch of B = n b, these are McCandlish's (appendix A.1)
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
