"""The weighted loss of the head: value and gradients follow the formula, and positions without a target have no effect."""

from __future__ import annotations

import pytest
import torch
from builders.small_models import NANO, lively, token_ids
from torch import Tensor
from torch.nn import functional as F

from midstudy.model.cross_entropy import IGNORED, scaled_head_loss

NUM_TOKENS, WIDTH, VOCAB_SIZE = 1_600, 32, 512  # more rows than one chunk


def head_inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, the head, targets of which a quarter are missing, and weights between 0 and 3."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(NUM_TOKENS, WIDTH, generator=generator).to(dtype)
    head = (0.3 * torch.randn(VOCAB_SIZE, WIDTH, generator=generator)).to(dtype)
    targets = torch.randint(VOCAB_SIZE, (NUM_TOKENS,), generator=generator)
    targets[torch.rand(NUM_TOKENS, generator=generator) < 0.25] = IGNORED
    weights = 3 * torch.rand(NUM_TOKENS, generator=generator)
    weights[::7] = 0
    return hidden, head, targets, weights


def by_formula(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, scale: float) -> list[Tensor]:
    """Return scale · Σ wᵢ (log Σⱼ exp zᵢⱼ − zᵢ,target) in fp64, and its gradients of hidden states and head."""
    hidden, head = hidden.double().requires_grad_(), head.double().requires_grad_()
    counted = (targets != IGNORED).nonzero()[:, 0]
    logits = hidden[counted] @ head.T
    losses = logits.exp().sum(dim=1).log() - logits[torch.arange(len(counted)), targets[counted]]
    loss = scale * (weights.double()[counted] * losses).sum()
    return [loss.detach(), *torch.autograd.grad(loss, (hidden, head))]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weighted_loss_and_gradients_follow_the_formula(dtype: torch.dtype, device: str) -> None:
    hidden, head, targets, weights = head_inputs(dtype)
    expected = by_formula(hidden, head, targets, weights, 1 / 900)
    hidden, head = hidden.to(device).requires_grad_(), head.to(device).requires_grad_()
    loss = scaled_head_loss(hidden, head, targets.to(device), scale=1 / 900, token_weights=weights.to(device))
    actual = [loss.detach(), *torch.autograd.grad(loss, (hidden, head))]
    for ours, theirs in zip(actual, expected, strict=True):
        error = (ours.double().cpu() - theirs).norm() / theirs.norm()
        assert error < (1e-6 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_weight_of_a_position_without_a_target_has_no_effect(device: str) -> None:
    hidden, head, targets, weights = head_inputs()
    expected = by_formula(hidden, head, targets, weights, 1.0)
    heavy = torch.where(targets == IGNORED, 1e6, weights)
    assert (heavy != weights).sum() > 200
    hidden, head = hidden.to(device).requires_grad_(), head.to(device).requires_grad_()
    loss = scaled_head_loss(hidden, head, targets.to(device), scale=1.0, token_weights=heavy.to(device))
    actual = [loss.detach(), *torch.autograd.grad(loss, (hidden, head))]
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.double().cpu() - theirs).norm() < 1e-6 * theirs.norm()


def gradients_of(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_1_equal_no_weights_to_the_last_bit(dtype: torch.dtype) -> None:
    hidden, head, targets, _ = head_inputs(dtype)
    hidden.requires_grad_()
    head.requires_grad_()
    plain = gradients_of(scaled_head_loss(hidden, head, targets, scale=1 / 7), hidden, head)
    ones = torch.ones(NUM_TOKENS)
    weighted = gradients_of(scaled_head_loss(hidden, head, targets, scale=1 / 7, token_weights=ones), hidden, head)
    assert all(torch.equal(left, right) for left, right in zip(plain, weighted, strict=True))


def test_a_weight_of_0_equals_no_target() -> None:
    hidden, head, targets, weights = head_inputs()
    hidden.requires_grad_()
    head.requires_grad_()
    masked = torch.where(weights == 0, IGNORED, targets)
    assert not torch.equal(masked, targets)
    with_targets = gradients_of(scaled_head_loss(hidden, head, targets, scale=1.0, token_weights=weights), hidden, head)
    without = gradients_of(scaled_head_loss(hidden, head, masked, scale=1.0, token_weights=weights), hidden, head)
    for left, right in zip(with_targets, without, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def test_the_gradient_scales_with_the_upstream_gradient() -> None:
    hidden, head, targets, weights = head_inputs()
    hidden.requires_grad_()
    head.requires_grad_()
    tripled = gradients_of(3.0 * scaled_head_loss(hidden, head, targets, scale=0.25, token_weights=weights), hidden, head)
    scaled = gradients_of(scaled_head_loss(hidden, head, targets, scale=0.75, token_weights=weights), hidden, head)
    for left, right in zip(tripled, scaled, strict=True):
        torch.testing.assert_close(left, right)


def test_a_models_weighted_loss_adds_up_over_micro_batches() -> None:
    model = lively(NANO)
    ids, targets = token_ids(NANO, 6, 40), token_ids(NANO, 7, 40)[1:]
    targets[0, 30:] = IGNORED
    weights = torch.rand(6, 40, generator=torch.Generator().manual_seed(3))
    documents = torch.arange(40, dtype=torch.int32).div(11, rounding_mode="floor").repeat(6, 1)
    model.scaled_loss(ids, targets, scale=0.01, weights=weights, documents=documents).backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    total = 0.0
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        loss = model.scaled_loss(ids[rows], targets[rows], scale=0.01, weights=weights[rows], documents=documents[rows])
        loss.backward()
        total += loss.item()
    expected = 0.01 * (weights * model.token_losses(ids, targets, documents)).sum().item()
    assert total == pytest.approx(expected, rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_loss_of_two_targets_is_their_weighted_mean() -> None:
    """One of the targets has weight 3."""
    hidden, head = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    losses = F.cross_entropy(hidden @ head.T, torch.tensor([0, 2]), reduction="none")
    loss = scaled_head_loss(hidden, head, torch.tensor([0, 2]), scale=1 / 4, token_weights=torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx((3 * losses[0].item() + losses[1].item()) / 4)
