"""A document in a packed row gives the same results as alone, at any place in the row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders.small_models import LLAMA_NANO, NANO, from_transformers, lively, token_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from midstudy.model.architecture import empty_model
from midstudy.model.attention import causal_attention, document_mask
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.shape import AnyShape
from midstudy.train.precision import Weights

LENGTHS = (5, 24, 1, 20, 14)
"""Lengths of documents that fill NANO's context of 64."""

# Largest and mean difference allowed between two logits of one position, in standard deviations of the logits. In bfloat16
# a rotation by another angle rounds differently; bfloat16 logits differ from fp32 ones by (0.036, 0.0058).
TOLERANCES = {"fp32": (1e-5, 1e-6), "bf16_mixed": (0.05, 0.006), "bf16_true": (0.05, 0.006)}


def model_in(precision: str, shape: AnyShape = NANO) -> LanguageModel:
    return Weights(empty_model(shape, device="meta"), dict(lively(shape).named_parameters()), precision=precision).model


def numbers(lengths: tuple[int, ...], *, num_rows: int = 1) -> Tensor:
    """Return document numbers for documents of these lengths, in each of `num_rows` rows."""
    return torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths)).repeat(num_rows, 1)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("shape", [NANO, LLAMA_NANO], ids=lambda shape: shape.name)
def test_a_packed_document_has_the_logits_it_has_alone(shape: AnyShape, precision: str) -> None:
    model = model_in(precision, shape)
    ids = token_ids(NANO, 2, sum(LENGTHS))
    largest, average = TOLERANCES[precision]
    with torch.no_grad():
        packed = model(ids, numbers(LENGTHS, num_rows=2)).float()
        alone = torch.cat([model(document) for document in ids.split(LENGTHS, dim=1)], dim=1).float()
        unmasked = model(ids).float()
    error = (packed - alone).abs() / alone.std()
    assert error.max() < largest
    assert error.mean() < average
    # Without the mask the first document is unchanged, but the others are not.
    assert (unmasked - alone)[:, LENGTHS[0] :].abs().mean() > 0.2 * alone.std()


def test_a_packed_document_has_the_logits_of_transformers(tmp_path: Path) -> None:
    model = lively(NANO)
    ids = token_ids(NANO, 1, sum(LENGTHS))
    theirs = from_transformers(tmp_path, model)
    with torch.no_grad():
        packed = model(ids, numbers(LENGTHS))
        alone = torch.cat([theirs(document).logits for document in ids.split(LENGTHS, dim=1)], dim=1)
    assert (packed - alone).abs().max() < TOLERANCES["fp32"][0] * alone.std()


