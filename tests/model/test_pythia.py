"""The model is GPT-NeoX: logits, loss and gradients agree with transformers and with plain formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders.small_models import NANO, from_transformers, lively, token_ids
from torch.nn import functional as F

from midstudy.model.architecture import empty_model
from midstudy.model.attention import causal_attention
from midstudy.model.huggingface import from_huggingface, to_huggingface
from midstudy.recipe import ModelShape, pythia

LIKE_70M = ModelShape(name="like 70m", num_layers=6, width=512, num_heads=8, vocab_size=384, max_seq_len=128)
MAX_LOGIT_ERROR = 2e-5  # fp32, for logits with standard deviation about 1; the order of summation differs


@pytest.mark.parametrize("shape", [NANO, LIKE_70M], ids=lambda shape: shape.name)
def test_logits_equal_those_of_transformers(shape: ModelShape, tmp_path: Path) -> None:
    model = lively(shape)
    ids = token_ids(shape, 2, shape.max_seq_len)
    with torch.no_grad():
        ours, theirs = model(ids), from_transformers(tmp_path, model)(ids).logits
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < MAX_LOGIT_ERROR * theirs.std()


def test_hidden_states_equal_those_of_transformers(tmp_path: Path) -> None:
    model = lively(LIKE_70M)
    ids = token_ids(LIKE_70M, 2, LIKE_70M.max_seq_len)
    with torch.no_grad():
        ours = model.hidden_states(ids)
        theirs = from_transformers(tmp_path, model)(ids, output_hidden_states=True).hidden_states
        assert torch.equal(ours[-1], model.hidden(ids))
    assert len(ours) == len(theirs) == LIKE_70M.num_layers + 1
    for layer, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert (one - other).abs().max() < MAX_LOGIT_ERROR * other.std(), layer


def test_gradients_equal_those_of_transformers(tmp_path: Path) -> None:
    model = lively(NANO)
    other = from_transformers(tmp_path, model)
    ids, targets = token_ids(NANO, 2, 32), token_ids(NANO, 3, 32)[1:]
    model.scaled_loss(ids, targets, scale=1 / targets.numel()).backward()
    F.cross_entropy(other(ids).logits.flatten(0, 1), targets.flatten()).backward()
    theirs = from_huggingface({name: p.grad for name, p in other.named_parameters()}, NANO)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-3, atol=1e-6, msg=name)


def test_weights_survive_conversion_to_hugging_face_and_back() -> None:
    model = lively(NANO)
    back = from_huggingface(to_huggingface(model.state_dict(), NANO), NANO)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_a_checkpoint_of_another_shape_is_rejected_by_tensor_name() -> None:
    weights = to_huggingface(lively(NANO).state_dict(), NANO)
    with pytest.raises(ValueError, match=r"gpt_neox.embed_in.weight: expected shape \(384, 64\) .*, got \(512, 64\)"):
        from_huggingface(weights, pythia("nano", vocab_size=384))
    missing = {name: tensor for name, tensor in weights.items() if "layers.1.mlp.dense_h_to_4h.bias" not in name}
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.dense_h_to_4h\.bias: missing"):
        from_huggingface(missing, NANO)
    with pytest.raises(ValueError, match="not a weight of a GPT-NeoX model"):
        from_huggingface(weights | {"gpt_neox.layers.2.attention.dense.bias": torch.zeros(64)}, NANO)


@pytest.mark.parametrize(
    ("size", "total", "non_embedding"),
    [
        ("70m", 70_426_624, 18_915_328),
        ("160m", 162_322_944, 85_056_000),
        ("410m", 405_334_016, 302_311_424),
        ("1b", 1_011_781_632, 805_736_448),
    ],
)
def test_the_number_of_parameters_is_the_published_one(size: str, total: int, non_embedding: int) -> None:
    shape = pythia(size)
    counts = {name: p.numel() for name, p in empty_model(shape, device="meta").named_parameters()}
    outside = counts["embedding.weight"] + counts["head.weight"]
    assert (sum(counts.values()), sum(counts.values()) - outside) == (total, non_embedding)
    assert (shape.num_parameters, shape.num_parameters_non_embedding) == (total, non_embedding)


def test_the_loss_is_cross_entropy_over_positions_with_a_target() -> None:
    model = lively(NANO)
    ids, targets = token_ids(NANO, 3, 40), token_ids(NANO, 4, 40)[1:]
    targets[0, :17] = -100
    targets[2, 5:] = -100
    logits = model(ids).double().flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), reduction="sum").item()
    assert model.scaled_loss(ids, targets, scale=0.5).item() == pytest.approx(0.5 * expected, rel=1e-5)
    losses = model.token_losses(ids, targets)
    assert losses.shape == targets.shape
    assert losses.double().sum().item() == pytest.approx(expected, rel=1e-5)
    assert torch.all(losses[targets == -100] == 0)


def test_the_loss_stays_finite_when_the_softmax_underflows() -> None:
    model = lively(NANO)
    with torch.no_grad():
        model.head.weight.mul_(2_000)
    ids, targets = token_ids(NANO, 1, 8), token_ids(NANO, 2, 8)[1:]
    expected = F.cross_entropy(model(ids).double()[0], targets[0], reduction="sum").item()
    assert expected > 8 * 110
    assert model.scaled_loss(ids, targets, scale=1.0).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_scales_with_the_upstream_gradient() -> None:
    model = lively(NANO)
    ids, targets = token_ids(NANO, 1, 8), token_ids(NANO, 2, 8)[1:]
    (3.0 * model.scaled_loss(ids, targets, scale=0.25)).backward()
    scaled = model.head.weight.grad
    model.zero_grad(set_to_none=True)
    model.scaled_loss(ids, targets, scale=0.75).backward()
    torch.testing.assert_close(scaled, model.head.weight.grad)


def test_padding_on_the_right_does_not_change_earlier_positions() -> None:
    model = lively(NANO)
    ids = token_ids(NANO, 1, 24)
    padded = torch.cat((ids, torch.zeros(1, 8, dtype=torch.int64)), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded)[:, :24], model(ids), rtol=1e-5, atol=1e-5)


def test_attention_in_bfloat16_is_close_to_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 17, 16, generator=generator).bfloat16() for _ in range(3))
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=True)
    torch.testing.assert_close(causal_attention(query, key, value).double(), expected, rtol=0.03, atol=0.03)


def test_bfloat16_gradients_have_the_direction_of_fp32_gradients() -> None:
    exact, rounded = lively(NANO), lively(NANO).bfloat16()
    ids, targets = token_ids(NANO, 4, 32), token_ids(NANO, 5, 32)[1:]
    for model in (exact, rounded):
        model.scaled_loss(ids, targets, scale=1 / targets.numel()).backward()
    for (name, parameter), other in zip(exact.named_parameters(), rounded.parameters(), strict=True):
        assert parameter.grad is not None
        assert other.grad is not None
        cosine = F.cosine_similarity(parameter.grad.flatten().double(), other.grad.flatten().double(), dim=0)
        assert cosine > 0.99, name


def test_a_sequence_longer_than_the_context_is_rejected() -> None:
    with pytest.raises(ValueError, match="expected sequences of at most 64 tokens, the context, got 65"):
        lively(NANO)(torch.zeros(1, 65, dtype=torch.int64))
