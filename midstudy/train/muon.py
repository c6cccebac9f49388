"""Muon: momentum of a matrix, orthogonalised by Newton-Schulz iterations, in place of Adam's two moments.

An update of a weight W of m × n with gradient G and momentum buffer B, at learning rate η, decay λ and momentum μ:

    B ← μ B + (1 - μ) G,   U = orthogonalised(μ B + (1 - μ) G),   W ← (1 - η λ) W - η √max(1, m / n) U

Query, key and value are three matrices, as in nanochat, although the model stores them as one. The iterations are computed
in the dtype of the forward pass: fp32, or bf16 for both bf16 precisions, as in the source.

Source: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks"; karpathy/nanochat `nanochat/muon.py`,
whose warmup of the momentum is in `scripts/mid_train.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from midstudy.model.matrices import matrices_of, weight_of
from midstudy.recipe.optimizer import MUON_ITERATIONS, Group
from midstudy.recipe.shape import AnyShape

MOMENT = "momentum"
"""Name of the only moment."""

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of X, (X Xᵀ) X and (X Xᵀ)² X. They maximise the slope at 0; singular values end between about 0.7 and 1.2, not at 1."""

_LEAST_NORM = 1e-7


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return nearly the orthogonal factor U Vᵀ of each matrix U S Vᵀ; a matrix of zeros stays zero.

    Args:
        matrices: (number, rows, columns), in the dtype of the computation.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + _LEAST_NORM)
    first, third, fifth = _COEFFICIENTS
    for _ in range(MUON_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth)
        x = torch.baddbmm(x, polynomial, x, beta=first)
    return x.mT if is_tall else x


class MuonGroup:
    """Matrices trained with Muon, with a momentum buffer each in its parameter's dtype."""

    def __init__(
        self,
        group: Group,
        parameters: Mapping[str, nn.Parameter],
        *,
        shape: AnyShape,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        """Begin with no momentum.

        Args:
            parameters: matrices of a model of `shape`, by name.
            dtype: of the Newton-Schulz iterations.
        """
        assert group.rule is not None
        self._rule, self._lr_factor, self._weight_decay = group.rule, group.lr_factor, weight_decay
        self._parameters, self._shape, self._dtype = dict(parameters), shape, dtype
        self._buffers: dict[str, Tensor] = {}

    def momentum(self, *, num_updates: int) -> float:
        """Return the momentum of the update after `num_updates` updates since the last reset."""
        rule = self._rule
        done = min(num_updates / rule.warm_updates, 1.0) if rule.warm_updates else 1.0
        return (1.0 - done) * rule.warm_from + done * rule.momentum

    @torch.no_grad()
    def update(self, *, lr: float, num_updates: int) -> None:
        """Make the update after `num_updates` updates; `lr` is the curve's value, a multiplier of the group's rate."""
        momentum, rate = self.momentum(num_updates=num_updates), lr * self._lr_factor
        for name, parameter in self._parameters.items():
            gradient = parameter.grad
            assert gradient is not None
            if name not in self._buffers:
                self._buffers[name] = torch.zeros_like(parameter)
            buffer = self._buffers[name].lerp_(gradient, 1.0 - momentum)
            direction = matrices_of(gradient.lerp(buffer, momentum), name, self._shape).to(self._dtype)
            rows, columns = direction.shape[1:]
            step = weight_of(orthogonalised(direction), name, self._shape).to(parameter.dtype)
            parameter.mul_(1.0 - rate * self._weight_decay)
            parameter.add_(step, alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def moments(self) -> dict[str, Tensor]:
        """Return each momentum buffer as `momentum.<name>`; empty before an update."""
        return {f"{MOMENT}.{name}": buffer for name, buffer in self._buffers.items()}

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Resume with these buffers, converted to the parameters' dtype if necessary; with none, begin."""
        self._buffers = {
            name: moments[f"{MOMENT}.{name}"].detach().to(parameter.device, parameter.dtype, copy=True)
            for name, parameter in self._parameters.items()
            if moments
        }
