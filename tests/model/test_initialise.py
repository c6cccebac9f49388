"""Initial weights follow the paper's code (nightingal3/litgpt `pretrain.py`) and depend only on shape and seed."""

from __future__ import annotations

import math

import pytest
import torch

from midstudy.model.initialise import initialised
from midstudy.recipe import ModelShape

SHAPE = ModelShape(name="test", num_layers=3, width=128, num_heads=4, vocab_size=512)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("embedding.weight", math.sqrt(2 / (5 * 128))),
        ("head.weight", math.sqrt(2 / (5 * 128))),
        ("blocks.0.qkv.weight", math.sqrt(2 / (5 * 128))),
        ("blocks.1.mlp_in.weight", math.sqrt(2 / (5 * 128))),
        ("blocks.2.mlp_out.weight", math.sqrt(2 / (5 * 128))),  # as in the fork: no depth rule here
        ("blocks.2.attention_out.weight", 1 / (math.sqrt(128) * 3)),
    ],
)
def test_matrices_are_normal_with_the_forks_standard_deviation(name: str, deviation: float) -> None:
    weight = dict(initialised(SHAPE, seed=0).named_parameters())[name].double()
    error = 4 / math.sqrt(2 * weight.numel())  # four standard errors of a standard deviation
    assert weight.std().item() == pytest.approx(deviation, rel=error)
    assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())


def test_biases_are_zero_and_norms_are_one() -> None:
    for name, parameter in initialised(SHAPE, seed=0).named_parameters():
        if name.endswith("bias"):
            assert torch.all(parameter == 0), name
        elif "norm" in name:
            assert torch.all(parameter == 1), name


def test_weights_depend_only_on_the_seed() -> None:
    torch.manual_seed(1)
    first = initialised(SHAPE, seed=7).state_dict()
    torch.manual_seed(2)
    again, other = initialised(SHAPE, seed=7).state_dict(), initialised(SHAPE, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_every_parameter_has_its_own_draws_and_another_layer_does_not_change_them() -> None:
    weights = initialised(SHAPE, seed=0).state_dict()
    assert not torch.equal(weights["blocks.0.qkv.weight"], weights["blocks.1.qkv.weight"])
    deeper = initialised(ModelShape(num_layers=4, width=128, num_heads=4, vocab_size=512, name="deeper"), seed=0)
    assert torch.equal(weights["blocks.1.qkv.weight"], deeper.state_dict()["blocks.1.qkv.weight"])


GOLDEN_EMBEDDING = [-0.084555574, 0.0060327332, -0.050387837]
GOLDEN_MLP_OUT = [0.021259911, 0.019664636, -0.0056173983]
