"""The optimizer as configured by the recipe: fused AdamW, or a rule for each group of parameters; global norm clipping.

Source: Loshchilov and Hutter, 2019; for Muon see `muon.py`. Decay on everything, including norms and biases, is that of
nightingal3/midtraining; decay on matrices only (every parameter of two dimensions, including embedding and head) is that of
nanoGPT. Groups (embedding, head, other matrices, vectors) are those of nanochat, whose model has no vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from midstudy.recipe.optimizer import AdamW
from midstudy.recipe.shape import AnyShape
from midstudy.train.muon import MuonGroup

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


def selection_of(name: str, parameter: Tensor) -> str:
    """Return which of `SELECTIONS` a parameter belongs to, by its name and number of dimensions.

    Raises:
        ValueError: it is none of them.
    """
    if name in ("embedding.weight", "head.weight"):
        return name.removesuffix(".weight")
    if parameter.dim() not in (1, 2):
        raise ValueError(
            f"parameter {name}: expected one or two dimensions, got {parameter.dim()}: it is in no group of the optimizer. "
            "Name a selection for it in `midstudy/recipe/optimizer.py`, or train without groups."
        )
    return "matrices" if parameter.dim() == 2 else "vectors"


class Optimizer:
    """AdamW over named parameters, and Muon over matrices if the recipe says so, with moments in the parameters' dtype."""

    def __init__(
        self,
        recipe: AdamW,
        parameters: Mapping[str, nn.Parameter],
        *,
        shape: AnyShape,
        compute_type: torch.dtype = torch.float32,
    ) -> None:
        """Begin with no moments.

        Args:
            parameters: all parameters of a model of `shape`, by name.
            compute_type: dtype of Muon's matrix products.

        Raises:
            ValueError: the recipe has groups, and a parameter is in none of them.
        """
        self.recipe = recipe
        self._parameters = dict(parameters)
        self._muon: MuonGroup | None = None
        if recipe.groups:
            groups = self._groups(shape, compute_type)
        else:
            decayed = [p for p in self._parameters.values() if recipe.decayed == "all" or p.dim() == 2]
            undecayed = [p for p in self._parameters.values() if recipe.decayed != "all" and p.dim() != 2]
            groups = [
                {"params": decayed, "lr_factor": 1.0},
                *([{"params": undecayed, "lr_factor": 1.0, "weight_decay": 0.0}] if undecayed else []),
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

    def _groups(self, shape: AnyShape, compute_type: torch.dtype) -> list[dict[str, Any]]:
        """Return the recipe's groups as PyTorch's AdamW takes them; matrices under Muon become `_muon` instead."""
        selected: dict[str, dict[str, nn.Parameter]] = {}
        for name, parameter in self._parameters.items():
            selected.setdefault(selection_of(name, parameter), {})[name] = parameter
        groups = []
        for group in self.recipe.groups:
            own = self.recipe.numbers_of(group)
            members = selected.get(group.select, {})
            if group.rule is not None:
                decay = own["weight_decay"]
                self._muon = MuonGroup(group, members, shape=shape, weight_decay=decay, dtype=compute_type)
            else:
                adam = {"betas": (own["beta1"], own["beta2"]), "eps": own["epsilon"], "weight_decay": own["weight_decay"]}
                groups.append({"params": list(members.values()), "lr_factor": group.lr_factor, **adam})
        return groups

    def clip(self) -> Tensor:
        """Scale the gradients to a global norm of at most `clip_norm`; return the norm before clipping, an fp32 scalar."""
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = global_norm(gradients)
        if self.recipe.clip_norm > 0:
            torch._foreach_mul_(gradients, (self.recipe.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def update(self, *, lr: float) -> None:
        """Make one step with learning rate `lr`, which multiplies the rates of groups."""
        for group in self._adamw.param_groups:
            group["lr"] = lr * group["lr_factor"]
        self._adamw.step()
        if self._muon is not None:
            self._muon.update(lr=lr, num_updates=self.num_updates)
        self.num_updates += 1

    def moments(self) -> dict[str, Tensor]:
        """Return both moments of every parameter as `exp_avg.<name>` and `exp_avg_sq.<name>`, and Muon's one as
        `momentum.<name>`; empty before an update."""
        of_muon = {} if self._muon is None else self._muon.moments()
        return of_muon | {
            f"{moment}.{name}": self._adamw.state[parameter][moment]
            for moment in MOMENTS
            for name, parameter in self._parameters.items()
            if parameter in self._adamw.state
        }

    def restore(self, moments: Mapping[str, Tensor], *, num_updates: int) -> None:
        """Resume after `num_updates` updates with these moments, converted to the parameters' dtype if necessary."""
        self.num_updates = num_updates
        self._adamw.state.clear()
        if self._muon is not None:
            self._muon.restore(moments if num_updates else {})
        if num_updates == 0:
            return
        by_adamw = {parameter for group in self._adamw.param_groups for parameter in group["params"]}
        for name, parameter in self._parameters.items():
            if parameter not in by_adamw:
                continue
            self._adamw.state[parameter] = {
                "step": torch.tensor(float(num_updates), dtype=torch.float32, device=parameter.device),
                **{
                    moment: moments[f"{moment}.{name}"].detach().to(parameter.device, parameter.dtype, copy=True)
                    for moment in MOMENTS
                },
            }
