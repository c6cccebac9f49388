"""Small models in which every parameter affects the output, token ids for them, and the same weights in transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from midstudy.model.config import huggingface_config
from midstudy.model.huggingface import to_huggingface
from midstudy.model.initialise import initialised
from midstudy.model.language_model import LanguageModel
from midstudy.recipe import LlamaShape, RotaryScaling, llama, pythia
from midstudy.recipe.shape import AnyShape

NANO = pythia("nano", vocab_size=512, max_seq_len=64)
LLAMA_NANO = llama("nano", vocab_size=512, max_seq_len=64)
_SCALING = RotaryScaling(factor=8, low_frequency_factor=1, high_frequency_factor=4, original_seq_len=32)
LLAMAS: list[LlamaShape] = [
    replace(LLAMA_NANO, name="untied"),
    replace(LLAMA_NANO, name="tied", is_tied=True, norm_epsilon=1e-6),
    replace(LLAMA_NANO, name="scaled rotation", rotary_base=500_000, rotary_scaling=_SCALING),
    replace(LLAMA_NANO, name="a key for every query", num_kv_heads=4),
    replace(LLAMA_NANO, name="one key, wide", width=320, head_size=80, num_kv_heads=1, mlp_width=512),
    replace(LLAMA_NANO, name="like Qwen 2", attention="qkv_biases", is_tied=True, rotary_base=1e6),
    replace(LLAMA_NANO, name="like Qwen 3", attention="qk_norms", head_size=32, rotary_base=1e6),
]
"""A shape for each thing that varies in the family."""


def lively(shape: AnyShape) -> LanguageModel:
    """Return a model with random biases and norms, since their default values could hide errors."""
    model = initialised(shape, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def token_ids(shape: AnyShape, *size: int) -> torch.Tensor:
    return torch.randint(shape.vocab_size, size, generator=torch.Generator().manual_seed(2))


def from_transformers(folder: Path, model: LanguageModel):
    """Write the model's weights as a checkpoint directory; return the model that transformers loads from it."""
    transformers = pytest.importorskip("transformers")
    (folder / "config.json").write_text(json.dumps(huggingface_config(model.shape)))
    save_file(to_huggingface(model.state_dict(), model.shape), folder / "model.safetensors", metadata={"format": "pt"})
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="float32")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return theirs.eval()
