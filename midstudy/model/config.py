"""The `config.json` of a Hugging Face GPT-NeoX checkpoint, in both directions; needs neither transformers nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midstudy.recipe.errors import RecipeError
from midstudy.recipe.model import SIZES, ModelShape, pythia

LAYER_NORM_EPSILON = 1e-5

# What every Pythia has and this project computes. Absent from a file, each has this value in transformers too.
_ARCHITECTURE = {
    "layer_norm_eps": LAYER_NORM_EPSILON,
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}


def huggingface_config(shape: ModelShape) -> dict[str, Any]:
    """What `GPTNeoXConfig` needs to build the same model."""
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_seq_len,
        "rotary_pct": shape.rotary_fraction,
        "rotary_emb_base": shape.rotary_base,
        **_ARCHITECTURE,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the model that a `config.json` describes, named after the Pythia size that it is, if it is one.

    Both spellings of the rotary embedding are read: `rotary_pct` and `rotary_emb_base`, as the published Pythias have
    them, and `rope_parameters`, as transformers 5 writes. Where a file has both, they must agree: which of them counts
    differs between versions of transformers.

    Raises:
        RecipeError: a field is missing, its value is none that this project computes exactly, or the two spellings of one
            disagree; the message names it.
    """
    if config.get("model_type") != "gpt_neox":
        raise _refused("model_type", config.get("model_type"), "'gpt_neox'")
    expected = {**_ARCHITECTURE, "intermediate_size": 4 * _whole(config, "hidden_size")}
    for name, value in expected.items():
        found = config.get(name, _ARCHITECTURE.get(name))
        if found != value:
            raise _refused(name, found, repr(value))
    if config.get("quantization_config"):
        raise _refused("quantization_config", config["quantization_config"], "none: weights of 16 or 32 bits")
    for name in ("rope_parameters", "rope_scaling"):
        rope = _table(config, name)
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default":
            raise _refused(f"{name}.rope_type", rope_type, "'default'")
    num_layers, width = _whole(config, "num_hidden_layers"), _whole(config, "hidden_size")
    num_heads = _whole(config, "num_attention_heads")
    vocab_size, max_seq_len = _whole(config, "vocab_size"), _whole(config, "max_position_embeddings")
    fraction = _rotary(config, "rotary_pct", "partial_rotary_factor")
    base = _rotary(config, "rotary_emb_base", "rope_theta")
    sizes = {(one.num_layers, one.width, one.num_heads): one.name for one in map(pythia, SIZES)}
    return ModelShape(
        name=sizes.get((num_layers, width, num_heads), f"{num_layers}x{width}"),
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        vocab_size=vocab_size,
        rotary_fraction=fraction,
        rotary_base=base,
        max_seq_len=max_seq_len,
    )


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise _refused(name, value, "a table")
    return value


def _rotary(config: Mapping[str, Any], old: str, new: str) -> float:
    """The number that a file calls `old`, or `new` among its `rope_parameters` or `rope_scaling`."""
    said = {old: config.get(old)}
    said |= {f"{table}.{new}": _table(config, table).get(new) for table in ("rope_parameters", "rope_scaling")}
    found: dict[str, float] = {}
    for name, value in said.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise _refused(name, value, "a number above 0")
        found[name] = float(value)
    if not found:
        raise _refused(old, None, "a number above 0")
    (first, number), *others = found.items()
    for name, other in others:
        if other != number:
            raise _refused(name, other, f"{number}, which {first} says")
    return number


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _refused(name, value, "a whole number of at least 1")
    return value


def _refused(name: str, found: object, allowed: str) -> RecipeError:
    return RecipeError(
        f"config.{name}", expected=allowed, got=found, fix="Only Pythia's architecture is computed, and computed exactly."
    )
