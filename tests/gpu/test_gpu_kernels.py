"""The value and gradient of each model component on a device match the fp64 formula."""

from __future__ import annotations

import pytest
import torch
from builders.small_recipes import start
from torch import Tensor

from midstudy.model.attention import causal_attention, document_mask
from midstudy.model.cross_entropy import IGNORED, head_token_losses, scaled_head_loss
from midstudy.model.initialise import initialised
from midstudy.model.language_model import LanguageModel
from midstudy.model.rotary import rotary_tables, split_heads
from midstudy.train.optimizer import global_norm

TYPES = [pytest.param(torch.float32, id="fp32"), pytest.param(torch.bfloat16, id="bf16")]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Allowed relative errors over a whole tensor."""

LENGTHS = (50, 100, 1, 128, 21)
"""Document lengths of a row; their sum is not a multiple of eight, to which the kernels' masks must be padded."""


def drawn(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal random numbers on the CPU in fp64, all representable in `dtype`."""
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype).double()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double().cpu() - expected.cpu()).norm() / expected.norm())


def documents_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))


def causal_formula(query: Tensor, key: Tensor, value: Tensor, same: Tensor) -> Tensor:
    """Compute attention in fp64; `same` marks pairs of positions within one document."""
    length = query.shape[2]
    allowed = same & torch.ones(length, length, dtype=torch.bool).tril()
    scores = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).masked_fill(~allowed, float("-inf"))
    return scores.softmax(dim=-1) @ value


@pytest.mark.parametrize("masked", [False, True], ids=["one_document", "documents"])
@pytest.mark.parametrize("head_size", [16, 64])
@pytest.mark.parametrize("dtype", TYPES)
def test_attention_and_its_gradients(device: torch.device, dtype: torch.dtype, head_size: int, masked: bool) -> None:
    rows = torch.stack((documents_of(LENGTHS if masked else (sum(LENGTHS),)), documents_of((sum(LENGTHS),))))
    exact = [drawn(2, 3, sum(LENGTHS), head_size, seed=seed, dtype=dtype) for seed in range(4)]
    inputs = [tensor.to(device, dtype).requires_grad_() for tensor in exact[:3]]
    mask = document_mask(rows.to(device), dtype) if masked else None
    output = causal_attention(inputs[0], inputs[1], inputs[2], mask)
    output.backward(exact[3].to(device, dtype))

    reference = [tensor.requires_grad_() for tensor in exact[:3]]
    same = rows[:, None, :, None] == rows[:, None, None, :]
    expected = causal_formula(reference[0], reference[1], reference[2], same)
    expected.backward(exact[3])
    assert relative_error(output.detach(), expected.detach()) < ROUNDING[dtype]
    for ours, theirs in zip(inputs, reference, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert relative_error(ours.grad, theirs.grad) < ROUNDING[dtype]


NUM_TOKENS, WIDTH, VOCAB_SIZE = 1_600, 32, 512


def head_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, head, targets (a quarter missing) and weights (some 0)."""
    generator = torch.Generator().manual_seed(2)
    targets = torch.randint(VOCAB_SIZE, (NUM_TOKENS,), generator=generator)
    targets[torch.rand(NUM_TOKENS, generator=generator) < 0.25] = IGNORED
    weights = 3 * torch.rand(NUM_TOKENS, generator=generator)
    weights[::7] = 0
    weights[targets == IGNORED] = 1e6  # must be ignored at positions without a target
    return drawn(NUM_TOKENS, WIDTH, dtype=dtype), drawn(VOCAB_SIZE, WIDTH, seed=1, dtype=dtype), targets, weights


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("dtype", TYPES)
def test_the_loss_and_its_gradients(device: torch.device, dtype: torch.dtype, weighted: bool) -> None:
    hidden, head, targets, weights = head_inputs(dtype)
    ours = [tensor.to(device, dtype).requires_grad_() for tensor in (hidden, head)]
    loss = scaled_head_loss(
        ours[0],
        ours[1],
        targets.to(device),
        scale=1 / 900,
        token_weights=weights.to(device) if weighted else None,
    )
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(2.0 * loss, ours)

    counted = (targets != IGNORED).nonzero()[:, 0]
    exact = [tensor.requires_grad_() for tensor in (hidden, head)]
    logits = exact[0][counted] @ exact[1].T
    losses = logits.logsumexp(dim=1) - logits[torch.arange(len(counted)), targets[counted]]
    expected = ((weights.double()[counted] if weighted else 1.0) * losses).sum() / 900
    tolerance = 1e-6 if dtype == torch.float32 else ROUNDING[dtype]
    assert relative_error(loss.detach(), expected.detach()) < tolerance
    for gradient, reference in zip(gradients, torch.autograd.grad(2.0 * expected, exact), strict=True):
        assert relative_error(gradient, reference) < tolerance


@pytest.mark.parametrize("dtype", TYPES)
def test_the_loss_of_each_token(device: torch.device, dtype: torch.dtype) -> None:
    hidden, head, targets, _ = head_inputs(dtype)
    losses = head_token_losses(hidden.to(device, dtype), head.to(device, dtype), targets.to(device))
    logits = hidden @ head.T
    has_target = targets != IGNORED
    expected = logits.logsumexp(dim=1) - logits[torch.arange(NUM_TOKENS), targets.clamp(min=0)]
    assert bool((losses.cpu()[~has_target] == 0).all())
    assert relative_error(losses.cpu()[has_target], expected[has_target]) < ROUNDING[dtype]


def test_the_rotary_tables_are_identical_on_every_device(device: torch.device) -> None:
    """At 2,048 positions, a last-bit error in a frequency grows to a ten-thousandth of a turn."""
    on_cpu = rotary_tables(2_048, 16, 10_000.0, torch.device("cpu"))
    on_device = rotary_tables(2_048, 16, 10_000.0, device)
    assert all(torch.equal(expected, table.cpu()) for expected, table in zip(on_cpu, on_device, strict=True))
    assert on_device[0].device.type == device.type


@pytest.mark.parametrize("dtype", TYPES)
def test_heads_are_split_and_rotated(device: torch.device, dtype: torch.dtype) -> None:
    num_heads, head_size, dims, length = 3, 16, 8, 40
    exact = drawn(2, length, 3 * num_heads * head_size, dtype=dtype)
    fused = exact.to(device, dtype).requires_grad_()
    cos, sin = rotary_tables(length, dims, 10_000.0, device)
    query, key, value = split_heads(fused, num_heads=num_heads, cos=cos, sin=sin)
    laid_out = exact.view(2, length, num_heads, 3, head_size).permute(3, 0, 2, 1, 4)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * 10_000.0 ** (-torch.arange(0, dims, 2).double() / dims)
    for rotated, original in zip((query, key), laid_out[:2], strict=True):
        left, right = original[..., : dims // 2], original[..., dims // 2 : dims]
        pair = (left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin())
        expected = torch.cat((*pair, original[..., dims:]), dim=-1)
        assert relative_error(rotated.detach(), expected) < ROUNDING[dtype]
    assert torch.equal(value.detach().double().cpu(), laid_out[2])
    (query.float().square().sum() + key.float().square().sum()).backward()
    assert fused.grad is not None  # rotation preserves norms, so the gradient of the sum of squares is twice the input
    gradient = fused.grad.double().cpu().view(2, length, num_heads, 3, head_size).permute(3, 0, 2, 1, 4)
    assert relative_error(gradient[:2], 2 * laid_out[:2]) < ROUNDING[dtype]
    assert bool((gradient[2] == 0).all())


@pytest.mark.parametrize("documents", [False, True], ids=["one_document", "documents"])
@pytest.mark.parametrize("dtype", TYPES)
def test_the_losses_of_the_model(device: torch.device, dtype: torch.dtype, documents: bool) -> None:
    """The whole model's forward pass, compared with the same weights in fp32 on the CPU."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(512, (4, 61), generator=generator)
    targets = torch.randint(512, (4, 61), generator=generator)
    targets[:, 50:] = IGNORED
    rows = documents_of((20, 1, 40)).expand(4, 61) if documents else None
    ours, exact = (initialised(start().model, seed=0) for _ in range(2))
    ours.to(device, dtype)
    exact.load_state_dict(ours.state_dict())
    losses = losses_of(ours, ids, targets, rows)
    expected = losses_of(exact.float(), ids, targets, rows).double()
    assert relative_error(losses, expected) < ROUNDING[dtype]


@torch.no_grad()
def losses_of(model: LanguageModel, ids: Tensor, targets: Tensor, documents: Tensor | None) -> Tensor:
    device = model.head.weight.device
    on_device = None if documents is None else documents.contiguous().to(device)
    return model.token_losses(ids.to(device), targets.to(device), on_device).cpu()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_norm_of_all_gradients_is_computed_in_fp32(device: torch.device, dtype: torch.dtype) -> None:
    gradients = [drawn(*size, seed=seed, dtype=dtype) for seed, size in enumerate([(700, 300), (300,), (1,), (64, 8)])]
    norm = global_norm([gradient.to(device, dtype) for gradient in gradients])
    assert norm.dtype == torch.float32
    assert relative_error(norm, torch.cat([gradient.flatten() for gradient in gradients]).norm()) < 1e-5
