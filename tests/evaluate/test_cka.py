"""Linear CKA agrees with HSIC on raw activations, and has the properties that its source states."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ortho_group

from midstudy.evaluate.cka import LinearCKA

Layers = list[NDArray[np.float64]]


def by_hsic(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return CKA from the examples × examples kernels and the centring matrix: tr(KHLH) / √(tr(KHKH) tr(LHLH))."""
    number = len(left)
    centring = np.eye(number) - np.full((number, number), 1 / number)
    k, h = left @ left.T @ centring, right @ right.T @ centring
    return float(np.trace(k @ h) / np.sqrt(np.trace(k @ k) * np.trace(h @ h)))


def cka_of(left: Layers, right: Layers, *, cuts: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """Return the matrix of layers given as arrays (num_examples, width), added in batches that end at `cuts`."""
    cka = LinearCKA()
    edges = [0, *cuts, len(left[0])]
    for first, stop in pairwise(edges):
        cka.add(*([torch.from_numpy(layer[first:stop]) for layer in side] for side in (left, right)))
    assert cka.num_examples == len(left[0])
    return cka.matrix()


def activations(seed: int, *widths: int, num_examples: int = 40) -> Layers:
    """Return layers that share a signal, with a mean far from 0."""
    random = np.random.default_rng(seed)
    signal = np.random.default_rng(99).normal(size=(num_examples, 3))
    return [
        50 + signal @ random.normal(size=(3, width)) + 0.3 * random.normal(size=(num_examples, width)) for width in widths
    ]


@pytest.mark.parametrize("cuts", [(), (1, 2, 17)], ids=["one batch", "four batches"])
def test_every_pair_of_layers_has_the_cka_of_its_raw_activations(cuts: tuple[int, ...]) -> None:
    left, right = activations(1, 4, 5, 6), activations(2, 7, 3)
    matrix = cka_of(left, right, cuts=cuts)
    assert matrix.shape == (3, 2)
    assert matrix == pytest.approx(np.array([[by_hsic(a, b) for b in right] for a in left]), rel=1e-10)
    assert 0.2 < matrix.min() < matrix.max() < 0.99


def test_more_examples_than_are_held_at_a_time_give_the_same() -> None:
    left, right = activations(1, 3, num_examples=5_000), activations(2, 2, num_examples=5_000)
    a, b = left[0] - left[0].mean(axis=0), right[0] - right[0].mean(axis=0)
    expected = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert cka_of(left, right)[0, 0] == pytest.approx(expected, rel=1e-10)


def test_one_of_two_equally_strong_directions_gives_one_over_root_two() -> None:
    u, v = np.array([1.0, -1, 0, 0]), np.array([0.0, 0, 1, -1])
    both, rotated, first = np.stack([u, v], axis=1), np.stack([u + v, u - v], axis=1), u[:, None]
    matrix = cka_of([both, rotated, first], [first, v[:, None]])
    assert matrix == pytest.approx(np.array([[2**-0.5, 2**-0.5], [2**-0.5, 2**-0.5], [1, 0]]), abs=1e-15)


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(2, 6), st.floats(1e-3, 1e3))
def test_cka_does_not_see_orthogonal_maps_scales_and_shifts(seed: int, width: int, scale: float) -> None:
    left, right = activations(seed, width), activations(seed + 1, 4)
    mapped = [scale * left[0] @ ortho_group.rvs(width, random_state=seed) + seed % 7]
    assert cka_of(mapped, right) == pytest.approx(cka_of(left, right), rel=1e-8)
    assert cka_of(left, mapped) == pytest.approx(1, rel=1e-8)


@given(SEEDS)
def test_cka_is_symmetric_and_between_0_and_1(seed: int) -> None:
    left, right = activations(seed, 3, 5), activations(seed + 1, 4, 2)
    matrix = cka_of(left, right)
    assert matrix == pytest.approx(cka_of(right, left).T, rel=1e-12)
    assert ((matrix >= 0) & (matrix <= 1)).all()
    assert np.diag(cka_of(left, left)) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("number", [1, 5])
def test_examples_that_are_all_alike_are_rejected(number: int) -> None:
    varying, constant = activations(1, 3, num_examples=number), [np.full((number, 2), 0.1)]
    with pytest.raises(ValueError, match=f"expected representations that vary, got {number} examples that are all alike"):
        cka_of(varying, constant)


def test_no_examples_are_rejected() -> None:
    with pytest.raises(ValueError, match="got 0 examples"):
        LinearCKA().matrix()
