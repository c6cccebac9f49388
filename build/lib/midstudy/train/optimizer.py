"""AdamW as the recipe states it: fused, clipped by the global norm, weight decay on every parameter or on matrices only.

Source: Loshchilov and Hutter, 2019. Decay on everything, norms and biases included, is nightingal3/midtraining's; decay on
matrices only (every parameter of two dimensions, embedding and head included) is nanoGPT's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from midstudy.recipe.optimizer import AdamW

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of Adam's running means of the gradient and of its square."""


_PIECE = 2**17
"""Values whose squares are added up at a time on a CPU."""


def global_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm of all values together, an fp32 scalar, taken in fp32 also of bf16 gradients.

    On a CPU the values are taken in pieces: PyTorch copies bf16 to fp32 first, and a piece's copy stays in a core's cache;
    over tens of millions of values at once its sum is also off by a thousandth.
    """
    if gradients[0].device.type == "cpu":
        gradients = [piece for gradient in gradients for piece in gradient.reshape(-1).split(_PIECE)]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)))


class Optimizer:
    """AdamW over named parameters, its moments in the parameters' type."""

    def __init__(self, recipe: AdamW, parameters: Mapping[str, nn.Parameter]) -> None:
        self.recipe = recipe
        self._parameters = dict(parameters)
        decayed = [p for p in self._parameters.values() if recipe.decayed == "all" or p.dim() == 2]
        spared = [p for p in self._parameters.values() if recipe.decayed != "all" and p.dim() != 2]
        groups: list[dict[str, Any]] = [{"params": decayed}, *([{"params": spared, "weight_decay": 0.0}] if spared else [])]
        self._adamw = torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.num_updates = 0

    def clip(self) -> Tensor:
        """Scale the gradients to a global norm of at most `clip_norm`; the norm before that, an fp32 scalar."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = global_norm(gradients)
        if self.recipe.clip_norm > 0:
            torch._foreach_mul_(gradients, (self.recipe.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def update(self, *, lr: float) -> None:
        """One step with learning rate `lr`."""
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self.num_updates += 1

    def moments(self) -> dict[str, Tensor]:
        """Both moments of every parameter, as `exp_avg.<parameter>` and `exp_avg_sq.<parameter>`; empty before an update."""
        return {
            f"{moment}.{name}": self._adamw.state[parameter][moment]
            for moment in MOMENTS
            for name, parameter in self._parameters.items()
            if parameter in self._adamw.state
        }

    def restore(self, moments: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Go on after `num_updates` updates with these moments, converted to the parameters' type where it differs."""
        self.num_updates = num_updates
        self._adamw.state.clear()
        if num_updates == 0:
            return
        for name, parameter in self._parameters.items():
            self._adamw.state[parameter] = {
                "step": torch.tensor(float(num_updates), dtype=torch.float32, device=parameter.device),
                **{
                    moment: moments[f"{moment}.{name}"].detach().to(parameter.device, parameter.dtype, copy=True)
                    for moment in MOMENTS
                },
            }
