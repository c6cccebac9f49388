"""Muon and parameter groups: against float64 and PyTorch, the band of singular values, exact resume, ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.small_recipes import GENERAL, LLAMA, TIED, phase, start, with_muon
from builders.training_runs import batch_at, begin, curriculum, same_bits, train, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from midstudy.model.initialise import initialised
from midstudy.recipe import AdamW, Constant, Curriculum, Group, LlamaShape, Mixture, Muon, RecipeError
from midstudy.recipe.optimizer import SELECTIONS
from midstudy.train import checkpoint
from midstudy.train.engine import TrainingRun
from midstudy.train.muon import MuonGroup, orthogonalised
from midstudy.train.optimizer import Optimizer, selection_of

PRECISIONS = ("fp32", "bf16_mixed", "bf16_true")
SHAPE = start().model
CONSTANT = Muon(momentum=0.9, warm_from=0.9, warm_updates=0)


# -- selections -------------------------------------------------------------------------------------------------------


def test_every_parameter_is_in_one_selection() -> None:
    """Two layers of nano: qkv, output and two of the MLP are matrices; vectors are their biases and two norms' weights."""
    model = initialised(SHAPE, seed=0)
    members: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        members.setdefault(selection_of(name, parameter), []).append(name)
    assert {name: len(of) for name, of in members.items()} == {"embedding": 1, "head": 1, "matrices": 8, "vectors": 18}
    assert members["embedding"] + members["head"] == ["embedding.weight", "head.weight"]
    sizes = {name: sum(model.get_parameter(one).numel() for one in of) for name, of in members.items()}
    assert sizes["matrices"] == SHAPE.num_parameters_of_matrices
    assert sum(sizes.values()) == SHAPE.num_parameters


def of_tied(optimizer: AdamW) -> AdamW:
    """Return the optimizer with one rate for embedding and head, between their own: more makes a tied model diverge."""
    shared = ("embedding", "head")
    groups = (replace(group, lr_factor=0.02) if group.select in shared else group for group in optimizer.groups)
    return replace(optimizer, groups=tuple(groups))


def test_a_tied_embedding_is_in_one_selection_and_its_matrices_are_apart() -> None:
    """Two layers: query, key, value, output and three of the MLP are matrices; two norms each and the last are vectors."""
    members: dict[str, list[str]] = {}
    for name, parameter in initialised(TIED, seed=0).named_parameters():
        members.setdefault(selection_of(name, parameter), []).append(name)
    assert {name: len(of) for name, of in members.items()} == {"embedding": 1, "matrices": 14, "vectors": 5}


def test_the_group_of_a_tied_head_must_be_that_of_the_embedding() -> None:
    """Otherwise numbers that train nothing would give equal weights two ids."""
    with pytest.raises(RecipeError, match=r"pretrain\.optimizer\.groups\.head: expected the numbers of group embedding"):
        curriculum(optimizer=with_muon(), model=TIED)
    curriculum(optimizer=of_tied(with_muon()), model=TIED)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", [LLAMA, TIED], ids=lambda model: model.name)
def test_muon_trains_a_llama_and_resumes_bit_for_bit(model: LlamaShape, precision: str, tmp_path: Path) -> None:
    course = curriculum(precision, optimizer=of_tied(with_muon()) if model.is_tied else with_muon(), model=model)
    whole = begin(precision, model=model)
    losses = [metrics["loss_nats"] for metrics in train(whole, course, 24)]
    assert losses[-1] < losses[0] - 2.0
    run = begin(precision, model=model)
    for stop in (7, 12, 20):
        train(run, course, stop)
        run.save(tmp_path / str(stop), with_optimizer=True)
        run = TrainingRun.load(tmp_path / str(stop))
    train(run, course, 24)
    assert same_bits(weights(run), weights(whole))


@pytest.mark.parametrize("dimensions", [0, 3, 4])
def test_a_parameter_in_no_group_is_an_error_that_names_it(dimensions: int) -> None:
    odd = nn.Parameter(torch.zeros((2,) * dimensions))
    parameters = {**dict(initialised(SHAPE, seed=0).named_parameters()), "blocks.0.filter": odd}
    with pytest.raises(ValueError, match=rf"parameter blocks\.0\.filter: .* got {dimensions}: it is in no group"):
        Optimizer(with_muon(), parameters, shape=SHAPE)


# -- the update -------------------------------------------------------------------------------------------------------


