"""Losses are means over tokens, independent of batching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from builders.training_runs import batch_at, begin, curriculum, train

from midstudy.data.batch import Batch
from midstudy.evaluate.loss import mean_loss
from midstudy.evaluate.model_cache import load_model


def by_hand(batch: Batch) -> tuple[float, int]:
    """Return the sum of -log softmax at each target, in fp64 NumPy, and the number of targets."""
    with torch.no_grad():
        logits = begin().model(torch.from_numpy(batch.input_ids)).double().numpy()
    logits -= logits.max(axis=-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    rows, columns = np.nonzero(batch.targets != -100)
    return -log_probabilities[rows, columns, batch.targets[rows, columns]].sum(), len(rows)


def uneven_batches() -> list[Batch]:
    short = batch_at(0, num_sequences=1, length=8)
    return [batch_at(2, num_sequences=6, length=64), short]


def test_the_mean_is_over_tokens() -> None:
    batches = uneven_batches()
    (nats, tokens), (short_nats, short_tokens) = (by_hand(batch) for batch in batches)
    loss = mean_loss(begin().model, batches)
    assert loss.num_tokens == tokens + short_tokens
    assert loss.loss_nats == pytest.approx((nats + short_nats) / (tokens + short_tokens), rel=1e-6)


def test_the_mean_is_not_the_mean_of_batch_means() -> None:
    batches = uneven_batches()
    means = [mean_loss(begin().model, [batch]).loss_nats for batch in batches]
    assert abs(mean_loss(begin().model, batches).loss_nats - sum(means) / 2) > 1e-3


def test_batching_does_not_matter() -> None:
    batch = batch_at(5)
    rows = [Batch(input_ids=batch.input_ids[i : i + 1], targets=batch.targets[i : i + 1]) for i in range(8)]
    whole, single = mean_loss(begin().model, [batch]), mean_loss(begin().model, rows)
    assert single.num_tokens == whole.num_tokens
    assert single.loss_nats == pytest.approx(whole.loss_nats, rel=1e-6)


def test_batches_without_targets_are_an_error() -> None:
    ids = np.zeros((2, 8), np.int64)
    with pytest.raises(ValueError, match="no target token"):
        mean_loss(begin().model, [Batch(input_ids=ids, targets=np.full((2, 8), -100))])


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed", "bf16_true"])
def test_a_loaded_model_has_the_loss_of_the_trained_one(precision: str, tmp_path: Path) -> None:
    run = begin(precision)
    train(run, curriculum(precision), 4)
    live = mean_loss(run.model, [batch_at(30)])
    run.save(tmp_path / "state", with_optimizer=False)
    assert mean_loss(load_model(tmp_path / "state"), [batch_at(30)]) == live
    in_fp32 = mean_loss(load_model(tmp_path / "state", precision="fp32"), [batch_at(30)])
    assert in_fp32.loss_nats == pytest.approx(live.loss_nats, rel=5e-3)


def test_evaluation_does_not_affect_training() -> None:
    undisturbed, evaluated = begin(), begin()
    expected = train(undisturbed, curriculum(), 8)
    metrics = train(evaluated, curriculum(), 4)
    mean_loss(evaluated.model, [batch_at(40)])
    metrics += train(evaluated, curriculum(), 8)
    assert [m["loss_nats"] for m in metrics] == [m["loss_nats"] for m in expected]
