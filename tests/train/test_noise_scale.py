"""The gradient noise scale: McCandlish et al.'s formulas, unbiased on known noise, without an extra pass over the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from builders.training_runs import batch_at, begin, curriculum, train
from hypothesis import given
from hypothesis import strategies as st

from midstudy.model.language_model import LanguageModel
from midstudy.train.noise_scale import estimate, partial_sums


@given(
    st.lists(st.floats(0.1, 10), min_size=2, max_size=8),
    st.integers(1, 64),
    st.floats(0.01, 10),
)
def test_equal_micro_batches_give_the_published_formulas(norms: list[float], size: int, batch_norm: float) -> None:
    number = len(norms)
    contributions = [torch.tensor(norm / number, dtype=torch.float64) for norm in norms]  # mean gradient times share
    estimates = estimate(
        partial_sums(contributions, [size] * number, [1 / number] * number), torch.tensor(batch_norm, dtype=torch.float64)
    )
    small_square, large_square = float(np.mean(np.square(norms))), batch_norm**2
    large = number * size
    squared = (large * large_square - size * small_square) / (large - size)
    trace = (small_square - large_square) / (1 / size - 1 / large)
    assert estimates.tolist() == pytest.approx([trace, squared], rel=1e-5, abs=1e-5)


def test_the_estimates_are_unbiased_for_known_noise() -> None:
    """Gradients are G plus noise of covariance Σ: tr(Σ) = 30 · 4, |G|² = 30 · 0.25; also with unequal micro-batches."""
    random = np.random.default_rng(0)
    dims, true, deviation = 30, 0.5, 2.0
    for sizes in ([4, 4, 4, 4], [1, 3, 4, 8]):
        estimates = []
        for _ in range(4_000):
            each = true + deviation * random.standard_normal((16, dims))
            pieces = np.split(each, np.cumsum(sizes)[:-1])
            shares = [size / 16 for size in sizes]
            norms = [torch.tensor(np.linalg.norm(p.mean(axis=0)) * share) for p, share in zip(pieces, shares, strict=True)]
            batch_norm = torch.tensor(np.linalg.norm(each.mean(axis=0)))
            estimates.append(estimate(partial_sums(norms, sizes, shares), batch_norm).numpy())
        trace, squared = np.mean(estimates, axis=0)
        assert trace == pytest.approx(dims * deviation**2, rel=0.02)
        assert squared == pytest.approx(dims * true**2, rel=0.06)


def test_a_single_micro_batch_gives_no_estimate() -> None:
    assert all("gradient_noise_trace" not in metrics for metrics in train(begin(), curriculum(), 3))


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed", "bf16_true"])
def test_an_update_reports_the_formulas_for_its_micro_batches(precision: str) -> None:
    """Compared with separately computed gradients of each micro-batch and of the whole batch."""
    (metrics,) = train(begin(precision, micro_batch=2), curriculum(precision), 1)
    model, batch = begin(precision).model, batch_at(0)
    means: list[torch.Tensor] = []
    total = torch.zeros(())
    for first in range(0, 8, 2):
        piece = batch.rows(first, first + 2)
        gradient = _gradient(model, piece.input_ids, piece.targets, scale=1.0 / piece.num_targets)
        means.append(gradient)
        total = total + gradient * (piece.num_targets / batch.num_targets)
    shares = [batch.rows(first, first + 2).num_targets / batch.num_targets for first in range(0, 8, 2)]
    small, large = np.mean([float(g.norm()) ** 2 for g in means]), float(total.norm()) ** 2
    inverse_small, inverse_large = 1 / 2, sum(share**2 / 2 for share in shares)
    trace = (small - large) / (inverse_small - inverse_large)
    tolerance = 1e-4 if precision == "fp32" else 0.03
    assert metrics["gradient_noise_trace"] == pytest.approx(trace, rel=tolerance)
    assert metrics["gradient_squared_norm"] == pytest.approx(
        large - inverse_large * trace, rel=tolerance, abs=tolerance * large
    )
    if metrics["gradient_squared_norm"] > 0:
        ratio = metrics["gradient_noise_trace"] / metrics["gradient_squared_norm"]
        assert metrics["noise_scale_sequences"] == pytest.approx(ratio)


def _gradient(model: LanguageModel, input_ids: np.ndarray, targets: np.ndarray, *, scale: float) -> torch.Tensor:
    parameters = list(model.parameters())
    loss = model.scaled_loss(torch.from_numpy(input_ids), torch.from_numpy(targets), scale=scale)
    return torch.cat([gradient.float().flatten() for gradient in torch.autograd.grad(loss, parameters)])


def test_the_estimate_needs_no_extra_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    original = LanguageModel.scaled_loss

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        passes.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(LanguageModel, "scaled_loss", counted)
    train(begin(micro_batch=2), curriculum(), 3)
    assert len(passes) == 3 * 4
