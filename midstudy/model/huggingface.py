"""Convert tensor names from and to Hugging Face's checkpoints, without transformers.

Only names differ, not the tensors: the fused QKV rows of GPT-NeoX are ordered by head, each with its query, key and value,
and the rotated halves of Llama's heads are paired as in Hugging Face's files. Names are those in the files of the published
checkpoints, which every version of transformers loads. Newer versions call GPT-NeoX's head `lm_head` in memory; that name is
read too. A tied model's file has no head, or repeats the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from midstudy.model.architecture import empty_model
from midstudy.recipe.llama_shape import LlamaShape
from midstudy.recipe.shape import AnyShape


@dataclass(frozen=True)
class _Names:
    """The names of an architecture's modules: those outside the blocks, the blocks' list, and those inside a block."""

    title: str
    outer: Mapping[str, str]
    layers: str
    inner: Mapping[str, str]


_NEOX = _Names(
    title="GPT-NeoX",
    outer={"embedding": "gpt_neox.embed_in", "final_norm": "gpt_neox.final_layer_norm", "head": "embed_out"},
    layers="gpt_neox.layers",
    inner={
        "attention_norm": "input_layernorm",
        "qkv": "attention.query_key_value",
        "attention_out": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp_in": "mlp.dense_h_to_4h",
        "mlp_out": "mlp.dense_4h_to_h",
    },
)
_LLAMA = _Names(
    title="Llama",
    outer={"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"},
    layers="model.layers",
    inner={
        "attention_norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "query_norm": "self_attn.q_norm",
        "key_norm": "self_attn.k_norm",
        "attention_out": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp_gate": "mlp.gate_proj",
        "mlp_in": "mlp.up_proj",
        "mlp_out": "mlp.down_proj",
    },
)
_HEAD = "lm_head.weight"
# Tables in older checkpoints that are not weights; they follow from the configuration.
_TABLES = re.compile(r".*\.(attention\.(bias|masked_bias)|(attention|self_attn)\.rotary_emb\.inv_freq)")


def _names(shape: AnyShape) -> _Names:
    return _LLAMA if isinstance(shape, LlamaShape) else _NEOX


def huggingface_name(name: str, shape: AnyShape) -> str:
    """Return the name in a checkpoint's files of the parameter called `name` here."""
    names = _names(shape)
    owner, _, kind = name.rpartition(".")
    if owner in names.outer:
        return f"{names.outer[owner]}.{kind}"
    _, index, part = owner.split(".")
    return f"{names.layers}.{index}.{names.inner[part]}.{kind}"


def to_huggingface(weights: Mapping[str, Tensor], shape: AnyShape) -> dict[str, Tensor]:
    """Return the weights of a model of this shape under the names of a checkpoint's files."""
    return {huggingface_name(name, shape): tensor for name, tensor in weights.items()}


def from_huggingface(weights: Mapping[str, Tensor], shape: AnyShape) -> dict[str, Tensor]:
    """Return the weights of a checkpoint of this shape under the names used here.

    Raises:
        ValueError: a weight is missing, is not part of the architecture, or has another shape, or the head of a tied model
            is not its embedding; the message names it.
    """
    kind = f"a {_names(shape).title} model with {shape.num_layers} layers"
    rest = {name: tensor for name, tensor in weights.items() if not _TABLES.fullmatch(name)}
    head = huggingface_name("head.weight", shape)
    if _HEAD in rest and head != _HEAD:
        if head in rest:
            raise ValueError(f"{_HEAD}: expected one output head, got {head} too.")
        rest[head] = rest.pop(_HEAD)
    if shape.is_tied and head in rest:
        embedding = huggingface_name("embedding.weight", shape)
        if embedding in rest and not torch.equal(rest[head], rest[embedding]):
            raise ValueError(f"{head}: expected the values of {embedding}, since config.json ties them, got others.")
        del rest[head]
    renamed: dict[str, Tensor] = {}
    for name, parameter in empty_model(shape, device="meta").named_parameters():
        theirs = huggingface_name(name, shape)
        if theirs not in rest:
            raise ValueError(f"{theirs}: missing from the weights of {kind}.")
        tensor = rest.pop(theirs)
        if tensor.shape != parameter.shape:
            raise ValueError(
                f"{theirs}: expected shape {tuple(parameter.shape)} for the model shape {shape.name}, got "
                f"{tuple(tensor.shape)}. Check layers, width and vocabulary against the checkpoint's config.json."
            )
        renamed[name] = tensor
    if rest:
        raise ValueError(f"{sorted(rest)[0]}: not a weight of {kind}.")
    return renamed
