"""The shape of any model that can be trained: its class says which architecture it is."""

from __future__ import annotations

from midstudy.recipe.llama_shape import LlamaShape
from midstudy.recipe.model import ModelShape

AnyShape = ModelShape | LlamaShape
