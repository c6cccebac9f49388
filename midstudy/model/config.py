"""Read and write the `config.json` of a Hugging Face GPT-NeoX checkpoint, without transformers or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midstudy.recipe.errors import RecipeError
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


def huggingface_config(shape: ModelShape, *, end_of_text_id: int = 0) -> dict[str, Any]:
    """Return the fields that `GPTNeoXConfig` needs to build the same model, whose documents end with `end_of_text_id`."""
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
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
    }


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """Return the shape of the model that a `config.json` describes, named after the Pythia size if it is one.

    Both spellings of the rotary embedding are read: `rotary_pct` and `rotary_emb_base`, as in the published Pythias, and
    `rope_parameters`, as transformers 5 writes. If a file has both, they must agree, since versions of transformers differ
    in which one they use.

    Raises:
        RecipeError: a field is missing, its value is not supported exactly, or two spellings of a field disagree; the
            message names the field.
    """
    if config.get("model_type") != "gpt_neox":
        raise _unsupported("model_type", config.get("model_type"), "'gpt_neox'")
    expected = {**_ARCHITECTURE, "intermediate_size": 4 * _whole(config, "hidden_size")}
    for name, value in expected.items():
        given = config.get(name, _ARCHITECTURE.get(name))
        if given != value:
            raise _unsupported(name, given, repr(value))
    if config.get("quantization_config"):
        raise _unsupported("quantization_config", config["quantization_config"], "no quantization: weights of 16 or 32 bits")
    for name in ("rope_parameters", "rope_scaling"):
        rope = _table(config, name)
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default":
            raise _unsupported(f"{name}.rope_type", rope_type, "'default'")
    num_layers, width = _whole(config, "num_hidden_layers"), _whole(config, "hidden_size")
    num_heads = _whole(config, "num_attention_heads")
    vocab_size, max_seq_len = _whole(config, "vocab_size"), _whole(config, "max_position_embeddings")
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


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, Mapping):
        raise _unsupported(name, value, "a table")
    return value


def _rotary(config: Mapping[str, Any], old: str, new: str) -> float:
    """Return the number called `old` in the file, or `new` in its `rope_parameters` or `rope_scaling`."""
    values = {old: config.get(old)}
    values |= {f"{table}.{new}": _table(config, table).get(new) for table in ("rope_parameters", "rope_scaling")}
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise _unsupported(name, value, "a number above 0")
        numbers[name] = float(value)
    if not numbers:
        raise _unsupported(old, None, "a number above 0")
    (first, number), *others = numbers.items()
    for name, other in others:
        if other != number:
            raise _unsupported(name, other, f"{number}, the value of {first}")
    return number


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _unsupported(name, value, "a whole number of at least 1")
    return value


def _unsupported(name: str, got: object, expected: str) -> RecipeError:
    return RecipeError(f"config.{name}", expected=expected, got=got, fix="Only Pythia's architecture is supported.")
