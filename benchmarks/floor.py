"""What no implementation of a training step can do without: the matrix products of the model, and AdamW.

The products are those of the linear layers and of attention, forward and backward, each made once, and of attention's only
those that the causal mask leaves. Softmax, GELU, norms, rotary embedding, the loss, clipping and every copy are left out:
the time is a lower bound for anybody who calls the same kernels, and tells how much faster than others one could be.
In fp32, a narrow model's products are computed some rows at a time, which is faster because the operands stay in cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from workload import Workload

from midstudy.model.narrow_block import is_narrow
from midstudy.model.pythia import Pythia
from midstudy.recipe.optimizer import AdamW

_QUERIES = {torch.float32: 64, torch.bfloat16: 128}
"""Queries that attention's products take together; they meet no key after the last of them."""

_ROWS_OF_NARROW = 512
"""Rows of a narrow model's linear layers multiplied at once."""


class Floor:
    """A step's products and its AdamW on tensors of the right shapes and types."""

    name = "products and AdamW alone"
    first_loss = None

    def __init__(self, workload: Workload, *, precision: str, optimizer: AdamW, device: torch.device) -> None:
        model = Pythia.empty(workload.model, device="meta")
        computed_in = torch.float32 if precision == "fp32" else torch.bfloat16

        def drawn(*size: int) -> Tensor:
            return torch.randn(*size, device=device).to(computed_in)

        self._linear: list[tuple[Tensor, Tensor, Tensor]] = []
        self._rows = workload.tokens_per_step
        if is_narrow(torch.empty(0, workload.model.width, dtype=computed_in, device=device)):
            self._rows = min(self._rows, _ROWS_OF_NARROW)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                inputs, gradient = (drawn(workload.tokens_per_step, n) for n in (layer.in_features, layer.out_features))
                self._linear.append((inputs, drawn(*layer.weight.shape), gradient))
        shape = workload.model
        heads = (workload.num_sequences * shape.num_heads, workload.seq_len, shape.head_size)
        self._num_layers = shape.num_layers
        self._query, self._key, self._value, self._gradient = (drawn(*heads) for _ in range(4))
        self._queries = queries = _QUERIES[computed_in]
        self._scores = [
            drawn(heads[0], min(queries, workload.seq_len - first), min(first + queries, workload.seq_len))
            for first in range(0, workload.seq_len, queries)
        ]
        kept_in = torch.bfloat16 if precision == "bf16_true" else torch.float32
        parameters = [torch.zeros_like(one, dtype=kept_in, device=device) for one in model.parameters()]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1e-3)
        self._adamw = torch.optim.AdamW(
            parameters,
            lr=1e-3,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def advance(self, num_steps: int) -> None:
        """Make the products and the update of so many steps."""
        for _ in range(num_steps):
            for inputs, weight, gradient in self._linear:
                output, into = (torch.empty_like(one[: self._rows]) for one in (gradient, inputs))
                total = torch.empty_like(weight)
                for number, (some, arrived) in enumerate(
                    zip(inputs.split(self._rows), gradient.split(self._rows), strict=True)
                ):
                    torch.mm(some, weight.T, out=output[: len(some)])
                    torch.mm(arrived, weight, out=into[: len(some)])
                    torch.addmm(total, arrived.T, some, beta=min(number, 1), out=total)
            for _ in range(self._num_layers):
                for number, scores in enumerate(self._scores):
                    rows, seen = slice(number * self._queries, scores.shape[2]), slice(scores.shape[2])
                    for left in (self._query, self._gradient):  # the scores, and their gradient
                        torch.bmm(left[:, rows], self._key[:, seen].transpose(1, 2))
                    for right in (self._value, self._key):  # what is mixed, and the queries' gradient
                        torch.bmm(scores, right[:, seen])
                    for right in (self._gradient, self._query):  # the values' gradient and the keys'
                        torch.bmm(scores.transpose(1, 2), right[:, rows])
            self._adamw.step()
