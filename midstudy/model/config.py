"""Read and write the `config.json` of a Hugging Face checkpoint, without transformers or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midstudy.model.config_fields import unsupported
from midstudy.model.llama_config import MODEL_TYPES, llama_config, llama_shape_of_config
from midstudy.model.neox_config import neox_config, neox_shape_of_config
from midstudy.recipe.llama_shape import LlamaShape
from midstudy.recipe.shape import AnyShape


def huggingface_config(shape: AnyShape, *, end_of_text_id: int = 0) -> dict[str, Any]:
    """Return the fields that transformers needs to build the same model, whose documents end with `end_of_text_id`."""
    fields = llama_config(shape) if isinstance(shape, LlamaShape) else neox_config(shape)
    return {**fields, "bos_token_id": end_of_text_id, "eos_token_id": end_of_text_id}


def shape_of_config(config: Mapping[str, Any]) -> AnyShape:
    """Return the shape of the model that a `config.json` describes.

    Raises:
        RecipeError: a field is missing, its value is not supported exactly, or two spellings of a field disagree; the
            message names the field.
    """
    model_type = config.get("model_type")
    if model_type == "gpt_neox":
        return neox_shape_of_config(config)
    if model_type in MODEL_TYPES:
        return llama_shape_of_config(config)
    expected = " or ".join(map(repr, ("gpt_neox", *MODEL_TYPES)))
    raise unsupported("model_type", model_type, expected)