def gradients(model: LanguageModel) -> dict[str, Tensor]:
    by_name = {name: parameter.grad.float() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    assert len(by_name) == len(list(model.parameters()))
    return by_name


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("shape", [NANO, replace(LLAMA_NANO, name="tied", is_tied=True)], ids=lambda shape: shape.name)
def test_the_gradient_of_a_packed_row_is_the_sum_over_its_documents(shape: AnyShape, precision: str) -> None:
    model = model_in(precision, shape)
    ids, targets = token_ids(NANO, 2, sum(LENGTHS)), token_ids(NANO, 3, sum(LENGTHS))[1:]
    packed_loss = model.scaled_loss(ids, targets, scale=1 / 128, documents=numbers(LENGTHS, num_rows=2))
    packed_loss.backward()
    packed = gradients(model)
    total = 0.0
    for document, target in zip(ids.split(LENGTHS, dim=1), targets.split(LENGTHS, dim=1), strict=True):
        loss = model.scaled_loss(document, target, scale=1 / 128)
        loss.backward()  # accumulates in the parameters
        total += loss.item()
    assert packed_loss.item() == pytest.approx(total, rel=1e-5 if precision == "fp32" else 1e-2)
    for name, expected in gradients(model).items():
        if precision == "fp32":
            torch.testing.assert_close(packed[name], expected, rtol=1e-3, atol=1e-6, msg=name)
        else:
            assert F.cosine_similarity(packed[name].flatten(), expected.flatten(), dim=0) > 0.99, name


@pytest.mark.parametrize("precision", TOLERANCES)
def test_no_information_passes_between_documents(precision: str) -> None:
    model = model_in(precision)
    ids = token_ids(NANO, 1, sum(LENGTHS))
    documents = numbers(LENGTHS)
    changed = ids.clone()
    changed[documents == 1] = (changed[documents == 1] + 1) % NANO.vocab_size
    with torch.no_grad():
        before, after = model(ids, documents), model(changed, documents)
    assert torch.equal(before[documents != 1], after[documents != 1])
    assert not torch.equal(before[documents == 1], after[documents == 1])


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 16), min_size=2, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_losses_do_not_depend_on_how_documents_are_packed(lengths: list[int], order) -> None:
    """One document per row, or shuffled into as few rows as possible: every token has the same loss."""
    model = lively(NANO)
    documents = [token_ids(NANO, 1, 1 + sum(lengths))[0, sum(lengths[:i]) :][: n + 1] for i, n in enumerate(lengths)]
    shuffled = list(range(len(documents)))
    order.shuffle(shuffled)
    rows: list[list[int]] = [[]]
    for index in shuffled:
        if sum(lengths[member] for member in rows[-1]) + lengths[index] > 32:
            rows.append([])
        rows[-1].append(index)
    with torch.no_grad():
        for row in rows:
            ids, targets = (
                torch.cat([documents[member][cut] for member in row])[None] for cut in (slice(-1), slice(1, None))
            )
            packed = model.token_losses(ids, targets, numbers(tuple(lengths[member] for member in row)))
            for index, losses in zip(row, packed[0].split([lengths[member] for member in row]), strict=True):
                alone = model.token_losses(documents[index][None, :-1], documents[index][None, 1:])[0]
                torch.testing.assert_close(losses, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_one_document_per_row_equals_no_mask(precision: str) -> None:
    model = model_in(precision)
    ids, targets = token_ids(NANO, 2, 40), token_ids(NANO, 3, 40)[1:]
    with torch.no_grad():
        masked = model.token_losses(ids, targets, torch.zeros(2, 40, dtype=torch.int32))
        torch.testing.assert_close(masked, model.token_losses(ids, targets), rtol=1e-5, atol=1e-5)


def test_the_mask_by_hand() -> None:
    looks_at = document_mask(torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.int32), torch.float32)[0, 0] == 0
    assert looks_at.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(4, 1, 12), (50, 100, 1, 128, 21)], ids=sum)
@pytest.mark.parametrize("masked", [True, False])
def test_attention_and_its_gradient_follow_the_formula(
    dtype: torch.dtype, device: str, lengths: tuple[int, ...], masked: bool
) -> None:
    """With one block of queries, and with several of which the last is short; documents start and end inside blocks."""
    length = sum(lengths)
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 3, length, 16, generator=generator).to(dtype).double() for _ in range(4)]
    documents = torch.stack((numbers(lengths if masked else (length,))[0], numbers((length,))[0]))
    inputs = [tensor.to(device, dtype).requires_grad_() for tensor in exact[:3]]
    mask = document_mask(documents.to(device), dtype) if masked else None
    actual = causal_attention(inputs[0], inputs[1], inputs[2], mask)
    actual.backward(exact[3].to(device, dtype))

    query, key, value = (tensor.requires_grad_() for tensor in exact[:3])
    same = documents[:, None, :, None] == documents[:, None, None, :]
    allowed = same & torch.ones(length, length, dtype=torch.bool).tril()
    scores = (query @ key.transpose(2, 3) / 16**0.5).masked_fill(~allowed, float("-inf"))
    expected = scores.softmax(dim=-1) @ value
    expected.backward(exact[3])
    tolerance = 1e-5 if dtype == torch.float32 else 0.06
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(inputs, (query, key, value), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.double().cpu(), theirs.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_rounding_errors_do_not_grow_with_the_length(dtype: torch.dtype, bound: float) -> None:
    """A key's gradient sums over all later queries; at 2,048 positions its relative error is still that of one rounding."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(1, 2, 2_048, 16, generator=generator).to(dtype).double() for _ in range(4)]
    gradients = []
    for kind in (dtype, torch.float64):
        inputs = [tensor.to(kind).requires_grad_() for tensor in exact[:3]]
        causal_attention(inputs[0], inputs[1], inputs[2]).backward(exact[3].to(kind))
        gradients.append([tensor.grad.double() for tensor in inputs if tensor.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < bound
