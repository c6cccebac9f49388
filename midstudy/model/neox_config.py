"""Read and write the `config.json` of a Hugging Face GPT-NeoX checkpoint, without transformers or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midstudy.model.config_fields import agreeing_number, require_fields, table, unsupported, whole
from midstudy.recipe.model import SIZES, ModelShape, pythia

LAYER_NORM_EPSILON = 1e-5

# Settings of every Pythia, the only ones implemented here. They are also transformers' defaults for missing fields.
_ARCHITECTURE = {
    "layer_norm_eps": LAYER_NORM_EPSILON,
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}


def neox_config(shape: ModelShape) -> dict[str, Any]:
    """Return the fields that `GPTNeoXConfig` needs to build the same model."""
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
    }


def neox_shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """Return the shape of the model that a `config.json` describes, named after the Pythia size if it is one.

    Both spellings of the rotary embedding are read: `rotary_pct` and `rotary_emb_base`, as in the published Pythias, and
    `rope_parameters`, as transformers 5 writes. If a file has both, they must agree, since versions of transformers differ
    in which one they use.

    Raises:
        RecipeError: a field is missing, its value is not supported exactly, or two spellings of a field disagree; the
            message names the field.
    """
    expected = {**_ARCHITECTURE, "intermediate_size": 4 * whole(config, "hidden_size")}
    require_fields(config, expected, defaults=_ARCHITECTURE)
    for name in ("rope_parameters", "rope_scaling"):
        rope = table(config, name)
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default":
            raise unsupported(f"{name}.rope_type", rope_type, "'default'")
    num_layers, width = whole(config, "num_hidden_layers"), whole(config, "hidden_size")
    num_heads = whole(config, "num_attention_heads")
    vocab_size, max_seq_len = whole(config, "vocab_size"), whole(config, "max_position_embeddings")
    fraction = _rotary(config, "rotary_pct", "partial_rotary_factor")
    base = _rotary(config, "rotary_emb_base", "rope_theta")
    sizes = {(shape.num_layers, shape.width, shape.num_heads): shape.name for shape in map(pythia, SIZES)}
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


def _rotary(config: Mapping[str, Any], old: str, new: str) -> float:
    """Return the number called `old` in the file, or `new` in its `rope_parameters` or `rope_scaling`."""
    spellings = {f"{name}.{new}": table(config, name).get(new) for name in ("rope_parameters", "rope_scaling")}
    return agreeing_number({old: config.get(old)} | spellings)
