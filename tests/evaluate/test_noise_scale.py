"""The gradient noise scale of a state: unbiased against the covariance of the gradients of every sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.small_recipes import GENERAL, PYCODE
from builders.training_runs import VOCAB_SIZE, begin, curriculum, train
from numpy.typing import NDArray

from midstudy.data.batch import Batch
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate import noise_scale
from midstudy.evaluate.model_cache import load_model
from midstudy.evaluate.noise_scale import noise_estimates
from midstudy.execute.evaluation import evaluate_state
from midstudy.model.language_model import LanguageModel
from midstudy.recipe import NoiseScale
from midstudy.recipe.errors import RecipeError

SEQ_LEN = 12
RECIPE = NoiseScale(data=GENERAL, split="test", seq_len=SEQ_LEN, num_batches=2, small=1, large=4, seed=3)


def blocks(number: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(1)
    drawn = rng.integers(1, VOCAB_SIZE // 4, size=(number, SEQ_LEN + 1))
    drawn[:, 1::2] = drawn[:, :-1:2] + 1
    return drawn


def batch_of(rows: NDArray[np.int64]) -> Batch:
    return Batch(input_ids=np.ascontiguousarray(rows[:, :-1]), targets=np.ascontiguousarray(rows[:, 1:]))


def gradients(model: LanguageModel, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the gradient of the mean loss of each row, of shape (rows, parameters)."""
    found = []
    for row in rows:
        model.zero_grad()
        logits = model(torch.from_numpy(row[None, :-1]))
        torch.nn.functional.cross_entropy(logits[0], torch.from_numpy(row[1:])).backward()
        every = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        found.append(torch.cat(every).double().numpy())
    return np.stack(found)


@pytest.mark.parametrize(("small", "large"), [(1, 2), (1, 4), (2, 4), (1, 6)])
def test_the_estimates_over_all_draws_are_the_covariance_and_the_squared_mean(small: int, large: int) -> None:
    """Of six sequences, every draw of `large`: the mean of unbiased estimates is what they estimate, exactly.

    For draws without replacement from N, E|mean of n|² = |G|² + tr(S) (1/n − 1/N), where S has the divisor N − 1; so the
    estimate of tr(Σ) has the mean tr(S), and that of |G|² the mean |G|² − tr(S) / N.
    """
    run = begin()
    train(run, curriculum(), 6)
    rows = blocks(6)
    each = gradients(run.model, rows)
    spread = each.var(axis=0, ddof=1).sum()
    squared = (each.mean(axis=0) ** 2).sum() - spread / len(rows)
    # In each draw, every order of cutting it into small batches counts the same.
    draws = [rows[list(one)] for one in combinations(range(6), large)]
    cut = draws if small == 1 else [draw[order] for draw in draws for order in ([0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2])]
    estimates = noise_estimates(run.model, map(batch_of, cut), small=small)
    assert estimates.mean(axis=0) == pytest.approx([spread, squared], rel=1e-4)
    assert estimates.std(axis=0).min() > 0 or large == 6


def split_of(rows: NDArray[np.int64]) -> TokenizedSplit:
    flat = rows.flatten().astype(np.uint16)
    return TokenizedSplit([flat], [np.array([0, len(flat)], np.int64)], None)


def evaluated(folder: Path, recipe: NoiseScale, rows: NDArray[np.int64], precision: str = "fp32") -> dict[str, Any]:
    if not (folder / "checkpoint").exists():
        run = begin(precision)
        train(run, curriculum(precision), 4)
        run.save(folder / "checkpoint", with_optimizer=False)
    return evaluate_state(
        recipe, checkpoint=folder / "checkpoint", split=split_of(rows), tokenizer=pytest.fail, folder=folder
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16_mixed", 0.1), ("bf16_true", 0.1)])
def test_every_block_is_drawn_once_and_the_means_are_divided(tmp_path: Path, precision: str, tolerance: float) -> None:
    """Eight blocks in two batches of four: the mean squared norms of single blocks and of the two halves."""
    rows = blocks(8)
    found = evaluated(tmp_path, RECIPE, rows, precision)
    each = gradients(load_model(tmp_path / "checkpoint", precision="fp32"), rows)
    small = (each**2).sum(axis=1).mean()

    def estimates(halves: Sequence[Sequence[int]]) -> tuple[float, float]:
        large = np.mean([(each[list(half)].mean(axis=0) ** 2).sum() for half in halves])
        return float((small - large) / (1 - 1 / 4)), float((4 * large - small) / (4 - 1))

    possible = [estimates([half, [*({*range(8)} - {*half})]]) for half in combinations(range(8), 4) if 0 in half]
    trace, squared = found["gradient_noise_trace"], found["gradient_squared_norm"]
    assert min(abs(trace / a - 1) + abs(squared / b - 1) for a, b in possible) < 2 * tolerance
    assert found["noise_scale_sequences"] == trace / squared
    others = [evaluated(tmp_path, replace(RECIPE, seed=seed), rows, precision)["gradient_noise_trace"] for seed in range(4)]
    assert len({trace, *others}) > 2
    assert evaluated(tmp_path, RECIPE, rows, precision)["gradient_noise_trace"] == trace


def test_a_squared_norm_that_is_not_above_0_gives_no_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_scale, "noise_estimates", lambda *_, **__: np.array([[4.0, 1.0], [6.0, -2.0]]))
    found = evaluated(tmp_path, RECIPE, blocks(8))
    assert (found["gradient_noise_trace"], found["gradient_squared_norm"]) == (5.0, -0.5)
    assert math.isnan(found["noise_scale_sequences"])


def test_too_few_blocks_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"noise_scale\.general: expected 8 blocks of 13 tokens, .* got 7 in test"):
        evaluated(tmp_path, RECIPE, blocks(7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": PYCODE}, r"noise_scale\.pycode\.data: expected a corpus"),
        ({"large": 1}, r"noise_scale\.general\.large: expected a multiple of small, 1 sequences, and larger, got 1"),
        ({"small": 3}, r"noise_scale\.general\.large: expected a multiple of small"),
        ({"num_batches": 0}, r"noise_scale\.general\.num_batches"),
        ({"seed": -1}, r"noise_scale\.general\.seed"),
    ],
)
def test_a_recipe_that_cannot_be_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(RECIPE, **change)


def test_the_cost_counts_the_backward_pass() -> None:
    assert RECIPE.num_tokens == 3 * 2 * 4 * SEQ_LEN