def reference_direction(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the polynomial to the singular values instead of multiplying matrices."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    singular = singular / np.sqrt((singular**2).sum())
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return (left * singular) @ right


class Reference:
    """Muon of one matrix in float64."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().double().numpy().copy()
        self.buffer = np.zeros_like(self.weight)

    def update(self, gradient: Tensor, *, lr: float, momentum: float, weight_decay: float) -> None:
        of_gradient = gradient.detach().double().numpy()
        self.buffer = momentum * self.buffer + (1 - momentum) * of_gradient
        direction = reference_direction(momentum * self.buffer + (1 - momentum) * of_gradient)
        rows, columns = self.weight.shape
        self.weight = (1 - lr * weight_decay) * self.weight - lr * max(1, rows / columns) ** 0.5 * direction


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31 - 1), st.sampled_from([1e-12, 1.0, 1e12]), st.integers(1, 3)
)
@settings(deadline=None)
def test_iterations_apply_the_polynomial_to_singular_values(
    rows: int, columns: int, seed: int, size: float, number: int
) -> None:
    """For any shape, and for any size of the gradient: a matrix and its multiples have one direction."""
    draw = np.random.default_rng(seed)
    matrices = draw.standard_normal((number, rows, columns))
    found = orthogonalised(torch.from_numpy(matrices * size)).numpy()
    norms = np.sqrt((matrices**2).sum(axis=(1, 2), keepdims=True)) * size
    if size >= 1:  # the smallest is damped by the least norm
        for one, expected in zip(found, matrices, strict=True):
            np.testing.assert_allclose(one, reference_direction(expected), atol=1e-5)
    assert np.isfinite(found).all()
    assert (norms > 0).all()


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (256, 64), (64, 256), (1, 32)])
def test_singular_values_of_an_update_lie_in_the_known_band(
    rows: int, columns: int, dtype: torch.dtype, slack: float
) -> None:
    """Of a gradient with all singular values within a factor of 30: between 0.68 and 1.14, as in Jordan's Figure."""
    draw = np.random.default_rng(rows + columns)
    number = min(rows, columns)
    left, right = (np.linalg.qr(draw.standard_normal((size, number)))[0] for size in (rows, columns))
    matrix = (left * np.geomspace(1, 1 / 30, number)) @ right.T
    found = orthogonalised(torch.from_numpy(matrix)[None].to(dtype))[0].double()
    singular = torch.linalg.svdvals(found)
    assert 0.68 - slack <= singular.min() <= singular.max() <= 1.14 + slack
    cosine = (found.numpy() * (left @ right.T)).sum() / math.sqrt(number) / found.norm().item()
    assert cosine > 0.97


def test_a_gradient_of_zeros_changes_nothing_but_by_decay() -> None:
    parameter = nn.Parameter(torch.ones(8, 4))
    group = Group(select="matrices", lr_factor=0.5, rule=CONSTANT)
    muon = MuonGroup(group, {"blocks.0.mlp_in.weight": parameter}, shape=SHAPE, weight_decay=0.1, dtype=torch.float32)
    parameter.grad = torch.zeros(8, 4)
    muon.update(lr=1.0, num_updates=0)
    assert torch.equal(parameter, torch.full((8, 4), 1 - 0.5 * 0.1))


def test_momentum_warms_up_linearly_and_stays() -> None:
    group = with_muon().groups[2]
    muon = MuonGroup(group, {}, shape=SHAPE, weight_decay=0.0, dtype=torch.float32)
    expected = {0: 0.85, 1: 0.85 + 0.1 / 300, 150: 0.90, 300: 0.95, 301: 0.95, 10**6: 0.95}
    assert {step: muon.momentum(num_updates=step) for step in expected} == pytest.approx(expected, rel=1e-12)
    constant = Group(select="matrices", lr_factor=0.1, rule=CONSTANT)
    assert MuonGroup(constant, {}, shape=SHAPE, weight_decay=0.0, dtype=torch.float32).momentum(num_updates=0) == 0.9


def grouped(rule: Muon | None, **changes: Any) -> AdamW:
    """Return an optimizer with other numbers for each group."""
    groups = (
        Group(select="embedding", lr_factor=0.3, weight_decay=0.0),
        Group(select="head", lr_factor=0.02, beta1=0.7, epsilon=1e-6),
        Group(select="matrices", lr_factor=0.05, rule=rule, weight_decay=0.4),
        Group(select="vectors", lr_factor=0.01, beta2=0.8),
    )
    fields: dict[str, Any] = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-10, "weight_decay": 0.2, "clip_norm": 0.5}
    return AdamW(**({"groups": groups} | fields | changes))


