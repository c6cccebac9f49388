"""Initial weights as the paper's code draws them (nightingal3/litgpt `pretrain.py`).

Weights are normal, with standard deviation sqrt(2 / (5 width)) for embeddings and matrices and 1 / (sqrt(width) * layers)
for the attention's output projection; biases are 0, LayerNorms 1 and 0. The authors' depth rule checks for another MLP
class, so the output of GPT-NeoX's MLP keeps sqrt(2 / (5 width)); this module reproduces that. Pythia itself scales both
outputs.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from midstudy.model.pythia import Pythia
from midstudy.recipe.model import ModelShape


def _standard_deviation(name: str, shape: ModelShape) -> float:
    if name.endswith("attention_out.weight"):
        return 1.0 / (math.sqrt(shape.width) * shape.num_layers)
    return math.sqrt(2.0 / (5.0 * shape.width))


def _generator(seed: int, name: str) -> torch.Generator:
    """Return a separate random stream for each parameter, so that adding a parameter does not change the others."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@torch.no_grad()
def _initial_value(parameter: Tensor, name: str, shape: ModelShape, seed: int) -> None:
    if name.endswith("bias"):
        parameter.zero_()
    elif "norm" in name:
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, _standard_deviation(name, shape), generator=_generator(seed, name))


def initialised(shape: ModelShape, *, seed: int) -> Pythia:
    """Return a model on the CPU in fp32 with weights drawn from `seed`; each parameter depends only on shape and seed."""
    model = Pythia.empty(shape)
    for name, parameter in model.named_parameters():
        _initial_value(parameter, name, shape, seed)
    return model
