"""A lower bound on the time of a training step: the matrix products of the model, and AdamW.

The products are those of the linear layers and of attention, forward and backward, each computed once; those of attention
only where the causal mask allows. Softmax, GELU, norms, rotary embedding, the loss, clipping and all copies are left out,
so the time is a lower bound for any implementation that calls the same kernels. In fp32, a narrow model's products are
computed a few rows at a time, which is faster because the operands stay in cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from workload import Workload

from midstudy.model.architecture import empty_model
from midstudy.model.narrow_block import is_narrow
from midstudy.recipe.optimizer import AdamW

_QUERIES = {torch.float32: 64, torch.bfloat16: 128}
"""Number of queries per attention product, which leaves out keys after the last query."""

_ROWS_OF_NARROW = 512
"""Number of rows multiplied at once in a narrow model's linear layers."""


class Floor:
    """A step's matrix products and AdamW on tensors of the right shapes and dtypes."""

    name = "products and AdamW alone"
    first_loss = None

    def __init__(self, workload: Workload, *, precision: str, optimizer: AdamW, device: torch.device) -> None:
        model = empty_model(workload.model, device="meta")
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
        master_type = torch.bfloat16 if precision == "bf16_true" else torch.float32
        parameters = [torch.zeros_like(tensor, dtype=master_type, device=device) for tensor in model.parameters()]
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
        """Compute the products and the update of `num_steps` steps."""
        for _ in range(num_steps):
            for inputs, weight, gradient in self._linear:
                output, input_gradient = (torch.empty_like(tensor[: self._rows]) for tensor in (gradient, inputs))
                total = torch.empty_like(weight)
                for number, (rows_in, rows_gradient) in enumerate(
                    zip(inputs.split(self._rows), gradient.split(self._rows), strict=True)
                ):
                    torch.mm(rows_in, weight.T, out=output[: len(rows_in)])
                    torch.mm(rows_gradient, weight, out=input_gradient[: len(rows_in)])
                    torch.addmm(total, rows_gradient.T, rows_in, beta=min(number, 1), out=total)
            for _ in range(self._num_layers):
                for number, scores in enumerate(self._scores):
                    rows, seen = slice(number * self._queries, scores.shape[2]), slice(scores.shape[2])
                    for left in (self._query, self._gradient):  # the scores, and their gradient
                        torch.bmm(left[:, rows], self._key[:, seen].transpose(1, 2))
                    for right in (self._value, self._key):  # the output, and the queries' gradient
                        torch.bmm(scores, right[:, seen])
                    for right in (self._gradient, self._query):  # the gradients of values and keys
                        torch.bmm(scores.transpose(1, 2), right[:, rows])
            self._adamw.step()
