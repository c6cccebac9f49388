"""AdamW as configured by the recipe: fused, global norm clipping, weight decay on every parameter or on matrices only.

Source: Loshchilov and Hutter, 2019. Decay on everything, including norms and biases, is that of nightingal3/midtraining;
decay on matrices only (every parameter of two dimensions, including embedding and head) is that of nanoGPT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from midstudy.recipe.optimizer import AdamW

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of Adam's moments: the running means of the gradient and of its square."""


_CHUNK = 2**17
"""Number of values per partial sum of squares on a CPU."""


def global_norm(gradients: list[Tensor]) -> Tensor:
    """Return the Euclidean norm over all gradients, an fp32 scalar, computed in fp32 for bf16 gradients too.

    On a CPU the values are split into chunks: PyTorch first copies bf16 to fp32, and the copy of a chunk stays in a core's
    cache. Its sum over tens of millions of values at once would also be off by a thousandth.
    """
    if gradients[0].device.type == "cpu":
        gradients = [chunk for gradient in gradients for chunk in gradient.reshape(-1).split(_CHUNK)]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)))


class Optimizer:
    """AdamW over named parameters, with moments in the parameters' dtype."""

    def __init__(self, recipe: AdamW, parameters: Mapping[str, nn.Parameter]) -> None:
        self.recipe = recipe
        self._parameters = dict(parameters)
        decayed = [p for p in self._parameters.values() if recipe.decayed == "all" or p.dim() == 2]
        undecayed = [p for p in self._parameters.values() if recipe.decayed != "all" and p.dim() != 2]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            *([{"params": undecayed, "weight_decay": 0.0}] if undecayed else []),
        ]
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
        """Scale the gradients to a global norm of at most `clip_norm`; return the norm before clipping, an fp32 scalar."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = global_norm(gradients)
        if self.recipe.clip_norm > 0:
            torch._foreach_mul_(gradients, (self.recipe.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def update(self, *, lr: float) -> None:
        """Make one step with learning rate `lr`."""
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self.num_updates += 1

    def moments(self) -> dict[str, Tensor]:
        """Return both moments of every parameter as `exp_avg.<name>` and `exp_avg_sq.<name>`; empty before an update."""
        return {
            f"{moment}.{name}": self._adamw.state[parameter][moment]
            for moment in MOMENTS
            for name, parameter in self._parameters.items()
            if parameter in self._adamw.state
        }

    def restore(self, moments: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Resume after `num_updates` updates with these moments, converted to the parameters' dtype if necessary."""
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
