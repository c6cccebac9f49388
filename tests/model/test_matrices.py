"""The matrices of the fused projection are those that the model projects queries, keys and values with."""

from __future__ import annotations

import pytest
import torch

from midstudy.model.matrices import matrices_of, weight_of
from midstudy.model.rotary import split_heads
from midstudy.recipe import pythia

SHAPE = pythia("nano", vocab_size=512)


def test_query_key_and_value_are_projections_by_their_own_matrices() -> None:
    torch.manual_seed(0)
    width, heads = SHAPE.width, SHAPE.num_heads
    fused, x = torch.randn(3 * width, width), torch.randn(2, 5, width)
    unturned = torch.ones(5, SHAPE.rotary_dims), torch.zeros(5, SHAPE.rotary_dims)
    split = split_heads(x @ fused.T, num_heads=heads, cos=unturned[0], sin=unturned[1])
    for matrix, expected in zip(matrices_of(fused, "blocks.0.qkv.weight", SHAPE), split, strict=True):
        projected = (x @ matrix.T).unflatten(-1, (heads, -1)).transpose(1, 2)
        torch.testing.assert_close(projected, expected)


@pytest.mark.parametrize(
    ("name", "rows", "number"),
    [("blocks.1.qkv.weight", 192, 3), ("blocks.1.mlp_in.weight", 256, 1), ("head.weight", 512, 1)],
)
def test_a_weight_is_made_of_its_matrices(name: str, rows: int, number: int) -> None:
    weight = torch.randn(rows, 64)
    matrices = matrices_of(weight, name, SHAPE)
    assert matrices.shape == (number, rows // number, 64)
    assert torch.equal(weight_of(matrices, name, SHAPE), weight)
