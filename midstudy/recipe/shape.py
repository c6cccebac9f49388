"""The shape of any model that can be trained: its class says which architecture it is."""

from __future__ import annotations

from midstudy.recipe.llama_shape import LLAMA_SIZES, LlamaShape, llama
from midstudy.recipe.model import SIZES, ModelShape

AnyShape = ModelShape | LlamaShape

SHAPE_NAMES = (*SIZES, *(llama(size).name for size in LLAMA_SIZES))
"""The names of all shapes that `pythia` and `llama` return."""