def torch_groups(named: dict[str, nn.Parameter], *, with_matrices: bool) -> torch.optim.AdamW:
    """Return `grouped` as PyTorch's AdamW with parameter groups written out, at a multiplier of 0.1."""
    matrices = [one for name, one in named.items() if one.dim() == 2 and name.startswith("blocks")]
    groups: list[dict[str, Any]] = [
        {"params": [named["embedding.weight"]], "lr": 0.03, "weight_decay": 0.0},
        {"params": [named["head.weight"]], "lr": 0.002, "betas": (0.7, 0.95), "eps": 1e-6},
        {"params": [one for one in named.values() if one.dim() == 1], "lr": 0.001, "betas": (0.8, 0.8)},
        *([{"params": matrices, "lr": 0.005, "weight_decay": 0.4}] if with_matrices else []),
    ]
    return torch.optim.AdamW(groups, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.2, foreach=False, fused=False)


@pytest.mark.parametrize("rule", [None, Muon(momentum=0.9, warm_from=0.5, warm_updates=3)])
def test_updates_of_groups_are_those_of_torchs_adamw_and_of_float64(rule: Muon | None) -> None:
    """Trained by the engine, with clipping over all groups; with Muon, matrices follow the reference, queries apart."""
    num_steps = 5
    course = Curriculum.of(
        start(), phase(Mixture.only(GENERAL), num_steps, optimizer=grouped(rule), schedule=Constant(lr=0.1))
    )
    run = begin()
    train(run, course, num_steps)

    model = initialised(SHAPE, seed=0)
    named = dict(model.named_parameters())
    reference = torch_groups(named, with_matrices=rule is None)
    heads, size = SHAPE.num_heads, SHAPE.head_size
    matrices: dict[str, list[tuple[Tensor, Reference]]] = {}
    for name, one in named.items():
        if rule is None or one.dim() == 1 or not name.startswith("blocks"):
            continue
        rows = [torch.arange(len(one))]
        if "qkv" in name:  # rows of query, key and value: in each head, its query's, its key's, its value's
            rows = [torch.cat([torch.arange(size) + (3 * head + part) * size for head in range(heads)]) for part in range(3)]
        matrices[name] = [(part, Reference(one[part])) for part in rows]
    for step in range(num_steps):
        batch = batch_at(step)
        loss = F.cross_entropy(
            model(torch.from_numpy(batch.input_ids)).flatten(0, 1), torch.from_numpy(batch.targets).flatten()
        )
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        reference.step()
        momentum = 0.9 if rule is None else min(0.5 + 0.4 * step / 3, 0.9)
        for name, references in matrices.items():
            gradient = named[name].grad
            assert gradient is not None
            for chosen, of in references:
                of.update(gradient[chosen], lr=0.005, momentum=momentum, weight_decay=0.4)
                named[name].data[chosen] = torch.from_numpy(of.weight).float()
    drawn = initialised(SHAPE, seed=0).state_dict()
    for (name, expected), trained in zip(model.named_parameters(), run.model.parameters(), strict=True):
        if name.endswith("qkv.bias"):  # the gradient of keys' biases is rounding error, which Adam amplifies
            continue
        torch.testing.assert_close(trained, expected, rtol=1e-3, atol=1e-4, msg=name)
        assert (expected - drawn[name]).abs().max() > 3e-3, name


