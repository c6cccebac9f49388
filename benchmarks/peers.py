"""The same training step with other implementations of the model: transformers' `GPTNeoXForCausalLM` and litgpt's `GPT`.

Both start from given weights, so that the losses of a first batch confirm that the same model is timed. Each uses the same
fused AdamW, the same global norm clipping and, for `bf16_mixed`, PyTorch's autocast. When compiled, model and loss are one
function with static shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstudy.model.config import huggingface_config
from midstudy.model.huggingface import to_huggingface
from midstudy.recipe.model import ModelShape
from midstudy.recipe.optimizer import AdamW

LossOf = Callable[[Tensor, Tensor], Tensor]


def transformers_model(shape: ModelShape, weights: Mapping[str, Tensor]) -> tuple[nn.Module, LossOf]:
    """Return transformers' model, with its default attention (SDPA), and its loss function."""
    import transformers

    config = transformers.GPTNeoXConfig(**huggingface_config(shape), use_cache=False)
    model = transformers.GPTNeoXForCausalLM(config)
    theirs = to_huggingface(weights, shape)
    if "lm_head.weight" in model.state_dict():
        theirs["lm_head.weight"] = theirs.pop("embed_out.weight")
    model.load_state_dict(theirs)
    model.train()

    def loss_of(input_ids: Tensor, targets: Tensor) -> Tensor:
        return model(input_ids=input_ids, labels=targets, shift_labels=targets).loss

    return model, loss_of


def litgpt_model(shape: ModelShape, weights: Mapping[str, Tensor]) -> tuple[nn.Module, LossOf]:
    """Return litgpt's model, and the loss over the whole batch, which was faster than litgpt's chunks of 128 tokens."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_gpt_neox

    config = Config.from_name(
        "pythia-70m",
        n_layer=shape.num_layers,
        n_embd=shape.width,
        n_head=shape.num_heads,
        n_query_groups=shape.num_heads,
        head_size=shape.head_size,
        intermediate_size=4 * shape.width,
        padded_vocab_size=shape.vocab_size,
        vocab_size=shape.vocab_size,
        block_size=shape.max_seq_len,
    )
    model = GPT(config)
    theirs: dict[str, Tensor] = {}
    copy_weights_gpt_neox(config, theirs, to_huggingface(weights, shape))
    model.load_state_dict(theirs)

    def loss_of(input_ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(input_ids).flatten(0, 1), targets.flatten())

    return model, loss_of


PEERS = {"transformers": transformers_model, "litgpt": litgpt_model}


class Peer:
    """A peer and its optimizer, trained on batches prepared in advance, whose preparation is not timed."""

    def __init__(
        self,
        name: str,
        shape: ModelShape,
        weights: Mapping[str, Tensor],
        ready: Sequence[tuple[Tensor, Tensor]],
        *,
        precision: str,
        optimizer: AdamW,
        compiled: bool,
    ) -> None:
        self.name = name
        self.first_loss = 0.0
        model, loss_of = PEERS[name](shape, weights)
        self._device = ready[0][0].device
        model.to(device=self._device, dtype=torch.bfloat16 if precision == "bf16_true" else torch.float32)
        self._loss_of: Any = torch.compile(loss_of, dynamic=False) if compiled else loss_of
        self._mixed = precision == "bf16_mixed"
        self._ready, self._step = ready, 0
        self._parameters = list(model.parameters())
        self._clip_norm = optimizer.clip_norm
        self._adamw = torch.optim.AdamW(
            self._parameters,
            lr=1e-3,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    def advance(self, num_steps: int) -> None:
        """Make updates on the next batches."""
        for _ in range(num_steps):
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._mixed):
                loss: Tensor = self._loss_of(*self._ready[self._step % len(self._ready)])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
            self._adamw.step()
            self._adamw.zero_grad(set_to_none=True)
            if self._step == 0:
                self.first_loss = loss.item()
            self._step += 1
