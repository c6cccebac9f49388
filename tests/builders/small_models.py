"""Small models in which every parameter affects the output, token ids for them, and the same weights in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from midstudy.model.config import huggingface_config
from midstudy.model.huggingface import to_huggingface
from midstudy.model.initialise import initialised
from midstudy.model.pythia import Pythia
from midstudy.recipe import ModelShape, pythia

NANO = pythia("nano", vocab_size=512, max_seq_len=64)


def lively(shape: ModelShape) -> Pythia:
    """Return a model with random biases and norms, since their default values could hide errors."""
    model = initialised(shape, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def token_ids(shape: ModelShape, *size: int) -> torch.Tensor:
    return torch.randint(shape.vocab_size, size, generator=torch.Generator().manual_seed(2))


def from_transformers(folder: Path, model: Pythia):
    """Write the model's weights as a checkpoint directory; return the model that transformers loads from it."""
    transformers = pytest.importorskip("transformers")
    (folder / "config.json").write_text(json.dumps(huggingface_config(model.shape)))
    save_file(to_huggingface(model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    theirs, info = transformers.GPTNeoXForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="float32")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return theirs.eval()