def test_in_bfloat16_matrices_follow_torchs_muon() -> None:
    """PyTorch's Muon iterates in bfloat16; it is given query, key and value as three parameters."""
    ours = initialised(SHAPE, seed=0)
    named = dict(ours.named_parameters())
    optimizer = Optimizer(grouped(CONSTANT), named, shape=SHAPE, compute_type=torch.bfloat16)
    heads, size, width = SHAPE.num_heads, SHAPE.head_size, SHAPE.width

    def apart(name: str, tensor: Tensor) -> list[Tensor]:
        if not name.endswith("qkv.weight"):
            return [tensor.clone()]
        return [part.reshape(width, width).clone() for part in tensor.view(heads, 3, size, width).unbind(1)]

    theirs = {
        name: [nn.Parameter(part) for part in apart(name, one.detach())]
        for name, one in named.items()
        if selection_of(name, one) == "matrices"
    }
    every = [part for parts in theirs.values() for part in parts]
    muon = torch.optim.Muon(every, lr=0.05 * 0.1, weight_decay=0.4, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for name, parameter in named.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            for part, gradient in zip(theirs.get(name, ()), apart(name, parameter.grad), strict=name in theirs):
                part.grad = gradient
        optimizer.update(lr=0.1)
        muon.step()
    for name, parts in theirs.items():
        for part, trained in zip(parts, apart(name, named[name].detach()), strict=True):
            torch.testing.assert_close(trained, part.detach(), rtol=0, atol=2e-4, msg=name)  # steps are about 6e-4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_iterations_run_in_the_dtype_of_the_forward_pass(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def recorded(matrices: Tensor) -> Tensor:
        seen.append(matrices.dtype)
        return orthogonalised(matrices)

    monkeypatch.setattr("midstudy.train.muon.orthogonalised", recorded)
    run = begin(precision)
    train(run, curriculum(precision, optimizer=with_muon()), 1)
    assert seen == 8 * [torch.float32 if precision == "fp32" else torch.bfloat16]
    assert run.model.get_parameter("blocks.0.qkv.weight").dtype == seen[0]


def test_a_group_with_the_rate_zero_stays_as_it_is() -> None:
    frozen = tuple(Group(select=name, lr_factor=0.0 if name == "matrices" else 0.01) for name in SELECTIONS)
    course = Curriculum.of(
        start(),
        phase(Mixture.only(GENERAL), 2, optimizer=with_muon(groups=frozen, weight_decay=0.5), schedule=Constant(lr=1.0)),
    )
    run = begin()
    before = weights(run)
    train(run, course, 2)
    for name, after in weights(run).items():
        assert torch.equal(after, before[name]) == (selection_of(name, after) == "matrices"), name


def test_rates_of_groups_are_logged_beside_the_multiplier() -> None:
    course = curriculum(optimizer=with_muon())
    for step, logged in enumerate(train(begin(), course, 24)):
        multiplier = course.curve.lr(step)
        assert logged["lr"] == multiplier
        assert logged["lr_matrices"] == pytest.approx(0.02 * multiplier)
        assert logged["lr_embedding"] == pytest.approx(0.2 * 12**0.5 * multiplier)
        assert logged["lr_head"] == pytest.approx(0.004 * 12**0.5 * multiplier)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_with_muon_reduces_the_loss(precision: str) -> None:
    metrics = train(begin(precision), curriculum(precision, optimizer=with_muon()), 24)
    assert metrics[-1]["loss_nats"] < metrics[0]["loss_nats"] - 3.0


# -- exact resume -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Tensor]]:
    finals = {}
    for precision in PRECISIONS:
        run = begin(precision)
        train(run, curriculum(precision, optimizer=with_muon()), 24)
        finals[precision] = weights(run)
    return finals


@given(st.sampled_from(PRECISIONS), st.sets(st.integers(1, 23), max_size=4))
@settings(deadline=None, max_examples=12)
def test_interrupted_at_any_steps_a_run_ends_with_the_same_bits(
    uninterrupted: dict[str, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory, precision: str, stops: set[int]
) -> None:
    """Within phases and at both boundaries: where momentum continues, and where it starts again with its warmup."""
    course, folder = curriculum(precision, optimizer=with_muon()), tmp_path_factory.mktemp("stops")
    run = begin(precision)
    for stop in sorted(stops):
        train(run, course, stop)
        run.save(folder / str(stop), with_optimizer=True)
        run = TrainingRun.load(folder / str(stop))
    train(run, course, 24)
    assert same_bits(weights(run), uninterrupted[precision])


def test_a_checkpoint_holds_one_moment_of_matrices_and_two_of_others(tmp_path: Path) -> None:
    run = begin()
    train(run, curriculum(optimizer=with_muon()), 3)
    run.save(tmp_path / "state", with_optimizer=True)
    saved = checkpoint.read(tmp_path / "state")
    assert saved.moments is not None
    kinds: dict[str, set[str]] = {}
    for key in saved.moments:
        kind, _, name = key.partition(".")
        kinds.setdefault(selection_of(name, saved.weights[name]), set()).add(kind)
    both = {"exp_avg", "exp_avg_sq"}
    assert kinds == {"embedding": both, "head": both, "vectors": both, "matrices": {"momentum"}}
    assert len(saved.moments) == 8 + 2 * 20
