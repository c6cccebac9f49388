"""Convert tensor names from and to Hugging Face's GPT-NeoX checkpoints (`GPTNeoXForCausalLM`), without transformers.

Only names differ, not the tensors: the fused QKV rows are ordered by head, each with its query, key and value, as in
GPT-NeoX. Names are those in the files of the published Pythia checkpoints, which every version of transformers loads. Newer
versions call the head `lm_head` in memory; that name is read too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from midstudy.model.pythia import Pythia
from midstudy.recipe.model import ModelShape

_NEW_HEAD = "lm_head.weight"
_OUTER = {"embedding": "gpt_neox.embed_in", "final_norm": "gpt_neox.final_layer_norm", "head": "embed_out"}
_INNER = {
    "attention_norm": "input_layernorm",
    "qkv": "attention.query_key_value",
    "attention_out": "attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp_in": "mlp.dense_h_to_4h",
    "mlp_out": "mlp.dense_4h_to_h",
}
# Tables in older checkpoints that are not weights; they follow from the configuration.
_TABLES = re.compile(r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)")


def huggingface_name(name: str) -> str:
    """Return the name in a GPT-NeoX checkpoint's files of the parameter called `name` here."""
    owner, _, kind = name.rpartition(".")
    if owner in _OUTER:
        return f"{_OUTER[owner]}.{kind}"
    _, index, part = owner.split(".")
    return f"gpt_neox.layers.{index}.{_INNER[part]}.{kind}"


def to_huggingface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's weights under the names of a GPT-NeoX checkpoint."""
    return {huggingface_name(name): tensor for name, tensor in weights.items()}


def from_huggingface(weights: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """Return the weights of a `GPTNeoXForCausalLM` of this shape under the names used here.

    Raises:
        ValueError: a weight is missing, is not part of GPT-NeoX, or has another shape; the message names it.
    """
    rest = {name: tensor for name, tensor in weights.items() if not _TABLES.fullmatch(name)}
    head = huggingface_name("head.weight")
    if _NEW_HEAD in rest:
        if head in rest:
            raise ValueError(f"{_NEW_HEAD}: expected one output head, got {head} too.")
        rest[head] = rest.pop(_NEW_HEAD)
    renamed: dict[str, Tensor] = {}
    for name, parameter in Pythia.empty(shape, device="meta").named_parameters():
        theirs = huggingface_name(name)
        if theirs not in rest:
            raise ValueError(f"{theirs}: missing from the weights of a GPT-NeoX model with {shape.num_layers} layers.")
        tensor = rest.pop(theirs)
        if tensor.shape != parameter.shape:
            raise ValueError(
                f"{theirs}: expected shape {tuple(parameter.shape)} for the model shape {shape.name}, got "
                f"{tuple(tensor.shape)}. Check layers, width and vocabulary against the checkpoint's config.json."
            )
        renamed[name] = tensor
    if rest:
        raise ValueError(f"{sorted(rest)[0]}: not a weight of a GPT-NeoX model with {shape.num_layers} layers.")
    return renamed
