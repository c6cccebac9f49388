"""MixMin's weights: a planted mixture is found, and the minimum is that of an independent solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from midstudy.analysis.convex_weights import convex_weights

Array = NDArray[np.float64]


def loss(weights: Array, nats: Array, num_tokens: Array) -> float:
    """The objective, in the words of the paper: the mixture's mean loss a token, an item at a time."""
    per_item = [
        -math.log(sum(w * math.exp(-x) for w, x in zip(weights, column, strict=True))) / n
        for column, n in zip(nats.T, num_tokens, strict=True)
    ]
    return sum(per_item) / len(per_item)


def items(rng: np.random.Generator, num_experts: int, num_items: int) -> tuple[Array, Array]:
    num_tokens = rng.integers(1, 20, num_items).astype(float)
    return rng.uniform(0.5, 2.0, (num_experts, num_items)) * num_tokens, num_tokens


@pytest.mark.parametrize("seed", range(5))
def test_the_minimum_is_that_of_an_independent_solver(seed: int) -> None:
    nats, num_tokens = items(np.random.default_rng(seed), 4, 30)
    found = convex_weights(nats, num_tokens, tolerance_nats=1e-9)
    other = minimize(
        loss,
        np.full(4, 0.25),
        args=(nats, num_tokens),
        method="SLSQP",
        bounds=[(1e-12, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1_000},
    )
    assert found.weights.sum() == pytest.approx(1.0)
    assert (found.weights >= 0).all()
    assert found.loss_nats == pytest.approx(loss(found.weights, nats, num_tokens), abs=1e-10)
    assert found.loss_nats == pytest.approx(other.fun, abs=1e-6)
    assert found.weights == pytest.approx(other.x, abs=2e-3)


def test_the_shares_of_a_planted_mixture_are_found() -> None:
    # Each item is drawn from one of three experts over disjoint alphabets, of which an expert knows its own alone.
    shares = np.array([0.5, 0.3, 0.2])
    source = np.repeat(np.arange(3), (500, 300, 200))
    nats = np.where(np.arange(3)[:, None] == source, 2.0, 40.0)
    found = convex_weights(nats, np.ones(source.size))
    assert found.weights == pytest.approx(shares, abs=1e-3)


def test_an_expert_that_is_best_on_every_item_has_all_the_weight() -> None:
    nats = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = convex_weights(nats, np.array([1.0, 2.0, 3.0]))
    assert found.weights[0] > 0.999
    assert found.loss_nats == pytest.approx(1.0, abs=1e-5)


def test_the_stated_gap_bounds_the_distance_from_the_minimum() -> None:
    nats, num_tokens = items(np.random.default_rng(7), 5, 40)
    best = convex_weights(nats, num_tokens, tolerance_nats=1e-10).loss_nats
    for tolerance in (1e-1, 1e-2, 1e-4):
        rough = convex_weights(nats, num_tokens, tolerance_nats=tolerance)
        assert 0 <= rough.loss_nats - best <= rough.gap_nats + 1e-12 <= tolerance + 1e-12


def test_items_of_thousands_of_nats_do_not_underflow() -> None:
    nats, num_tokens = np.array([[5_000.0, 9_000.0], [5_001.0, 8_000.0]]), np.array([1_000.0, 2_000.0])
    found = convex_weights(nats, num_tokens, tolerance_nats=1e-9)
    # of 2 · log(w + (1 − w) / e) + log(1 − w), the weights of the items being 1 / 1,000 and 1 / 2,000
    assert found.weights[1] == pytest.approx(1 / (3 * (1 - math.exp(-1))), abs=1e-3)


@pytest.mark.parametrize(
    ("nats", "num_tokens"),
    [
        (np.zeros((0, 3)), np.ones(3)),
        (np.zeros((2, 0)), np.ones(0)),
        (np.zeros((2, 3)), np.ones(2)),
        (np.array([[1.0, np.inf]]), np.ones(2)),
        (np.ones((2, 2)), np.array([1.0, 0.0])),
    ],
)
def test_what_cannot_be_mixed_is_an_error(nats: Array, num_tokens: Array) -> None:
    with pytest.raises(ValueError, match="expected"):
        convex_weights(nats, num_tokens)
