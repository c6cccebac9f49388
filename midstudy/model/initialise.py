"""Initial weights.

GPT-NeoX, as the paper's code draws them (nightingal3/litgpt `pretrain.py`): weights are normal, with standard deviation
sqrt(2 / (5 width)) for embeddings and matrices and 1 / (sqrt(width) * layers) for the attention's output projection; biases
are 0, LayerNorms 1 and 0. The authors' depth rule checks for another MLP class, so the output of GPT-NeoX's MLP keeps
sqrt(2 / (5 width)); this module reproduces that. Pythia itself scales both outputs.

Llama: all weights are normal with standard deviation 0.02, biases are 0 and norms 1. Llama's own report does not say; this
is OLMo 2's initialisation (arXiv 2501.00656, section 3.2) and the `initializer_range` of transformers' `LlamaConfig`.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from midstudy.model.architecture import empty_model
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.llama_shape import LlamaShape
from midstudy.recipe.shape import AnyShape


def _standard_deviation(name: str, shape: AnyShape) -> float:
    if isinstance(shape, LlamaShape):
        return 0.02
    if name.endswith("attention_out.weight"):
        return 1.0 / (math.sqrt(shape.width) * shape.num_layers)
    return math.sqrt(2.0 / (5.0 * shape.width))


def _generator(seed: int, name: str) -> torch.Generator:
    """Return a separate random stream for each parameter, so that adding a parameter does not change the others."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def _initial_value(parameter: Tensor, name: str, shape: AnyShape, seed: int) -> None:
    if name.endswith("bias"):
        parameter.zero_()
    elif "norm" in name:
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, _standard_deviation(name, shape), generator=_generator(seed, name))


def initialised(shape: AnyShape, *, seed: int) -> LanguageModel:
    """Return a model on the CPU in fp32 with weights drawn from `seed`; each parameter depends only on shape and seed."""
    model = empty_model(shape)
    for name, parameter in model.named_parameters():
        _initial_value(parameter, name, shape, seed)
    return model
