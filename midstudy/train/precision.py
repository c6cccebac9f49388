"""The three precisions: the dtypes of the weights and of the computation.

| precision | weights and moments | forward, backward, Muon's iterations |
|---|---|---|
| `fp32` | fp32 | fp32 |
| `bf16_mixed` | fp32 | bf16 copies of the weights, refreshed after each update; embedding look-up in fp32 |
| `bf16_true` | bf16 | bf16; used by the paper's authors |

The loss is always computed in fp32. `bf16_mixed` is mixed precision as in FSDP: one pass over the weights per step instead
of a cast at each use, and a residual stream in bf16, while `torch.autocast` keeps it in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from midstudy.model.language_model import LanguageModel
from midstudy.train.optimizer import global_norm
from midstudy.train.ranks import Ranks

_MASTER_TYPES = {"fp32": torch.float32, "bf16_mixed": torch.float32, "bf16_true": torch.bfloat16}
_COMPUTE_TYPES = {"fp32": torch.float32, "bf16_mixed": torch.bfloat16, "bf16_true": torch.bfloat16}


class Weights:
    """The trained weights (`masters`) and the model that computes with them.

    `masters` maps names to fp32 or bf16 parameters; `model` has either these parameters or bf16 copies. Gradients are
    computed in the model's dtype and accumulated on the masters, over any number of micro-batches.
    """

    def __init__(self, model: LanguageModel, masters: Mapping[str, Tensor], *, precision: str) -> None:
        """Set up `model` to compute with `masters` in `precision`; masters of another dtype are converted first."""
        self.precision = precision
        self.model = model
        self.masters = {
            name: nn.Parameter(masters[name].detach().to(_MASTER_TYPES[precision])) for name, _ in model.named_parameters()
        }
        self._copied: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._workers: list[nn.Parameter] = []
        for name, master in self.masters.items():
            owner, _, kind = name.rpartition(".")
            worker = master
            if master.dtype != self.compute_type and name != "embedding.weight":
                worker = nn.Parameter(torch.empty_like(master, dtype=self.compute_type))
                self._copied.append(master)
                self._copies.append(worker)
            setattr(model.get_submodule(owner), kind, worker)
            self._workers.append(worker)
        self._sums: list[Tensor] = []
        self.refresh()

    @property
    def compute_type(self) -> torch.dtype:
        """The dtype of the forward and backward passes."""
        return _COMPUTE_TYPES[self.precision]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the masters to the model's copies; call after each update."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._copied)

    @torch.no_grad()
    def gather_gradients(self, ranks: Ranks, *, first: bool, last: bool) -> Tensor | None:
        """Accumulate the gradients of one micro-batch's backward pass.

        After the `last` micro-batch, the masters' `.grad` hold the sum over all micro-batches since the `first` and over
        all ranks, accumulated in fp32.

        Returns:
            The norm of this micro-batch's contribution, an fp32 scalar; `None` if it is the whole batch.
        """
        if first and last and ranks.size == 1 and (self.precision == "fp32" or not self._copies):
            return None  # the gradients are on the masters already
        gradients: list[Tensor] = []
        for worker in self._workers:
            assert worker.grad is not None
            gradients.append(worker.grad)
            worker.grad = None
        norm = None
        if not (first and last and ranks.size == 1):
            norm = global_norm(gradients)
        if not self._sums:
            self._sums = [torch.empty_like(master, dtype=torch.float32) for master in self.masters.values()]
        if first:
            torch._foreach_copy_(self._sums, gradients)
        else:
            for total, gradient in zip(self._sums, gradients, strict=True):
                total.add_(gradient)
        if last:
            ranks.add_up(self._sums)
            for master, total in zip(self.masters.values(), self._sums, strict=True):
                master.grad = total.to(master.dtype)
        return norm

    def forget_gradients(self) -> None:
        """Drop the gradients, but keep the accumulation buffers."""
        for parameter in (*self.masters.values(), *self._workers):
            parameter.grad = None
