"""Read and write the `config.json` of Llama, Qwen 2 and Qwen 3, without transformers or torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from midstudy.model.config_fields import agreeing_number, require_fields, table, unsupported, whole
from midstudy.recipe.llama_shape import LLAMA_SIZES, LlamaShape, RotaryScaling, llama

_ATTENTION = {"llama": "plain", "qwen2": "qkv_biases", "qwen3": "qk_norms"}
"""The `model_type` of each kind of attention."""
MODEL_TYPES = tuple(_ATTENTION)

# The only values implemented here of fields that change the computation. They are also transformers' defaults for missing
# fields. Qwen 2 has its biases without a field that says so.
_OF_ALL = {"hidden_act": "silu", "attention_dropout": 0.0}
_ONLY = {
    "llama": _OF_ALL | {"attention_bias": False, "mlp_bias": False},
    "qwen2": _OF_ALL | {"use_sliding_window": False},
    "qwen3": _OF_ALL | {"attention_bias": False, "use_sliding_window": False},
}
_ROTARY_BASE = 10_000.0
"""Of Llama 1 and 2, whose files may not say so."""
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_SCALING = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_seq_len",
}
"""The fields of a scaling in a file, and here."""


def llama_config(shape: LlamaShape) -> dict[str, Any]:
    """Return the fields that transformers needs to build the same model.

    The rotary embedding is written as `rope_theta` and `rope_scaling`, which every version of transformers reads.
    """
    model_type = next(name for name, attention in _ATTENTION.items() if attention == shape.attention)
    scaling = shape.rotary_scaling
    return {
        "model_type": model_type,
        "architectures": [_CLASSES[model_type]],
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_seq_len,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rotary_base,
        "rope_scaling": None
        if scaling is None
        else {"rope_type": "llama3", **{theirs: getattr(scaling, ours) for theirs, ours in _SCALING.items()}},
        "tie_word_embeddings": shape.is_tied,
        **_ONLY[model_type],
    }


def llama_shape_of_config(config: Mapping[str, Any]) -> LlamaShape:
    """Return the shape of the model that a `config.json` describes, named after one of Llama's sizes if it is one.

    Both spellings of the rotary embedding are read: `rope_theta` and `rope_scaling`, as published, and `rope_parameters`,
    as transformers 5 writes. If a file has both, they must agree.

    Raises:
        RecipeError: a field is missing, its value is not supported exactly, or two spellings of a field disagree; the
            message names the field.
    """
    model_type = config["model_type"]
    require_fields(config, _ONLY[model_type], defaults=_ONLY[model_type])
    width, num_heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    # Llama 1 and 2 up to 13B have a key for each query and no field that says so; heads fill the width by default.
    fields = {"num_key_value_heads": num_heads, "head_dim": width // num_heads, **_given(config)}
    is_tied = config.get("tie_word_embeddings", False)
    if not isinstance(is_tied, bool):
        raise unsupported("tie_word_embeddings", is_tied, "true or false")
    tables = {f"{name}.rope_theta": table(config, name).get("rope_theta") for name in ("rope_parameters", "rope_scaling")}
    bases = _given({"rope_theta": config.get("rope_theta")} | tables) or {"rope_theta": _ROTARY_BASE}
    shape = LlamaShape(
        name=f"{model_type}-{whole(config, 'num_hidden_layers')}x{width}",
        num_layers=whole(config, "num_hidden_layers"),
        width=width,
        num_heads=num_heads,
        num_kv_heads=whole(fields, "num_key_value_heads"),
        head_size=whole(fields, "head_dim"),
        mlp_width=whole(config, "intermediate_size"),
        vocab_size=whole(config, "vocab_size"),
        max_seq_len=whole(config, "max_position_embeddings"),
        rotary_base=agreeing_number(bases),
        rotary_scaling=_scaling(config),
        norm_epsilon=agreeing_number({"rms_norm_eps": config.get("rms_norm_eps")}),
        is_tied=is_tied,
        attention=_ATTENTION[model_type],
    )
    for known in map(llama, LLAMA_SIZES):
        if shape.attention == known.attention and (shape.num_layers, shape.matrices) == (known.num_layers, known.matrices):
            return dataclasses.replace(shape, name=known.name)
    return shape


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def _scaling(config: Mapping[str, Any]) -> RotaryScaling | None:
    """Return the scaling of `rope_parameters` or `rope_scaling`; two that differ are an error."""
    found: dict[str, RotaryScaling | None] = {}
    for name in ("rope_parameters", "rope_scaling"):
        rope = table(config, name)
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type not in ("default", "llama3"):
            raise unsupported(f"{name}.rope_type", rope_type, "'default' or 'llama3'")
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise unsupported(f"{name}.partial_rotary_factor", rope["partial_rotary_factor"], "1.0: whole heads rotated")
        if rope_type == "llama3":
            numbers = {ours: agreeing_number({f"{name}.{theirs}": rope.get(theirs)}) for theirs, ours in _SCALING.items()}
            whole(rope, "original_max_position_embeddings")
            found[name] = RotaryScaling(**numbers | {"original_seq_len": rope["original_max_position_embeddings"]})
        elif rope:
            found[name] = None
    first, *others = found.values() or [None]
    if any(other != first for other in others):
        raise unsupported("rope_scaling", config["rope_scaling"], "the same scaling as rope_parameters")
    return first
