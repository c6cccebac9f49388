"""The dtypes of each precision: fp32 wherever bf16 would lose significant contributions."""

from __future__ import annotations

import pytest
import torch
from builders.small_recipes import start
from hypothesis import given
from hypothesis import strategies as st

from midstudy.model.initialise import initialised
from midstudy.model.rotary import rotary_tables, split_heads
from midstudy.recipe import AdamW
from midstudy.train.optimizer import Optimizer
from midstudy.train.precision import Weights
from midstudy.train.ranks import ALONE

HALF_A_STEP = 2.0**-8
"""Relative error of rounding to bf16."""


def weights(precision: str) -> Weights:
    model = initialised(start().model, seed=0)
    return Weights(model, dict(model.named_parameters()), precision=precision)


@pytest.mark.parametrize("precision", ["bf16_mixed", "bf16_true"])
def test_gradients_of_micro_batches_are_accumulated_in_fp32(precision: str) -> None:
    """In bf16, 256 + 1 is 256: the last two of three contributions would be lost."""
    trained = weights(precision)
    contributions = (256.0, 1.0, 1.0)
    for number, value in enumerate(contributions):
        for worker in trained.model.parameters():
            worker.grad = torch.full_like(worker, value)
        trained.gather_gradients(ALONE, first=number == 0, last=number == 2)
    for name, master in trained.masters.items():
        assert master.grad is not None
        assert bool((master.grad == 258).all()), name


def test_mixed_precision_looks_up_embeddings_and_accumulates_their_gradient_in_fp32() -> None:
    trained = weights("bf16_mixed")
    types = {name: parameter.dtype for name, parameter in trained.model.named_parameters()}
    assert types.pop("embedding.weight") == torch.float32
    assert set(types.values()) == {torch.bfloat16}
    ids = torch.full((1, 300), 7)  # a row's gradient has 300 contributions of 1; in bf16, the sum would stop at 256
    trained.model.embedding(ids).to(torch.bfloat16).float().sum().backward()
    gradient = trained.model.embedding.weight.grad
    assert gradient is not None
    assert bool((gradient[7] == 300).all())


@given(st.integers(0, 2**31 - 1), st.sampled_from([16, 64]))
def test_positions_are_rotated_in_fp32_and_rounded_once(seed: int, length: int) -> None:
    """Compared with fp64, forward and backward: the result is rounded once, the angles are not rounded."""
    num_heads, head_size, dims = 2, 16, 8
    generator = torch.Generator().manual_seed(seed)
    fused = torch.randn(1, length, 3 * num_heads * head_size, generator=generator).bfloat16().requires_grad_()
    cos, sin = rotary_tables(length, dims, 10_000.0, torch.device("cpu"))
    heads = split_heads(fused, num_heads=num_heads, cos=cos, sin=sin)
    laid_out = fused.detach().double().view(1, length, num_heads, 3, head_size).permute(3, 0, 2, 1, 4)
    positions = torch.arange(length, dtype=torch.float64)[:, None]
    angles = positions * 10_000.0 ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    for rotated, original in zip(heads[:2], laid_out[:2], strict=True):
        left, right = original[..., : dims // 2], original[..., dims // 2 : dims]
        pair = (left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin())
        exact = torch.cat((*pair, original[..., dims:]), dim=-1)
        assert bool(((rotated.double() - exact).abs() <= 1.01 * HALF_A_STEP * exact.abs() + 1e-5).all())
    assert torch.equal(heads[2].double(), laid_out[2])
    torch.cat([head.flatten() for head in heads[:2]]).float().square().sum().backward()
    assert fused.grad is not None
    # A rotation keeps lengths, so the gradient of the sum of squares is twice the input, up to three roundings.
    twice = 2 * laid_out[:2]
    gradient = fused.grad.double().view(1, length, num_heads, 3, head_size).permute(3, 0, 2, 1, 4)[:2]
    size = twice[..., :dims].square().sum(-1, keepdim=True).sqrt()
    assert bool(((gradient - twice)[..., :dims].abs() <= 3 * HALF_A_STEP * size).all())


@pytest.mark.parametrize("norm", [1e-4, 1e-3, 0.5, 100.0])
def test_gradients_are_clipped_like_in_pytorch(norm: float) -> None:
    model = initialised(start().model, seed=0)
    generator = torch.Generator().manual_seed(1)
    drawn = {name: torch.randn(parameter.shape, generator=generator) for name, parameter in model.named_parameters()}
    scale = norm / torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in drawn.values()]))
    ours, theirs = (initialised(start().model, seed=0) for _ in range(2))
    for model in (ours, theirs):
        for name, parameter in model.named_parameters():
            parameter.grad = drawn[name] * scale
    recipe = AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=norm / 2)
    norm_before = Optimizer(recipe, dict(ours.named_parameters()), shape=ours.shape).clip()
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), norm / 2)
    assert norm_before.item() == pytest.approx(expected.item(), rel=1e-5)
    for parameter, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, reference.grad, rtol=1e-5, atol=0)
