"""Build the model of a shape: the only place that knows which class of shape is which architecture."""

from __future__ import annotations

import torch

from midstudy.model.language_model import LanguageModel
from midstudy.model.llama import Llama
from midstudy.model.pythia import Pythia
from midstudy.recipe.llama_shape import LlamaShape
from midstudy.recipe.shape import AnyShape


def empty_model(shape: AnyShape, *, device: torch.device | str = "cpu") -> LanguageModel:
    """Return a model whose fp32 weights are allocated but not initialised; the caller must set them."""
    with torch.device("meta"):
        model = Llama(shape) if isinstance(shape, LlamaShape) else Pythia(shape)
    return model.to_empty(device=device)
