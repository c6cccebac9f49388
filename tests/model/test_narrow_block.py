"""A narrow model's block gives the plain block's values and gradients, for any split of the work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders.small_models import NANO, lively, token_ids
from torch import Tensor

from midstudy.model import narrow_block as narrow
from midstudy.model.attention import document_mask
from midstudy.model.narrow_block import is_narrow, narrow_block
from midstudy.model.pythia import PythiaBlock
from midstudy.model.rotary import rotary_tables
from midstudy.recipe import ModelShape

SHAPES = [
    ModelShape(name="quarter", num_layers=1, width=64, num_heads=4, vocab_size=64),
    ModelShape(name="whole heads rotated", num_layers=1, width=24, num_heads=3, vocab_size=64, rotary_fraction=1.0),
    ModelShape(name="one head", num_layers=1, width=20, num_heads=1, vocab_size=64, rotary_fraction=0.3),
]


class Given:
    """A block in which every parameter affects the output, with an input, an upstream gradient and rotary tables."""

    def __init__(self, shape: ModelShape, batch: int, length: int, dtype: torch.dtype = torch.float32) -> None:
        draw = torch.Generator().manual_seed(0)
        self.block = PythiaBlock(shape).to(dtype)
        with torch.no_grad():
            for parameter in self.block.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw) + (parameter.dim() == 1))
        self.x = torch.randn(batch, length, shape.width, generator=draw).to(dtype).requires_grad_()
        self.upstream = torch.randn(batch, length, shape.width, generator=draw).to(dtype)
        self.cos, self.sin = (table.to(dtype) for table in rotary_tables(length, shape.rotary_dims, 1e4, self.x.device))

    def plain(self, mask: Tensor | None = None) -> Tensor:
        return self.block.feed_forward(self.x, self.block.attend(self.x, self.cos, self.sin, mask))

    def narrow(self, mask: Tensor | None = None) -> Tensor:
        parameters = [*self.block.parameters()]
        return narrow_block(self.x, self.cos, self.sin, mask, num_heads=self.block.num_heads, parameters=parameters)

    def gradients(self, result: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
        inputs = (self.x, *self.block.parameters())
        return [result.detach(), *torch.autograd.grad(result, inputs, self.upstream if upstream is None else upstream)]


def require_close(actual: list[Tensor], expected: list[Tensor], bound: float) -> None:
    for left, right in zip(actual, expected, strict=True):
        assert left.shape == right.shape
        assert (left - right).norm() <= bound * right.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 1), (2, 17), (5, 64), (1, 65), (7, 129)])
@pytest.mark.parametrize("num_rows", [1, 150, 512])
def test_values_and_gradients_equal_those_of_the_plain_block(
    shape: ModelShape, batch: int, length: int, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences are processed one by one, in groups with a smaller last one, and all at once."""
    monkeypatch.setattr(narrow, "_ROWS", num_rows)
    given = Given(shape, batch, length)
    require_close(given.gradients(given.narrow()), given.gradients(given.plain()), 1e-5)


@pytest.mark.parametrize("num_rows", [1, 200, 512])
def test_attention_stays_inside_documents(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "_ROWS", num_rows)
    given = Given(SHAPES[0], 5, 90)
    documents = torch.arange(90).div(torch.tensor([[7], [90], [33], [1], [64]]), rounding_mode="floor")
    mask = document_mask(documents, torch.float32)
    expected = given.gradients(given.plain(mask))
    require_close(given.gradients(given.narrow(mask)), expected, 1e-5)
    assert (given.narrow() - expected[0]).norm() > 0.01 * expected[0].norm()


def test_gradients_agree_with_finite_differences() -> None:
    """In fp64, over several query blocks."""
    given = Given(SHAPES[1], 3, 5, torch.float64)

    def compute(*tensors: Tensor) -> Any:
        return narrow_block(tensors[0], given.cos, given.sin, None, num_heads=3, parameters=tensors[1:])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrow, "_QUERIES", 2)
        patch.setattr(narrow, "_ROWS", 10)
        assert torch.autograd.gradcheck(compute, (given.x, *given.block.parameters()), fast_mode=True)


def test_the_upstream_gradient_may_have_any_memory_layout() -> None:
    given = Given(SHAPES[0], 3, 40)
    turned = given.upstream.transpose(0, 2).contiguous().transpose(0, 2)
    same = given.upstream[:1, :1].expand_as(given.upstream)
    for upstream in (turned, same):
        assert not upstream.is_contiguous()
        gradients = given.gradients(given.narrow(), upstream)
        assert all(map(torch.equal, gradients, given.gradients(given.narrow(), upstream.contiguous())))
    given.x = given.x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    require_close(given.gradients(given.narrow()), given.gradients(given.plain()), 1e-5)


def test_results_are_reproducible_bit_for_bit() -> None:
    given = Given(SHAPES[0], 9, 100)
    first = given.gradients(given.narrow())
    assert all(map(torch.equal, given.gradients(given.narrow()), first))
    with torch.no_grad():
        assert torch.equal(given.narrow(), first[0])


def test_a_retained_graph_can_be_used_twice() -> None:
    given = Given(SHAPES[0], 3, 70)
    result = given.narrow()
    inputs = (given.x, *given.block.parameters())
    first = torch.autograd.grad(result, inputs, given.upstream, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(result, inputs, given.upstream), first))


def test_no_two_parameters_share_a_gradient() -> None:
    """The optimizer clips gradients in place."""
    given = Given(SHAPES[0], 2, 20)
    given.narrow().backward(given.upstream)
    gradients = [parameter.grad for parameter in given.block.parameters() if parameter.grad is not None]
    assert len({gradient.untyped_storage().data_ptr() for gradient in gradients}) == len(gradients) == 12


@pytest.mark.parametrize(
    ("width", "dtype", "device", "expected"),
    [
        (256, torch.float32, "cpu", True),
        (512, torch.float32, "cpu", False),
        (64, torch.bfloat16, "cpu", False),
        (64, torch.float32, "meta", False),
    ],
)
def test_which_models_are_narrow(width: int, dtype: torch.dtype, device: str, expected: bool) -> None:
    assert is_narrow(torch.empty(2, 3, width, dtype=dtype, device=device)) is expected


def test_a_narrow_model_uses_it_and_a_wide_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare loss and all gradients of whole models, with the head's rows split too."""
    results = []
    for widest in (256, 1):
        monkeypatch.setattr(narrow, "WIDEST", widest)
        model = lively(NANO)
        loss = model.scaled_loss(token_ids(NANO, 12, 50), token_ids(NANO, 13, 50)[1:], scale=1 / 600)
        loss.backward()
        names = {type(node).__name__ for node in nodes(loss)}
        assert ("_NarrowBlockBackward" in names) == (widest == 256)
        assert ("_NarrowHeadCrossEntropyBackward" in names) == (widest == 256)
        gradients = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
        results.append([loss.detach(), *gradients])
    require_close(results[0], results[1], 1e-5)


def nodes(loss: Tensor) -> list[Any]:
    """Return every node of the autograd graph of `loss`."""
    reached, waiting = [], [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in reached:
            reached.append(node)
            waiting += [following for following, _ in node.next_functions]
    return reached
